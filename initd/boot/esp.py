"""The EFI system partition: which versions the boot loader may start, and which one it has.

| file in `EFI/Linux` | what |
|---|---|
| `aurae_VERSION.efi` | a version that was found to be healthy |
| `aurae_VERSION+LEFT-DONE.efi` | one that was not yet: so many boots it still has, and has had |
| `aurae_VERSION+0-DONE.efi` | one that is bad: it is started when there is nothing else |

systemd-boot counts (Automatic Boot Assessment); all else is decided here, by a name. The partition
is never mounted: see `initd.boot.fat` for what a power cut leaves.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from initd.boot.disks import block_devices
from initd.boot.fat import Fat, File, Writer
from initd.values import NamedTuple

LABEL: Final = "aurae-esp"
FOLDER: Final = "EFI/Linux"
PREFIX: Final = "aurae_"
SUFFIX: Final = ".efi"
EMERGENCY: Final = "aurae-emergency.efi"
# Boots that a new version has to be found healthy in.
TRIES: Final = 3

EFIVARS: Final = "/sys/firmware/efi/efivars"
# What systemd-boot tells (Boot Loader Interface); before the text stand 4 bytes of attributes.
_LOADER: Final = "4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"
_SELECTED: Final = f"LoaderEntrySelected-{_LOADER}"
_ATTRIBUTES: Final = 4


class Entry(NamedTuple):
    """What a file name says."""

    version: str
    left: int | None = None
    """Boots that it still has; None: it is not counted."""
    done: int = 0

    @property
    def name(self) -> str:
        count = "" if self.left is None else f"+{self.left}-{self.done}"
        # As systemd-boot writes it: a count of none is left out.
        return f"{PREFIX}{self.version}{count.removesuffix('-0')}{SUFFIX}"

    @property
    def bad(self) -> bool:
        return self.left == 0

    @property
    def blessed(self) -> bool:
        return self.left is None


class Present(NamedTuple):
    """An entry that is there."""

    entry: Entry
    file: File


def parse(name: str) -> Entry | None:
    """None: no version of ours."""
    low = name.lower()
    if not low.startswith(PREFIX) or not low.endswith(SUFFIX):
        return None
    stem = name[len(PREFIX) : -len(SUFFIX)]
    version, plus, count = stem.rpartition("+")
    left, dash, done = count.partition("-")
    if plus and version and _is_number(left) and (_is_number(done) if dash else not done):
        return Entry(version, int(left), int(done or 0))
    return Entry(stem) if stem else None


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


class Esp:
    """The entries on an open partition. OSError: it cannot be read or written."""

    def __init__(self, fat: Fat) -> None:
        self.fat = fat

    def entries(self) -> list[Present]:
        """All versions; each is there once, but for a change that a power cut has ended early."""
        found = ((parse(file.name), file) for file in self.fat.files(FOLDER))
        return [Present(entry, file) for entry, file in found if entry is not None]

    def find(self, version: str) -> Present | None:
        """The entry of a version; of two the one that says more: bad, blessed, counted."""
        found = [p for p in self.entries() if p.entry.version.lower() == version.lower()]
        return min(found, key=lambda p: _certainty(p.entry), default=None)

    def mend(self) -> None:
        """End what a power cut has left: a file has one name, no cluster is lost. Called before
        anything is written."""
        seen: set[int] = set()
        for present in sorted(self.entries(), key=lambda p: _certainty(p.entry)):
            if present.file.cluster in seen:
                self.fat.forget(present.file)
            elif present.file.cluster:
                seen.add(present.file.cluster)
        self.fat.sweep(FOLDER)
        self.fat.reclaim()

    def bless(self, version: str) -> bool:
        """From now on it is not counted. False: it was not, or is not there."""
        return self._become(version, Entry(version))

    def mark_bad(self, version: str) -> bool:
        """It is started only when there is nothing else. False: it was so, or is not there."""
        present = self.find(version)
        if present is None or present.entry.bad:
            return False
        return self._become(version, Entry(version, 0, present.entry.done or TRIES))

    def remove(self, present: Present) -> None:
        self.fat.remove(present.file)

    def writer(self, size: int) -> Writer:
        """For a version's file. OSError with ENOSPC."""
        return self.fat.writer(size)

    def _become(self, version: str, wanted: Entry) -> bool:
        self.mend()
        present = self.find(version)
        if present is None or present.entry == wanted._replace(version=present.entry.version):
            return False
        wanted = wanted._replace(version=present.entry.version)
        self.fat.rename(FOLDER, present.file, wanted.name)
        return True


def _certainty(entry: Entry) -> int:
    return 0 if entry.bad else 1 if entry.blessed else 2


@contextmanager
def opened(device: str) -> Iterator[Esp]:
    """The partition, for as long as the block lasts. Nobody else may change it then."""
    fd = os.open(device, os.O_RDWR | os.O_CLOEXEC)
    try:
        yield Esp(Fat(fd, device))
    finally:
        os.close(fd)


def find_device(disk: str = "", folder: str = "/sys/class/block") -> str:
    """The partition on `disk` (`vda`), or the only one that there is. OSError with ENODEV."""
    found = [
        device["DEVNAME"]
        for device in block_devices(folder)
        if device.get("PARTNAME") == LABEL and disk in ("", device.get("DISK"))
    ]
    if len(found) != 1:
        what = "no partition" if not found else "several partitions"
        where = f" on {disk}" if disk else ""
        raise OSError(errno.ENODEV, f"{what} called {LABEL}{where}")
    return f"/dev/{found[0]}"


def selected(efivars: str = EFIVARS) -> str:
    """The file name of the entry that was started, as it was then; empty: nobody says."""
    try:
        with open(f"{efivars}/{_SELECTED}", "rb") as file:
            raw = file.read()
    except OSError:
        return ""
    return raw[_ATTRIBUTES:].decode("utf-16-le", errors="replace").rstrip("\0")


def running_entry(efivars: str = EFIVARS) -> Entry | None:
    """What was started, from the boot loader's own variable, whose file system is mounted for as
    long as it takes. Its counts are older than the file's. None: not by systemd-boot from our
    partition."""
    if not os.path.isdir(efivars):
        return None
    with _variables(efivars):
        return parse(selected(efivars))


@contextmanager
def _variables(efivars: str) -> Iterator[None]:
    if os.listdir(efivars):
        yield
        return
    from initd.boot.modules import Modules
    from initd.linux.mount import MountFlag, mount, umount

    flags = MountFlag.NOSUID | MountFlag.NODEV | MountFlag.NOEXEC | MountFlag.RDONLY
    try:
        # An initramfs has it loaded already, and no list of modules.
        with suppress(OSError):
            Modules().load("efivarfs")
        mount("efivarfs", efivars, "efivarfs", flags)
    except OSError:
        yield
        return
    try:
        yield
    finally:
        umount(efivars, detach=True)
