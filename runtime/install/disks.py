"""The disks of this machine, as sysfs shows them, and what their first bytes look like."""

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from runtime.install.model import Disk, Part

BLOCK: Final = Path("/sys/class/block")
_PROC: Final = Path("/proc")
_DEV: Final = Path("/dev")

# What else is a block device: parts of memory, files, what is made of disks, other drives, and what
# a memory card has beside its ground for partitions.
_NO_DISK: Final = re.compile(r"(ram|zram|loop|dm-|md|sr|fd|nbd)\d|mmcblk\d+(boot|rpmb|gp)\d*")
# sysfs counts in these, whatever the disk does.
_SECTOR: Final = 512

# Where each kind of content has its mark. The order is that of trust: a file system's may stand
# behind a boot sector. Layouts: the kernel's fs/*, util-linux' libblkid.
MARKS: Final[tuple[tuple[str, int, bytes], ...]] = (
    ("gpt", 512, b"EFI PART"),
    ("gpt", 4096, b"EFI PART"),
    ("LUKS", 0, b"LUKS\xba\xbe"),
    ("verity", 0, b"verity\0\0"),
    ("xfs", 0, b"XFSB"),
    ("squashfs", 0, b"hsqs"),
    ("erofs", 1024, b"\xe2\xe1\xf5\xe0"),
    ("ext4", 1024 + 0x38, b"\x53\xef"),
    ("btrfs", 0x10040, b"_BHRfS_M"),
    ("swap", 4086, b"SWAPSPACE2"),
    ("LVM", 0x218, b"LVM2 001"),
    ("RAID", 4096, b"\xfc\x4e\x2b\xa9"),
    ("iso9660", 0x8001, b"CD001"),
    ("ntfs", 3, b"NTFS    "),
    ("vfat", 0x52, b"FAT32"),
    ("vfat", 0x36, b"FAT1"),
    ("dos", 510, b"\x55\xaa"),
)
_LOOK: Final = 0x11000


class Disks:
    """Looking may block for as long as a disk does."""

    def __init__(self, folder: Path = BLOCK, proc: Path = _PROC, dev: Path = _DEV) -> None:
        self._folder = folder
        self._proc = proc
        self._dev = dev

    def list(self) -> "tuple[Disk, ...]":
        """All of them, by name. Those that vanish meanwhile are left out."""
        mounts, swaps = self._mounts(), self._swaps()
        found = []
        for entry in sorted(self._folder.iterdir()):
            if _NO_DISK.match(entry.name) or (entry / "partition").exists():
                continue
            # No medium in it, or it is gone.
            if _number(entry / "size"):
                with suppress(OSError):
                    found.append(self._disk(entry, mounts, swaps))
        return tuple(found)

    def sequence(self, path: str) -> int:
        """0: there is no such disk."""
        return _number(self._folder / Path(path).name / "diskseq")

    def _disk(self, entry: Path, mounts: Mapping[str, str], swaps: Mapping[str, str]) -> Disk:
        real = entry.resolve()
        parts = tuple(
            Part(
                path=f"/dev/{part.name}",
                label=_uevent(part).get("PARTNAME", ""),
                size=_number(part / "size") * _SECTOR,
                content=self._content(part.name),
                used_by=tuple(self._uses(part, mounts, swaps)),
            )
            for part in _partitions(real)
        )
        own = tuple(self._uses(entry, mounts, swaps))
        vendor = _text(entry / "device/vendor")
        # On some buses it is a number.
        vendor = "" if vendor.startswith("0x") else vendor
        return Disk(
            path=f"/dev/{entry.name}",
            sequence=_number(entry / "diskseq"),
            size=_number(entry / "size") * _SECTOR,
            sector=_number(entry / "queue/logical_block_size"),
            model=" ".join((vendor, _text(entry / "device/model"))).strip(),
            serial=_serial(entry),
            removable=_text(entry / "removable") == "1",
            read_only=_text(entry / "ro") == "1",
            content=self._content(entry.name),
            used_by=(*own, *(use for part in parts for use in part.used_by)),
            parts=parts,
        )

    def _content(self, name: str) -> str:
        try:
            with (self._dev / name).open("rb", buffering=0) as file:
                return content(file.read(_LOOK))
        except OSError:
            return ""

    def _uses(
        self, entry: Path, mounts: Mapping[str, str], swaps: Mapping[str, str]
    ) -> Iterator[str]:
        number = _text(entry / "dev")
        if number in mounts:
            yield f"mounted on {mounts[number]}"
        if entry.name in swaps:
            yield "swap"
        with suppress(OSError):
            for holder in sorted((entry / "holders").iterdir()):
                yield holder.name
                yield from self._uses(self._folder / holder.name, mounts, swaps)

    def _mounts(self) -> dict[str, str]:
        """Where each device is mounted, by its number: the shortest path, if in several places."""
        found: dict[str, str] = {}
        for line in _text(self._proc / "self/mountinfo").splitlines():
            _, _, number, _, place, *_ = line.split(" ")
            if number not in found or len(place) < len(found[number]):
                found[number] = place
        return found

    def _swaps(self) -> dict[str, str]:
        lines = _text(self._proc / "swaps").splitlines()[1:]
        return {Path(line.split()[0]).name: "swap" for line in lines}


def content(begin: bytes) -> str:
    """What a disk or partition holds that begins like this; empty: nothing that is known."""
    for name, at, mark in MARKS:
        if begin[at : at + len(mark)] == mark:
            return name
    return ""


def _partitions(disk: Path) -> Iterator[Path]:
    found = [entry for entry in disk.iterdir() if (entry / "partition").exists()]
    yield from sorted(found, key=lambda entry: _number(entry / "partition"))


def _serial(entry: Path) -> str:
    """Where NVMe and virtio tell it, or a SCSI disk's page for it (SPC-4, 7.8.16)."""
    for name in ("device/serial", "serial"):
        if text := _text(entry / name):
            return text
    try:
        page = (entry / "device/vpd_pg80").read_bytes()
    except OSError:
        return ""
    return page[4:].decode("ascii", errors="replace").strip("\0 ")


def _uevent(entry: Path) -> dict[str, str]:
    lines = (line.partition("=") for line in _text(entry / "uevent").splitlines())
    return {key: value for key, _, value in lines}


def _number(path: Path) -> int:
    text = _text(path)
    return int(text) if text.isdecimal() else 0


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""
