"""Disks to write to: files, which remember and which fail."""

import errno
from pathlib import Path

from runtime.install.target import NewFile


class Old:
    """A disk that is full of old content. With `dies_at` it is gone after so many bytes written."""

    def __init__(self, size: int, *, sector: int = 512, dies_at: int | None = None) -> None:
        self.path, self.size, self.sector = "/dev/old", size, sector
        self.content = bytearray(b"\xa5" * size)
        self.log: list[str] = []
        self._left = dies_at

    def write(self, at: int, data: bytes) -> None:
        self._spend(len(data))
        assert at >= 0
        assert at + len(data) <= self.size
        self.log.append(f"write {at}")
        self.content[at : at + len(data)] = data

    def read(self, at: int, length: int) -> bytes:
        return bytes(self.content[at : at + length])

    def zero(self, at: int, length: int) -> None:
        assert at >= 0
        assert at + length <= self.size
        self.log.append(f"zero {at}")
        self.content[at : at + length] = bytes(length)

    def discard(self) -> None:
        """Reads as anything afterwards."""
        self.log.append("discard")
        self.content[:] = b"\x5a" * self.size

    def sync(self) -> None:
        self.log.append("sync")

    def forget(self) -> None:
        self.log.append("forget")

    def done(self) -> None:
        self.log.append("done")

    def close(self) -> None:
        pass

    def _spend(self, count: int) -> None:
        if self._left is not None:
            self._left -= count
            if self._left < 0:
                raise OSError(errno.EIO, "Input/output error", self.path)


def new(path: Path, size: int, sector: int = 512) -> NewFile:
    return NewFile(str(path), size, sector)
