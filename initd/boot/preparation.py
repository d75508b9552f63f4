"""In the copy of PID 1 that looks after the data disk: find it or make it, open, grow, mount it."""

import os
from collections.abc import Mapping
from typing import Final

from initd.boot import filesystems
from initd.boot.data import (
    ASIDE,
    BLOCK,
    NAME,
    PLACE,
    STATE,
    Search,
    Teller,
    find,
    make_folders,
    unclaim,
)
from initd.boot.disks import Content, NotThere, block_devices, content, disk_under
from initd.boot.filesystems import MAKING
from initd.boot.modules import Modules
from initd.boot.options import DataOptions
from initd.linux.mount import MountFlag, mount

RECOVERY: Final = f"{STATE}/data.recovery-key"
# What LUKS2 takes of a device for itself, at most.
_HEADER: Final = 16 << 20


class Preparation:
    """In the copy: find the disk, make or open it, mount it aside."""

    def __init__(
        self, wanted: Search, options: DataOptions, credentials: str, teller: Teller
    ) -> None:
        self._wanted = wanted
        self._options = options
        self._credentials = credentials
        self._teller = teller

    def run(self, *, unclaims: bool) -> str:
        """Returns what was mounted. Raises NotThere, OSError."""
        disk = disk_under("/")
        device = self._find(disk)
        path = f"/dev/{device['DEVNAME']}"
        half = device.get("PARTNAME") == MAKING
        if device.get("DISK") == disk and device.get("PARTNAME") == NAME:
            self._grow_partition(disk, path)
        found = content(path)
        if half and found.label != NAME:
            # All was looked at when the partition was made, and nobody has used it since.
            self._make(path)
        elif self._is_ours(device) and self._is_unmade(path, found):
            self._make(path)
        else:
            self._mount_found(path, found)
        if half:
            from initd.boot import partitions

            partitions.rename(device["DISK"], partitions.number_of(path), NAME)
        make_folders(ASIDE)
        if unclaims:
            unclaim(f"{ASIDE}/{STATE}")
        return path

    def _find(self, disk: str) -> dict[str, str]:
        if self._wanted.wanted:
            return find(self._wanted)
        if disk:
            devices = [d for d in block_devices(BLOCK) if d.get("DISK") == disk]
            for name in (NAME, MAKING):
                for device in devices:
                    if device.get("PARTNAME") == name:
                        return device
        try:
            # Once in its life a node without one looks everywhere before it makes one.
            return find(Search("", 0.0, drivers=self._wanted.drivers or _has_room(disk)))
        except NotThere:
            if not disk:
                raise
        return self._make_partition(disk)

    def _make_partition(self, disk: str) -> dict[str, str]:
        from initd.boot import partitions

        self._must_make(f"/dev/{disk}")
        room = partitions.room(disk)
        if room.length >= partitions.LEAST:
            there = content(f"/dev/{disk}", room.start)
            what = filesystems.foreign(f"/dev/{disk}", room.start, room.length)
            if what and there.label not in (NAME, MAKING):
                raise NotThere(
                    f"/dev/{disk}: no data partition is made, as what is free behind the last "
                    f"partition, from byte {room.start} on, holds {what}; if nobody needs it, "
                    "wipe it"
                )
            self._check(f"/dev/{disk}", room.length)
        self._teller.say(f"making a partition on /dev/{disk}")
        name = partitions.create(disk, MAKING)
        return {"DEVNAME": name, "DEVTYPE": "partition", "DISK": disk, "PARTNAME": MAKING}

    def _grow_partition(self, disk: str, path: str) -> None:
        from initd.boot import partitions

        if not self._options.makes:
            return
        try:
            if extent := partitions.enlarged(disk, partitions.number_of(path)):
                self._teller.say(f"growing {path} to {extent.length >> 20} MiB")
                partitions.grow(disk, extent)
        except (NotThere, OSError) as e:
            self._teller.warn(f"{path}: cannot grow: {_describe(e)}")

    def _is_ours(self, device: Mapping[str, str]) -> bool:
        """Whether it was named by something else than what is on it."""
        return device.get("PARTNAME") == NAME or self._wanted.wanted.startswith(
            ("PARTLABEL=", "/dev/")
        )

    def _is_unmade(self, path: str, found: Content) -> bool:
        """Whether a file system may be made there. Raises NotThere where something is in its way
        that we cannot use; OSError where that cannot be known."""
        if found.kind:
            return found.label == MAKING
        if what := filesystems.foreign(path):
            raise NotThere(
                f"{path}: holds {what}, which is left as it is; if nobody needs it, wipe it"
            )
        if not filesystems.is_blank(path):
            # Such as a file system of ours whose superblock is damaged: there are copies of it.
            raise NotThere(
                f"{path}: holds something that is not known, which is left as it is; if nobody "
                "needs it, fill its first and last MiB with zeros"
            )
        return True

    def _must_make(self, path: str) -> None:
        if not self._options.makes:
            raise NotThere(
                f"{path}: nothing is made on it while a parameter is wrong, or by the emergency "
                "entry"
            )

    def _check(self, path: str, size: int) -> None:
        """Whether what is asked for can be made of so many bytes there, before any is touched."""
        encrypted = self._options.encryption != "none"
        filesystems.check(self._options.filesystem, path, size - _HEADER * encrypted)
        if encrypted:
            from initd.boot import encryption

            encryption.check(path, self._options, encryption.Secrets(self._credentials))

    def _make(self, path: str) -> None:
        """Make what is asked for, and mount it. A power cut before its end leaves what is made
        anew, as nothing but the last step gives it its name."""
        from initd.boot import encryption
        from initd.linux import filesystem

        self._must_make(path)
        kind, encrypted = self._options.filesystem, self._options.encryption != "none"
        self._check(path, filesystems.size_of(path))
        source, recovery = path, ""
        if encrypted:
            self._teller.say(f"encrypting {path}")
            secrets = encryption.Secrets(self._credentials)
            recovery = encryption.make(path, self._options, secrets)
            source = encryption.DEVICE
        self._teller.say(f"making {kind} on {path}")
        filesystems.make(kind, source)
        _mount(source, path, kind)
        make_folders(ASIDE)
        if recovery:
            self._keep(recovery)
        os.sync()
        filesystem.set_label(ASIDE, NAME)
        os.sync()
        if encrypted:
            encryption.finish(path, NAME)

    def _keep(self, recovery: str) -> None:
        """Where only root can read it, and only while the disk is open."""
        path = f"{ASIDE}/{RECOVERY}"
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(fd, "w") as file:
            file.write(f"{recovery}\n")
        self._teller.say(
            f"a recovery key for it is in {PLACE}/{RECOVERY}: keep a copy of it elsewhere"
        )

    def _mount_found(self, path: str, found: Content) -> None:
        source, asked = path, self._options
        if found.kind == "luks":
            from initd.boot import encryption

            secrets = encryption.Secrets(self._credentials)
            encryption.unlock(path, asked, secrets, self._teller.warn)
            source = encryption.DEVICE
            found = content(source)
        elif asked.encryption != "none":
            raise NotThere(
                f"{path}: not encrypted, as aurae.data.encryption={asked.encryption} asks; not "
                "used, and left as it is. Leave that out, or wipe the disk"
            )
        if found.kind not in filesystems.KINDS:
            raise NotThere(f"{path}: holds none of {', '.join(filesystems.KINDS)}; left as it is")
        if asked.filesystem not in (DataOptions().filesystem, found.kind):
            self._teller.warn(f"{path}: is {found.kind}, not {asked.filesystem}; left as it is")
        if found.faulty:
            self._repair(source, path, found.kind)
        try:
            _mount(source, path, found.kind)
        except NotThere:
            if not self._repair(source, path, found.kind):
                raise
            _mount(source, path, found.kind)
        self._grow(source, found)

    def _repair(self, source: str, path: str, kind: str) -> bool:
        """Whether it was repaired. Raises OSError."""
        repair = filesystems.KINDS[kind].repair
        if repair is None:
            return False
        self._teller.say(f"checking {kind} on {path}")
        try:
            repair(source)
        except NotThere as e:
            self._teller.warn(f"{path}: cannot be repaired: {e}")
            return False
        self._teller.warn(f"{path}: {kind} had faults, and was repaired")
        return True

    def _grow(self, source: str, found: Content) -> None:
        if not self._options.makes or filesystems.fills(found.size, source):
            return
        from initd.linux import filesystem

        self._teller.say(f"growing {found.kind} on {source}")
        try:
            filesystems.KINDS[found.kind].grow(source, ASIDE)
            # Until then its superblock has the old size, which the next boot would read.
            filesystem.settle(ASIDE)
        except (NotThere, OSError) as e:
            self._teller.warn(f"{source}: cannot grow: {_describe(e)}")


def _has_room(disk: str) -> bool:
    """Whether a partition can be made on it. OSError."""
    from initd.boot import partitions

    return bool(disk) and partitions.room(disk).length >= partitions.LEAST


def _mount(source: str, path: str, kind: str) -> None:
    """Mount it aside; `path` is how it is called. Raises NotThere, OSError."""
    flags, options = MountFlag.NOSUID | MountFlag.NODEV, filesystems.KINDS[kind].options
    Modules().load(kind)
    os.makedirs(ASIDE, mode=0o700, exist_ok=True)
    try:
        mount(source, ASIDE, kind, flags, options)
    except OSError as e:
        raise NotThere(
            f"{path}: cannot be mounted ({e.strerror}); it must be {kind} and writable"
        ) from e


def _describe(error: Exception) -> str:
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error)
