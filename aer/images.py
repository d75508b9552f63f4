"""Where an image comes from: a file, packed or not, or stdin; and whether it is whole."""

import errno
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Final

from aer.errors import AerError
from initd.errors import AuraedError
from runtime.install.image import Image
from runtime.install.writer import BLOCK, Writer

STDIN: Final = "-"
# Zeros that are told at once: so often one hears how far it is.
ZEROS: Final = 64 << 20
# What a file in the format of zstd begins with (RFC 8878, 3.1.1).
_ZSTD: Final = b"\x28\xb5\x2f\xfd"
_PROGRAM: Final = "zstd"

# A part of an image: bytes, or a number of zeros.
Part = bytes | int


class Source:
    """An image, read from its beginning by each `parts`; stdin can be read once only."""

    def __init__(self, name: str) -> None:
        """Raises OSError where the file cannot be read."""
        self.path = None if name == STDIN else Path(name).expanduser()
        self.name = "stdin" if self.path is None else str(self.path)
        if self.path is not None:
            with self.path.open("rb") as file:
                self._packed = file.read(len(_ZSTD)) == _ZSTD

    @property
    def again(self) -> bool:
        """Whether it can be read more than once."""
        return self.path is not None

    @contextmanager
    def parts(self) -> Iterator[Iterator[Part]]:
        """All of it. Raises AerError where it is damaged, OSError where it cannot be read."""
        if self.path is None:
            begin = sys.stdin.buffer.read(len(_ZSTD))
            if begin == _ZSTD:
                with _unpacked(subprocess.PIPE, self.name, begin) as parts:
                    yield parts
            else:
                yield _squeezed(lambda: _read(sys.stdin.buffer), begin)
        else:
            with self.path.open("rb", buffering=0) as file:
                if self._packed:
                    with _unpacked(file, self.name) as parts:
                        yield parts
                else:
                    yield _sparse(file.fileno())

    def rehearse(self, *, size: int, sector: int, architecture: str, sha256: bytes) -> Image:
        """Read all of it, and refuse what a disk of that kind would refuse. AerError."""
        nowhere = _Nowhere(self.name, size, sector)
        writer = Writer(nowhere, architecture=architecture, sha256=sha256)
        with refusals(self.name), self.parts() as parts:
            for part in parts:
                feed(writer, part)
            writer.complete()
        assert writer.image is not None
        return writer.image


class _Nowhere:
    """A disk that takes everything and keeps nothing."""

    def __init__(self, path: str, size: int, sector: int) -> None:
        self.path, self.size, self.sector = path, size, sector

    def write(self, at: int, data: bytes) -> None:
        pass

    def read(self, at: int, length: int) -> bytes:
        raise NotImplementedError

    def zero(self, at: int, length: int) -> None:
        pass

    def discard(self) -> None:
        pass

    def sync(self) -> None:
        pass

    def forget(self) -> None:
        pass

    def done(self) -> None:
        pass

    def close(self) -> None:
        pass


def feed(writer: Writer, part: Part) -> None:
    if isinstance(part, int):
        writer.zeros(part)
    else:
        writer.data(part)


@contextmanager
def refusals(name: str) -> Iterator[None]:
    """What is refused within is said of `name`, where it is said of the image."""
    try:
        yield
    except AuraedError as e:
        fact, _, remedy = str(e).partition("; ")
        if fact.startswith("image: "):
            fact = f"{name}: {fact.removeprefix('image: ')}"
        raise AerError(fact, remedy) from e


def _sparse(file: int) -> Iterator[Part]:
    """Holes are not read."""
    size, at = os.fstat(file).st_size, 0
    while at < size:
        try:
            begin = os.lseek(file, at, os.SEEK_DATA)
        except OSError as e:
            if e.errno != errno.ENXIO:
                raise
            begin = size
        yield from _zeros(begin - at)
        if begin == size:
            return
        at = os.lseek(file, begin, os.SEEK_HOLE)
        os.lseek(file, begin, os.SEEK_SET)
        while begin < at:
            if not (block := os.read(file, min(BLOCK, at - begin))):
                return
            begin += len(block)
            yield block if block.strip(b"\0") else len(block)


def _squeezed(read: Callable[[], bytes], begin: bytes = b"") -> Iterator[Part]:
    """Blocks that are nothing but zeros are counted."""
    if begin:
        yield begin
    zeros = 0
    while block := read():
        if not block.strip(b"\0"):
            zeros += len(block)
            if zeros < ZEROS:
                continue
        if zeros:
            yield zeros
            zeros = 0
        if block.strip(b"\0"):
            yield block
    yield from _zeros(zeros)


def _zeros(count: int) -> Iterator[int]:
    while count:
        step = min(count, ZEROS)
        yield step
        count -= step


def _read(file: IO[bytes]) -> bytes:
    return file.read(BLOCK)


@contextmanager
def _unpacked(packed: IO[bytes] | int, name: str, begin: bytes = b"") -> Iterator[Iterator[Part]]:
    """What `packed` holds, by the program zstd. With a PIPE, stdin behind `begin` is unpacked."""
    command = [_PROGRAM, "--decompress", "--stdout", "--quiet"]
    try:
        process = subprocess.Popen(
            command, stdin=packed, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
    except FileNotFoundError as e:
        raise AerError(
            f"{name}: is packed, and this host has no {_PROGRAM} to unpack it",
            "install zstd; or give the unpacked image",
        ) from e
    pump = None
    if process.stdin is not None:
        pump = threading.Thread(target=_pump, args=(begin, process.stdin))
        pump.start()
    try:
        yield _until_end(process, name)
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdout, process.stderr):
            assert pipe is not None
            pipe.close()
        if pump is not None:
            pump.join()


def _pump(begin: bytes, pipe: IO[bytes]) -> None:
    with suppress(BrokenPipeError), pipe:
        pipe.write(begin)
        shutil.copyfileobj(sys.stdin.buffer, pipe, BLOCK)


def _until_end(process: "subprocess.Popen[bytes]", name: str) -> Iterator[Part]:
    assert process.stdout is not None
    output = process.stdout
    yield from _squeezed(lambda: _read(output))
    if process.wait():
        assert process.stderr is not None
        said = process.stderr.read().decode(errors="replace").strip()
        why = said.rpartition(" : ")[2].strip() or f"zstd ended with {process.returncode}"
        raise AerError(f"{name}: cannot be unpacked: {why}", "it is damaged: get it once more")
