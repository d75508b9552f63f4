"""What an image is written to: a disk, or a new file that a machine will have as its disk."""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, Protocol

from initd.errors import FailedPrecondition, InvalidArgument, NotFound
from initd.linux import block

_BLOCK: Final = Path("/sys/class/block")
# A disk is discarded in parts of this: some do not take more at once.
_PART: Final = 1 << 30


class Target(Protocol):
    """All of it raises OSError with the path."""

    path: str
    size: int
    sector: int

    def write(self, at: int, data: bytes) -> None: ...

    def read(self, at: int, length: int) -> bytes: ...

    def zero(self, at: int, length: int) -> None:
        """Such that it reads as zeros."""

    def discard(self) -> None:
        """What lies on it is of no use any more; a hint."""

    def sync(self) -> None:
        """Return when all that was written is safe."""

    def forget(self) -> None:
        """Read again what is really there."""

    def done(self) -> None:
        """A new partition table is on it."""

    def close(self) -> None: ...


class Disk:
    """A disk of this machine, which nobody else uses meanwhile."""

    def __init__(self, path: str) -> None:
        """Refuses whatever is no disk, or in use. Nothing is written by this."""
        self.path = os.path.realpath(path)
        _check(path, self.path)
        try:
            self._fd = block.open_alone(self.path)
        except OSError as e:
            raise _refusal(path, e) from e
        self.size = block.size(self._fd)
        self.sector = block.sector_size(self._fd)

    def write(self, at: int, data: bytes) -> None:
        left = memoryview(data)
        while left:
            with naming(self.path):
                count = os.pwrite(self._fd, left, at)
            left, at = left[count:], at + count

    def read(self, at: int, length: int) -> bytes:
        parts = []
        while length:
            with naming(self.path):
                part = os.pread(self._fd, length, at)
            if not part:
                raise OSError(errno.EIO, "ends too early", self.path)
            parts.append(part)
            at, length = at + len(part), length - len(part)
        return b"".join(parts)

    def zero(self, at: int, length: int) -> None:
        with naming(self.path):
            block.zero_out(self._fd, at, length)

    def discard(self) -> None:
        # Most disks that are not of flash cannot, and some that are do it badly.
        with suppress(OSError):
            for at in range(0, self.size, _PART):
                block.discard(self._fd, at, min(_PART, self.size - at))

    def sync(self) -> None:
        with naming(self.path):
            os.fdatasync(self._fd)

    def forget(self) -> None:
        with naming(self.path):
            block.drop_cache(self._fd)

    def done(self) -> None:
        # A loop device without partitions has nothing to look for.
        with suppress(OSError):
            block.read_partitions(self._fd)

    def close(self) -> None:
        os.close(self._fd)


class NewFile:
    """A file of zeros to begin with. It must not exist yet."""

    def __init__(self, path: str, size: int, sector: int) -> None:
        """Raises OSError."""
        self.path, self.size, self.sector = path, size, sector
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self._fd = os.open(path, flags, 0o644)
        os.truncate(self._fd, size)

    def write(self, at: int, data: bytes) -> None:
        with naming(self.path):
            count = os.pwrite(self._fd, data, at)
        if count != len(data):
            self.write(at + count, data[count:])

    def read(self, at: int, length: int) -> bytes:
        with naming(self.path):
            return os.pread(self._fd, length, at)

    def zero(self, at: int, length: int) -> None:
        """It is."""

    def discard(self) -> None:
        """Nothing lies there."""

    def sync(self) -> None:
        with naming(self.path):
            os.fdatasync(self._fd)

    def forget(self) -> None:
        os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def done(self) -> None:
        """Nobody has it for a disk yet."""

    def close(self) -> None:
        os.close(self._fd)


@contextmanager
def naming(path: str) -> Iterator[None]:
    """Errors within the block have the path."""
    try:
        yield
    except OSError as e:
        if e.filename is None:
            e.filename = path
        raise


def is_gone(path: str) -> bool:
    """Whether the disk is no longer there, or on its way: nobody can open it any more before sysfs
    says so."""
    if not (_BLOCK / Path(path).name).exists():
        return True
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
    except OSError as e:
        return e.errno in (errno.ENXIO, errno.ENODEV, errno.ENOENT)
    return False


def _check(given: str, path: str) -> None:
    try:
        mode = Path(path).stat().st_mode
    except OSError as e:
        raise NotFound(f"{given}: {e.strerror}; which disks are there?") from e
    if not stat.S_ISBLK(mode):
        raise InvalidArgument(f"{given}: is no disk; name a block device, such as /dev/sda")
    if (_BLOCK / Path(path).name / "partition").exists():
        raise InvalidArgument(f"{given}: is a partition; name the disk that it lies on")


def _refusal(path: str, error: OSError) -> Exception:
    if error.errno == errno.EBUSY:
        return FailedPrecondition(
            f"{path}: is in use: it or a part of it is mounted, swapped to or belongs to another "
            "device; end that first"
        )
    if error.errno == errno.EROFS:
        return FailedPrecondition(f"{path}: is read-only; switch its write protection off")
    if error.errno in (errno.ENXIO, errno.ENOMEDIUM):
        return FailedPrecondition(f"{path}: has no medium in it; insert one")
    return error
