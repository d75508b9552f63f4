"""Disks whose power can be cut, as honest as hardware: what was not flushed may be lost.

QEMU that is killed leaves all that was written to it in the host's page cache, so nothing would
ever be lost. Here a disk is served to it (NBD, newstyle handshake and simple replies, as
doc/proto.md of the NBD project has them), and each write since the last flush is remembered with
what was there before. When the power is cut, sectors of those are kept or lost by chance.
"""

import os
import random
import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum, IntEnum, auto
from pathlib import Path
from typing import Final

SECTOR: Final = 512

_OPTION: Final = 0x49484156454F5054
_OPTION_REPLY: Final = 0x3E889045565A9
_REQUEST: Final = 0x25609513
_REPLY: Final = 0x67446698
_FIXED, _NO_ZEROES = 1, 2
_ACK, _INFO, _UNSUPPORTED = 1, 3, 0x80000001
_HAS_FLAGS, _CAN_FLUSH = 1, 4
_READ, _WRITE, _DISCONNECT, _FLUSH = range(4)
_EINVAL: Final = 22


class _Option(IntEnum):
    ABORT = 2
    GO = 7


class Kind(Enum):
    READ = auto()
    WRITE = auto()
    FLUSH = auto()
    TOLD = auto()
    """By the test, not by a disk."""


@dataclass(frozen=True, slots=True)
class Event:
    """What a disk is asked for, before it is done; `name` is the disk's, or what was told."""

    kind: Kind
    name: str
    offset: int = 0
    size: int = 0


@dataclass(slots=True)
class Power:
    """That of a machine: it goes for all disks at one moment."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    _gone: threading.Event = field(default_factory=threading.Event)
    _watch: Callable[[Event], bool] | None = None

    def watch(self, watch: Callable[[Event], bool]) -> None:
        """From now on it is asked at each event, in turn, whether the power is cut there."""
        with self.lock:
            self._watch = watch

    def tell(self, name: str) -> None:
        with self.lock:
            self.happens(Event(Kind.TOLD, name))

    def happens(self, event: Event) -> None:
        """With the lock held."""
        if self._watch is not None and not self._gone.is_set() and self._watch(event):
            self._gone.set()

    def cut(self) -> None:
        with self.lock:
            self._gone.set()

    @property
    def gone(self) -> bool:
        return self._gone.is_set()

    def wait(self, seconds: float) -> bool:
        """Whether it was cut by then."""
        return self._gone.wait(seconds)

    def restore(self) -> None:
        with self.lock:
            self._watch = None
            self._gone.clear()


class CachedDisk:
    """A file as a disk with a write cache. Once the power is cut it answers nobody."""

    def __init__(self, file: Path, name: str, power: Power, at: Path) -> None:
        """`at` is a socket to be."""
        self.file = file
        self.name = name
        self._power = power
        self._at = at
        self._fd = os.open(file, os.O_RDWR | os.O_CLOEXEC)
        self._size = os.lseek(self._fd, 0, os.SEEK_END)
        # Where, what was there, what was written.
        self._unflushed: list[tuple[int, bytes, bytes]] = []
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(at))
        self._listener.listen(1)
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    @property
    def drive(self) -> Path:
        """As QEMU calls it."""
        return Path(f"nbd:unix:{self._at}")

    def lose(self, chance: random.Random) -> int:
        """What the disk has when the power is back: of what was not flushed a part, each write as a
        whole or sector by sector. Returns how many writes there were. QEMU has ended."""
        with self._power.lock:
            writes, self._unflushed = self._unflushed, []
            for offset, before, _ in reversed(writes):
                os.pwrite(self._fd, before, offset)
            kept = chance.choice((0.0, 0.5, 1.0, chance.random()))
            torn = chance.random() < 0.5
            for offset, _, data in writes:
                for at, piece in _pieces(data) if torn else [(0, data)]:
                    if chance.random() < kept:
                        os.pwrite(self._fd, piece, offset + at)
        return len(writes)

    def replace(self, source: Path) -> None:
        """Another disk's contents, of the same size. Nobody uses it."""
        with source.open("rb") as other:
            os.ftruncate(self._fd, 0)
            os.ftruncate(self._fd, self._size)
            at = 0
            with suppress(OSError):
                while True:
                    at = os.lseek(other.fileno(), at, os.SEEK_DATA)
                    end = os.lseek(other.fileno(), at, os.SEEK_HOLE)
                    while at < end:
                        data = os.pread(other.fileno(), min(1 << 20, end - at), at)
                        os.pwrite(self._fd, data, at)
                        at += len(data)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()
        os.close(self._fd)

    def _serve(self) -> None:
        """One QEMU after the other, until the listener is shut down."""
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                with connection, suppress(EOFError, ConnectionError):
                    self._greet(connection)
                    while self._answer(connection):
                        pass

    def _greet(self, connection: socket.socket) -> None:
        connection.sendall(b"NBDMAGIC" + struct.pack(">QH", _OPTION, _FIXED | _NO_ZEROES))
        _take(connection, 4)
        while True:
            _, option, length = struct.unpack(">QII", _take(connection, 16))
            _take(connection, length)
            match option:
                case _Option.GO:
                    flags = _HAS_FLAGS | _CAN_FLUSH
                    info = struct.pack(">HQH", 0, self._size, flags)
                    connection.sendall(_option_reply(option, _INFO, info))
                    connection.sendall(_option_reply(option, _ACK))
                    return
                case _Option.ABORT:
                    connection.sendall(_option_reply(option, _ACK))
                    raise EOFError
                case _:
                    connection.sendall(_option_reply(option, _UNSUPPORTED))

    def _answer(self, connection: socket.socket) -> bool:
        magic, _, kind, cookie, offset, length = struct.unpack(">IHHQQI", _take(connection, 28))
        assert magic == _REQUEST
        data = _take(connection, length) if kind == _WRITE else b""
        with self._power.lock:
            error, data = self._do(kind, offset, length, data)
        if kind == _DISCONNECT:
            return False
        if self._power.gone:
            while connection.recv(1 << 20):
                pass
            return False
        connection.sendall(struct.pack(">IIQ", _REPLY, error, cookie) + data)
        return True

    def _do(self, kind: int, offset: int, length: int, data: bytes) -> tuple[int, bytes]:
        """With the lock held. What is asked for when the power is cut may be done, or not."""
        if self._power.gone:
            return 0, b""
        if kind == _READ:
            self._power.happens(Event(Kind.READ, self.name, offset, length))
            return 0, os.pread(self._fd, length, offset)
        if kind == _WRITE:
            self._power.happens(Event(Kind.WRITE, self.name, offset, length))
            self._unflushed.append((offset, os.pread(self._fd, length, offset), data))
            os.pwrite(self._fd, data, offset)
            return 0, b""
        if kind == _FLUSH:
            self._power.happens(Event(Kind.FLUSH, self.name))
            if not self._power.gone:
                self._unflushed.clear()
            return 0, b""
        return _EINVAL if kind != _DISCONNECT else 0, b""


def _pieces(data: bytes) -> list[tuple[int, bytes]]:
    return [(at, data[at : at + SECTOR]) for at in range(0, len(data), SECTOR)]


def _option_reply(option: int, kind: int, data: bytes = b"") -> bytes:
    return struct.pack(">QIII", _OPTION_REPLY, option, kind, len(data)) + data


def _take(connection: socket.socket, length: int) -> bytes:
    """Raises EOFError."""
    data = bytearray(length)
    view = memoryview(data)
    while view:
        count = connection.recv_into(view)
        if not count:
            raise EOFError
        view = view[count:]
    return bytes(data)
