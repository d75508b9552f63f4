"""A partition that is written and read past the page cache, so that workloads keep theirs."""

import errno
import hashlib
import mmap
import os
from collections.abc import Callable
from typing import Final

# A multiple of what disks and memory want.
_ALIGNED: Final = 4096
_READ: Final = 1 << 20


class Device:
    """Open for writing until `close`. Offsets are multiples of 4096; all calls may block."""

    def __init__(self, path: str) -> None:
        flags = os.O_RDWR | os.O_CLOEXEC
        try:
            self._fd = os.open(path, flags | os.O_DIRECT)
        except OSError as e:
            if e.errno != errno.EINVAL:
                raise
            # A file system without direct access.
            self._fd = os.open(path, flags)
        self.size = os.lseek(self._fd, 0, os.SEEK_END)
        # Memory of pages of its own, as direct access wants it.
        self._buffer = mmap.mmap(-1, _READ + _ALIGNED)

    def write(self, offset: int, data: bytes) -> None:
        """What is left of the last 4096 bytes becomes 0."""
        whole = -(-len(data) // _ALIGNED) * _ALIGNED
        with memoryview(self._buffer) as buffer:
            buffer[: len(data)] = data
            buffer[len(data) : whole] = bytes(whole - len(data))
            done = 0
            while done < whole:
                done += os.pwrite(self._fd, buffer[done:whole], offset + done)

    def sync(self) -> None:
        os.fdatasync(self._fd)

    def digest(self, size: int, stop: Callable[[], None]) -> str:
        """SHA-256 of the first bytes, as the disk has them. `stop` may raise between."""
        os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_DONTNEED)
        digest = hashlib.sha256()
        with memoryview(self._buffer) as buffer:
            for offset in range(0, size, _READ):
                stop()
                count = os.preadv(self._fd, [buffer[:_READ]], offset)
                some = min(_READ, size - offset)
                if count < some:
                    raise OSError(errno.EIO, "the disk gave less than was written")
                digest.update(buffer[:some])
        return digest.hexdigest()

    def close(self) -> None:
        # The memory goes by itself: an error may hold a part of it still.
        os.close(self._fd)
