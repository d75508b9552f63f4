"""A disk that brings the node's configuration: it is looked for, and read, in a copy of PID 1.

| it is called | what is read |
|---|---|
| `aurae-config`, the partition or what is on it; `AURAECONFIG` on vfat | `aurae.toml` |
| `cidata` (cloud-init's NoCloud), else | `aurae.toml`, or `user-data` with `#aurae-config` first |
"""

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Final

from initd.boot import copies
from initd.boot.disks import block_devices, content
from initd.boot.modules import Modules, find_modaliases
from initd.linux.mount import MountFlag, mount, umount
from initd.values import NamedTuple

# Seconds that a disk may take to appear which is waited for, and then to be mounted and read.
PATIENCE: Final = 30.0
READING: Final = 30.0
_POLL: Final = 0.02
DOCUMENT: Final = "/run/aurae/config/disk.toml"
SIZE_LIMIT: Final = 1 << 20
FIRST_LINE: Final = b"#aurae-config"

# Names without what a kind of file system may not have in them, in the order in which they count.
_NAMES: Final = ("auraeconfig", "cidata")
_ASIDE: Final = "/run/aurae/config.disk"
_BLOCK: Final = "/sys/class/block"
_NO_DISKS: Final = ("ram", "loop", "zram", "pmem", "nbd", "fd", "dm-", "md")
# Partitions of the image: what they are called is what they are.
_OURS: Final = ("aurae-esp", "aurae-attempts", "aurae-root", "aurae-verity", "aurae-data")
_MODULES: Final = {
    "ext4": ("ext4",),
    "vfat": ("vfat", "nls_cp437", "nls_ascii", "nls_iso8859-1"),
    "iso9660": ("isofs", "nls_utf8"),
}
# What one look has brought forth may need drivers in turn.
_LOOKS: Final = 8


class Found(NamedTuple):
    """A device that is called so, and its file system."""

    device: str
    name: str
    fstype: str


def look(*, waits: bool, but: str = "", folder: str = _BLOCK) -> tuple[str, tuple[str, ...]]:
    """Put what a configuration disk has at DOCUMENT: returns (the disk or nothing, problems).

    `waits`: it may still have to appear, and drivers are loaded for it. Else, where the disks are
    the node's own, it takes no more than a look at their names; `but` is one that is known."""
    if not waits and not any(candidates(block_devices(folder), but)):
        return "", ()
    return _in_copy(lambda: _search(waits=waits, but=but))


def candidates(devices: Iterable[Mapping[str, str]], but: str = "") -> Iterator[Mapping[str, str]]:
    """What may be such a disk: what has no partitions, or is a partition that is not ours."""
    devices = list(devices)
    divided = {device["DISK"] for device in devices if "DISK" in device}
    for device in devices:
        name = device["DEVNAME"].rpartition("/")[2]
        if name.startswith(_NO_DISKS) or name in divided or f"/dev/{name}" == but:
            continue
        if not device.get("PARTNAME", "").startswith(_OURS):
            yield device


def find(devices: Iterable[Mapping[str, str]], folder: str = "/dev", but: str = "") -> Found | None:
    """The one that counts. May block."""
    found: dict[str, Found] = {}
    for device in candidates(devices, but):
        path = f"{folder}/{device['DEVNAME']}"
        fstype, label = file_system(path)
        if fstype:
            for name in map(plain, (device.get("PARTNAME", ""), label)):
                found.setdefault(name, Found(path, name, fstype))
    return next((found[name] for name in _NAMES if name in found), None)


def plain(label: str) -> str:
    return "".join(filter(str.isalnum, label)).lower()


def file_system(path: str) -> tuple[str, str]:
    """(kind, label) of what is on a device; empty for what we know nothing of. May block.

    ISO 9660 (ECMA-119, 8.4): the volume's name is in the descriptor at 32 KiB. FAT: in the boot
    sector, at 71 of FAT32 and at 43 of the others, unless it is NO NAME."""
    known = content(path)
    if known.kind:
        return (known.kind, known.label) if known.kind in _MODULES else ("", "")
    try:
        with open(path, "rb", buffering=0) as file:
            start = file.read(512)
            file.seek(0x8000)
            volume = file.read(72)
    except OSError:
        return "", ""
    if volume[:7] == b"\x01CD001\x01":
        return "iso9660", volume[40:72].decode("ascii", errors="replace").strip()
    if start[510:512] == b"\x55\xaa":
        for kind, name in ((82, 71), (54, 43)):
            if start[kind : kind + 3] == b"FAT":
                return "vfat", start[name : name + 11].decode("ascii", errors="replace").strip()
    return "", ""


def document(root: str, found: Found) -> tuple[bytes, str]:
    """(the document in the file system at `root`, its file's name); of cidata it may have none,
    which is empty then. LookupError: it should have one."""
    with suppress(FileNotFoundError):
        return _read(f"{root}/aurae.toml"), "aurae.toml"
    if found.name != "cidata":
        raise LookupError(f"{found.device}: has no aurae.toml; put the document there")
    with suppress(FileNotFoundError):
        text = _read(f"{root}/user-data")
        if text.startswith(FIRST_LINE):
            return text, "user-data"
    return b"", ""


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read(SIZE_LIMIT + 1)


def _in_copy(work: Callable[[], str]) -> tuple[str, tuple[str, ...]]:
    """What `work` says, or the LookupError that it raises, in a copy of this process."""
    copy = copies.start(lambda tell: _tell(work, tell))
    try:
        said = tuple(copies.lines(copy, PATIENCE + READING, READING))
    except TimeoutError:
        return "", ("a disk does not answer; none is used",)
    return (said[0], tuple(filter(None, said[1:]))) if said else ("", ())


def _tell(work: Callable[[], str], tell: copies.Tell) -> None:
    said, problem = "", ""
    try:
        said = work()
    except LookupError as e:
        problem = " ".join(map(str, e.args))
    except OSError as e:
        problem = f"{e.filename or 'disk'}: {e.strerror}; it is not used"
    tell(f"{said}\n{problem}\n")


def _search(*, waits: bool, but: str) -> str:
    modules = Modules()
    deadline = time.monotonic() + (PATIENCE if waits else 0.0)
    looks = 0
    while True:
        loaded: list[str] = []
        if waits:
            from initd.boot.data import is_storage

            loaded, _ = modules.for_aliases(filter(is_storage, find_modaliases()))
        found = find(block_devices(_BLOCK), but=but)
        if found is not None:
            return take(found, modules)
        looks += 1
        if time.monotonic() >= deadline and (not loaded or looks >= _LOOKS):
            break
        if not loaded:
            time.sleep(_POLL)
    if waits:
        raise LookupError(
            f"no disk is called aurae-config or cidata after {PATIENCE:g} s; attach one, or leave "
            "out aurae.config-disk"
        )
    return ""


def take(found: Found, modules: Modules) -> str:
    """Have its document at DOCUMENT; returns what to say of it. OSError, LookupError."""
    modules.load(*_MODULES[found.fstype])
    os.makedirs(_ASIDE, mode=0o700, exist_ok=True)
    flags = MountFlag.RDONLY | MountFlag.NOSUID | MountFlag.NODEV | MountFlag.NOEXEC
    mount(found.device, _ASIDE, found.fstype, flags)
    try:
        text, name = document(_ASIDE, found)
    finally:
        umount(_ASIDE)
        os.rmdir(_ASIDE)
    if not text:
        return ""
    os.makedirs(os.path.dirname(DOCUMENT), mode=0o700, exist_ok=True)
    with open(DOCUMENT, "wb", opener=lambda path, flags: os.open(path, flags, 0o400)) as file:
        file.write(text)
    return f"{found.device} {name}"
