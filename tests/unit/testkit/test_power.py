"""The disks that lose what was not flushed, without a machine."""

import random
import socket
import struct
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.integration.power import SECTOR, CachedDisk, Event, Kind, Power

SIZE = 64 * SECTOR
READ, WRITE, FLUSH = 0, 1, 3


class Client:
    """As much of NBD as these tests need."""

    def __init__(self, at: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.connect(str(at))
        self._socket.recv(18, socket.MSG_WAITALL)
        self._socket.sendall(struct.pack(">I8sIIIH", 3, b"IHAVEOPT", 7, 6, 0, 0))
        # The size and flags, with 20 bytes before, and what ends the answer.
        self._socket.recv(20 + 12 + 20, socket.MSG_WAITALL)

    def ask(self, kind: int, offset: int = 0, data: bytes = b"", length: int = 0) -> bytes:
        size = len(data) or length
        head = struct.pack(">IHHQQI", 0x25609513, 0, kind, 1, offset, size)
        self._socket.sendall(head + data)
        return self._socket.recv(16 + length, socket.MSG_WAITALL)[16:]

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def power() -> Power:
    return Power()


@pytest.fixture
def disk(power: Power, tmp_path: Path) -> Iterator[tuple[CachedDisk, Path]]:
    file = tmp_path / "disk"
    file.write_bytes(b"-" * SIZE)
    with TemporaryDirectory() as folder:
        at = Path(folder, "socket")
        with closing(CachedDisk(file, "disk", power, at)) as made:
            yield made, at


@pytest.mark.parametrize("seed", range(20))
def test_what_was_flushed_stays_and_what_was_not_may_be_lost_by_the_sector(
    disk: tuple[CachedDisk, Path], power: Power, seed: int
) -> None:
    made, at = disk
    with closing(Client(at)) as client:
        client.ask(WRITE, 0, b"a" * 4 * SECTOR)
        client.ask(FLUSH)
        client.ask(WRITE, 0, b"b" * 4 * SECTOR)
        client.ask(WRITE, 2 * SECTOR, b"c" * 4 * SECTOR)
        assert client.ask(READ, 0, length=SIZE)[:SECTOR] == b"b" * SECTOR
        power.cut()
    assert made.lose(random.Random(seed)) == 2
    found = made.file.read_bytes()
    for number, possible in enumerate(("ab", "ab", "abc", "abc", "-c", "-c", "-")):
        sector = found[number * SECTOR : (number + 1) * SECTOR]
        assert set(sector.decode()) in [{letter} for letter in possible]


def test_each_fate_of_what_was_not_flushed_is_met(
    disk: tuple[CachedDisk, Path], power: Power
) -> None:
    made, at = disk
    fates = set()
    for seed in range(60):
        with closing(Client(at)) as client:
            client.ask(WRITE, 0, b"-" * 2 * SECTOR)
            client.ask(FLUSH)
            client.ask(WRITE, 0, b"b" * 2 * SECTOR)
            power.cut()
        made.lose(random.Random(seed))
        power.restore()
        fates.add(made.file.read_bytes()[: 2 * SECTOR : SECTOR])
    assert fates == {b"--", b"bb", b"-b", b"b-"}


def test_a_disk_is_silent_from_the_request_on_that_the_power_is_cut_at(
    disk: tuple[CachedDisk, Path], power: Power
) -> None:
    _, at = disk
    seen: list[Kind] = []

    def third(event: Event) -> bool:
        seen.append(event.kind)
        return len(seen) == 3

    power.watch(third)
    client = Client(at)
    client.ask(WRITE, 0, b"a" * SECTOR)
    client.ask(FLUSH)
    client._socket.settimeout(0.2)
    with pytest.raises(TimeoutError):
        client.ask(WRITE, 0, b"b" * SECTOR)
    client.close()
    assert power.wait(20)
    assert seen == [Kind.WRITE, Kind.FLUSH, Kind.WRITE]
