"""Writing an image to a disk such that it boots from then on, or not at all.

The order is what keeps that: the old partition tables go first, then comes what lies in the
partitions, which is read back and compared, and the new tables last. A disk that was left in
the middle has no partition table, and firmware boots nothing from it.

States of a `Writer`: it waits for the image's first bytes; it writes (from the first on that it
takes); it is complete; it is sealed.
"""

import hashlib
import hmac
from collections.abc import Iterator
from typing import Final

from initd.errors import InvalidArgument
from initd.values import NamedTuple
from runtime.install import gpt, image
from runtime.install.image import Image
from runtime.install.target import Target

BLOCK: Final = 1 << 20
"""What is told apart: whether it is zeros, and whether it reads as it was written."""

# So much is written at most before the disk must have it: what is said of progress is true, and
# an error does not come late.
_UNSAFE: Final = 64 << 20
# Zeros beyond the image, where file systems and others have their marks: the data partition
# begins there. Some have marks at the very end of a disk.
_BEYOND: Final = 16 << 20
_END: Final = 1 << 20
_ZEROS: Final = bytes(BLOCK)


class Written(NamedTuple):
    """A part of the disk, and the digest of what it must read as; None: zeros."""

    at: int
    length: int
    digest: bytes | None


class Writer:
    """Takes an image in order, as bytes and as numbers of zeros, and puts it on `target`.

    Refuses what is wrong with the image (InvalidArgument): as far as its first bytes tell, before
    anything is changed. A disk that fails is an OSError. After either, or if it is left
    before `seal`, the disk boots nothing if `touched`."""

    def __init__(
        self, target: Target, *, architecture: str, size: int = 0, sha256: bytes = b""
    ) -> None:
        """`size` is what the image is said to have, 0: not known; so `sha256`, of all of it."""
        self._target = target
        self._architecture = architecture
        self._size = size
        self._sha256 = sha256
        self._sum = hashlib.sha256() if sha256 else None
        self._pending = bytearray()
        self._at = 0
        self._zeros = 0
        self._unsafe = 0
        self._head = b""
        self._tail = bytearray()
        self._written: list[Written] = []
        self.image: Image | None = None
        self.touched = False

    @property
    def position(self) -> int:
        """Bytes of the image that were taken."""
        return self._at + len(self._pending)

    @property
    def stored(self) -> int:
        """Bytes that are no zeros."""
        return sum(one.length for one in self._written if one.digest is not None)

    def data(self, data: bytes) -> None:
        if self._sum is not None:
            self._sum.update(data)
        self._pending += data
        self._take()

    def zeros(self, count: int) -> None:
        """So many of them."""
        self._refuse_beyond(self.position + count)
        while count:
            step = min(count, BLOCK - len(self._pending) % BLOCK)
            if self._sum is not None:
                self._sum.update(_ZEROS[:step])
            self._pending += _ZEROS[:step]
            count -= step
            self._take()

    def complete(self) -> None:
        """All of the image was given."""
        self._take(last=True)
        if self.image is None or self._at < self.image.size:
            of = f" of {self.image.size}" if self.image is not None else ""
            raise InvalidArgument(f"image: is cut off: it ends after {self._at} bytes{of}")
        if self._sum is not None and not hmac.compare_digest(self._sum.digest(), self._sha256):
            raise InvalidArgument(
                f"image: is damaged: its SHA-256 is {self._sum.hexdigest()} and not "
                f"{self._sha256.hex()}"
            )
        try:
            gpt.check_second_copy(bytes(self._tail), self.image.table)
        except ValueError as e:
            raise InvalidArgument(f"image: {e}") from e
        self._clear_rest(self.image)
        self._flush_zeros(self.image.size)
        self._target.sync()

    def verify(self) -> Iterator[int]:
        """Read back and compare; yields how many bytes were. OSError where they are others."""
        self._target.forget()
        done = 0
        for at, length, digest in self._written:
            for step in range(0, length, BLOCK):
                found = self._target.read(at + step, min(BLOCK, length - step))
                same = _is_zeros(found) if digest is None else _digest(found) == digest
                if not same:
                    raise OSError(
                        0, f"does not hold at byte {at + step} what was written", self._target.path
                    )
                done += len(found)
                yield done

    def seal(self) -> None:
        """Write the partition tables, which make it a disk that boots."""
        assert self.image is not None
        target = self._target
        table = self.image.table.relocated(target.size // target.sector)
        first, second = table.first_copy(), table.second_copy()
        target.write(target.size - len(second), second)
        target.sync()
        # What a table lies in comes before the table's header.
        at = 2 * target.sector
        target.write(at, first[at:])
        target.sync()
        target.write(0, first[:at])
        target.sync()
        target.forget()
        found = (target.read(0, len(first)), target.read(target.size - len(second), len(second)))
        if found != (first, second):
            raise OSError(0, "does not hold the partition table that was written", target.path)
        target.done()

    def _take(self, *, last: bool = False) -> None:
        if self.image is None:
            if len(self._pending) < gpt.HEAD and not last:
                return
            self._begin(image.examine(bytes(self._pending[: gpt.HEAD])), last=last)
        self._refuse_beyond(self.position)
        while len(self._pending) >= BLOCK or (last and self._pending):
            block = bytes(self._pending[:BLOCK])
            del self._pending[:BLOCK]
            self._put(block)

    def _begin(self, found: Image, *, last: bool) -> None:
        """Everything that can be refused, then the first change."""
        target = self._target
        image.check(found, size=target.size, sector=target.sector, architecture=self._architecture)
        size = len(self._pending) if last else self._size
        if size and size != found.size:
            kind = "cut off" if size < found.size else "too long"
            raise InvalidArgument(
                f"image: is {kind}: it has {size} bytes, and by its partition table {found.size}"
            )
        self.image = found
        self.touched = True
        # An old table must not lead anywhere from now on; what is discarded may read as anything.
        target.zero(0, min(_END, target.size))
        target.zero(max(0, target.size - _END), min(_END, target.size))
        target.sync()
        target.discard()

    def _refuse_beyond(self, position: int) -> None:
        if self.image is not None and position > self.image.size:
            raise InvalidArgument(
                f"image: is too long: by its partition table it has {self.image.size} bytes"
            )

    def _put(self, block: bytes) -> None:
        """The next block: what is the tables' own is kept for later."""
        assert self.image is not None
        table = self.image.table
        begin = max(self._at, table.head)
        end = min(self._at + len(block), table.size - table.tail)
        inside = block[begin - self._at : max(0, end - self._at)]
        if self._at + len(block) > table.size - table.tail:
            self._tail += block[max(0, table.size - table.tail - self._at) :]
        self._at += len(block)
        if _is_zeros(inside):
            if self._at - self._zeros >= _UNSAFE:
                self._flush_zeros(self._at)
            return
        self._flush_zeros(begin)
        self._target.write(begin, inside)
        self._written.append(Written(begin, len(inside), _digest(inside)))
        self._zeros = begin + len(inside)
        self._unsafe += len(inside)
        if self._unsafe >= _UNSAFE:
            self._target.sync()
            self._unsafe = 0

    def _flush_zeros(self, until: int) -> None:
        """What was not written since the last bytes that were is zeros."""
        assert self.image is not None
        table = self.image.table
        begin = max(self._zeros, table.head)
        end = min(until, table.size - table.tail)
        if begin < end:
            self._target.zero(begin, end - begin)
            self._written.append(Written(begin, end - begin, None))
        self._zeros = max(self._zeros, until)

    def _clear_rest(self, found: Image) -> None:
        """Nothing of what was on the disk is taken for a file system behind the image."""
        size = self._target.size
        begin = found.size - found.table.tail
        self._target.zero(begin, min(_BEYOND, size - begin))
        self._target.zero(max(begin, size - _END), size - max(begin, size - _END))


def _is_zeros(data: bytes) -> bool:
    """Of a block at most."""
    return data == _ZEROS[: len(data)]


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()
