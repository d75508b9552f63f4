"""Disks of this host, as lsblk(8) shows them."""

import json
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from aer import output
from aer.errors import AerError

_COLUMNS: Final = (
    *("PATH", "SIZE", "TYPE", "FSTYPE", "PTTYPE", "LABEL", "PARTLABEL", "MOUNTPOINTS"),
    *("MODEL", "SERIAL", "RM", "RO", "TRAN"),
)
# What lies on a disk without using it.
_GROUND: Final = frozenset({"disk", "part", "loop", "rom"})


@dataclass(frozen=True, slots=True)
class Part:
    """A partition, or what is made of one: an opened LUKS, a logical volume."""

    path: str
    size: int
    label: str
    content: str
    uses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class HostDisk:
    path: str
    size: int
    about: tuple[str, ...]
    """What tells it from others: model, serial number, how it is attached."""
    content: str
    parts: tuple[Part, ...]
    uses: tuple[str, ...]
    """Where it or something on it is mounted, or which device it belongs to."""

    def lines(self) -> Iterable[str]:
        yield ", ".join((f"{self.path}: {size(self.size)}", *self.about))
        if not self.parts:
            yield f"  {self.content or 'nothing known'} is on it"
            return
        rows = [
            (f"  {part.path}", size(part.size), part.label or "-", part.content or "-")
            for part in self.parts
        ]
        yield from output.table(("  PARTITION", "SIZE", "LABEL", "CONTENT"), rows, right="SIZE")


def look(path: str) -> HostDisk:
    """What is on the disk at `path`. AerError: lsblk does not know it."""
    command = ["lsblk", "--json", "--bytes", "--output", ",".join(_COLUMNS), "--", path]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError as e:
        raise AerError(
            "lsblk: not found, so what is on the disk cannot be shown", "install util-linux"
        ) from e
    if done.returncode:
        raise AerError(
            f"{path}: {done.stderr.strip().rpartition(': ')[2] or 'cannot be looked at'}"
        )
    return parse(json.loads(done.stdout)["blockdevices"][0])


def parse(found: dict[str, Any]) -> HostDisk:
    """From the JSON of lsblk."""
    about = (
        " ".join((found["model"] or "").split()),
        f"serial {found['serial']}" if found["serial"] else "",
        found["tran"] or "",
        "removable" if found["rm"] else "not removable",
        "read-only" if found["ro"] else "",
    )
    parts = tuple(_parts(found))
    return HostDisk(
        path=found["path"],
        size=found["size"],
        about=tuple(filter(None, about)),
        content=_content(found),
        parts=parts,
        uses=(*_uses(found), *(use for part in parts for use in part.uses)),
    )


def _parts(found: dict[str, Any]) -> Iterator[Part]:
    for child in found.get("children", ()):
        label = child["partlabel"] or child["label"] or ""
        yield Part(child["path"], child["size"], label, _content(child), _uses(child))
        yield from _parts(child)


def _content(found: dict[str, Any]) -> str:
    table = f"partition table ({found['pttype']})" if found["type"] != "part" else ""
    return found["fstype"] or (table if found["pttype"] and table else "")


def _uses(found: dict[str, Any]) -> tuple[str, ...]:
    mounted = [f"mounted on {place}" for place in found["mountpoints"] if place]
    mounted = ["swap" if place == "mounted on [SWAP]" else place for place in mounted]
    made = [] if found["type"] in _GROUND else [f"{found['path']} ({found['type']})"]
    return tuple(mounted + made)


def size(count: int) -> str:
    """Bytes, for people."""
    value, unit = float(count), "bytes"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{value:.0f} {unit}" if unit == "bytes" or value >= 100 else f"{value:.1f} {unit}"
