"""What a person at the machine is shown."""

import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from initd import screen
from initd.boot.cmdline import parse
from initd.console import Console
from initd.linux import addresses
from initd.log import Log
from initd.loop import Loop
from initd.screen import Identity, Screen, Service, State
from initd.version import VERSION

FULL = State(
    host="web1",
    version="1.2.3",
    slot="slot a",
    addresses=("eth0 10.0.2.15/24 fec0::1/64",),
    identity=Identity("spiffe://example.org/node/web1"),
    health=("runtime: serving on [::]:8080", "network: runs"),
    well=True,
    error="",
)
WORDS = " ".join(f"word{number}" for number in range(16))


def test_a_block_of_lines_has_all_of_it() -> None:
    assert screen.block(FULL) == [
        "web1: aurae 1.2.3, slot a",
        "  state         serves",
        "  addresses     eth0 10.0.2.15/24 fec0::1/64",
        "  identity      spiffe://example.org/node/web1",
        "  health        runtime: serving on [::]:8080",
        "                network: runs",
        "  last error    none",
    ]


def test_a_node_without_network_and_identity_shows_the_same_and_what_it_lacks() -> None:
    bare = FULL._replace(
        addresses=("eth0 has no cable",),
        identity=Identity(fingerprint=WORDS),
        well=False,
        error="network: cannot (at 3 s)",
    )
    lines = screen.block(bare)
    assert "  state         does not serve" in lines
    assert "  addresses     eth0 has no cable" in lines
    assert (
        "  identity      nobody has claimed this node (aer node claim); its fingerprint:" in lines
    )
    assert "                word4 word5 word6 word7" in lines
    assert lines[-1] == "  last error    network: cannot (at 3 s)"


def test_a_screen_never_leaves_its_edges() -> None:
    long = FULL._replace(error="x" * 500, addresses=tuple(f"eth{n} 10.0.0.1/8" for n in range(40)))
    for rows, columns in ((25, 80), (50, 160), (3, 10), (1, 1)):
        terminal = Terminal()
        terminal.feed(screen.frame(long, rows, columns))
        assert len(terminal.lines) <= rows
        assert max(map(len, terminal.lines), default=0) < max(columns, 2)


def test_a_screen_is_drawn_over_the_one_before() -> None:
    text = screen.frame(FULL, 25, 80)
    assert text.startswith("\x1b[?25l\x1b[H")
    assert text.endswith("\x1b[J")
    assert "\x1b[2J" not in text, "it would flicker"
    assert "example.org/node/web1\x1b[K" in text


def test_nobody_steers_the_terminal_by_a_name_or_an_error() -> None:
    bad = FULL._replace(host="a\x1b[2J", error="\x9b5m\r\n\x07")
    text = screen.frame(bad, 25, 80)
    assert "\x1b[2J" not in text
    assert "\x9b" not in text
    assert "\x07" not in text


def test_what_is_too_long_for_a_line_is_broken_at_a_blank() -> None:
    text = "network: " + "seven chars " * 12
    terminal = Terminal()
    terminal.feed(screen.frame(FULL._replace(error=text.strip()), 25, 80))
    (first,) = (n for n, line in enumerate(terminal.lines) if "last error" in line)
    assert terminal.lines[first].endswith(" seven")
    assert terminal.lines[first + 1].startswith("               chars seven")


class Terminal:
    """The lines of a frame, without its escape sequences."""

    def feed(self, text: str) -> None:
        import re

        plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
        self.lines = plain.split("\r\n")


@pytest.mark.parametrize(
    ("services", "lines", "well"),
    [
        ((Service("runtime", "serving", True, 1),), ("API: serving",), True),
        (
            (Service("runtime", "", True, 7),),
            ("API: does not answer, started 7 times",),
            False,
        ),
        (
            (Service("runtime", "serving", True, 2), Service("network", "", True, 1)),
            ("API: serving, started 2 times", "network: runs"),
            True,
        ),
        (
            (Service("runtime", "serving", True, 1), Service("network", "", False, 3)),
            ("API: serving", "network: does not run, started 3 times"),
            False,
        ),
    ],
)
def test_health_is_that_of_the_services(
    services: tuple[Service, ...], lines: tuple[str, ...], well: bool
) -> None:
    assert screen.health(services, going_down="") == (lines, well)
    assert screen.health(services, going_down="reboot") == (("going down: reboot", *lines), False)


def test_the_addresses_of_this_host_are_those_that_ip_shows() -> None:
    found = [address.text for address in addresses.addresses()]
    assert "127.0.0.1" in found
    shown = screen.host_addresses()
    assert shown
    assert not any(line.startswith("lo ") for line in shown)


def test_all_that_came_is_taken() -> None:
    listener, kernel = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with listener, kernel:
        listener.setblocking(False)
        for _ in range(3):
            kernel.send(b"an address has changed")
        addresses.drain(listener)
        with pytest.raises(BlockingIOError):
            listener.recv(1)


def test_an_address_that_is_not_usable_yet_is_left_out() -> None:
    def message(flags: int) -> bytes:
        told = bytes((socket.AF_INET, 24, flags, 0)) + (2).to_bytes(4, "little")
        return told + b"\x08\0\x01\0\x0a\0\x02\x0f"

    assert addresses.parse(message(0x80)) == addresses.Address(2, "10.0.2.15", 24, 0)
    assert addresses.parse(message(0x40)) is None


def test_the_version_is_that_of_the_image(tmp_path: Path) -> None:
    release = tmp_path / "os-release"
    release.write_text('NAME="x"\nIMAGE_VERSION="2.0+abc"\n')
    assert screen.version(str(release)) == "2.0+abc"
    assert screen.version(str(tmp_path / "none")) == VERSION


def test_virtual_terminals_that_nobody_sees_are_no_display(tmp_path: Path) -> None:
    for name, shown, bound in (("vtcon0", "(S) dummy device", "1"), ("vtcon1", "(M) fb", "0")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "name").write_text(f"{shown}\n")
        (tmp_path / name / "bind").write_text(f"{bound}\n")
    assert not screen.has_display(str(tmp_path))
    (tmp_path / "vtcon1/bind").write_text("1\n")
    assert screen.has_display(str(tmp_path))
    assert not screen.has_display(str(tmp_path / "none"))


class Machine:
    """A screen on a loop, with a serial line as its console."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.state = FULL
        self.looks = 0
        self._read, self._write = os.pipe2(os.O_NONBLOCK)
        self.log = Log(Console(self._write))
        self.loop = Loop(_raise)
        monkeypatch.setattr(screen, "consoles", lambda: ["ttyS0"])
        monkeypatch.setattr(screen, "has_display", lambda: False)
        for name, seconds in (("DRAW", 0.01), ("SETTLE", 0.05), ("BLOCKS", 0.2), ("LATEST", 0.5)):
            monkeypatch.setattr(screen, name, seconds)
        self.screen = Screen(self.loop, self.log, self._look)

    def close(self) -> None:
        self.screen.close()
        self.loop.close()
        os.close(self._read)
        os.close(self._write)

    def _look(self) -> State:
        self.looks += 1
        return self.state

    def said(self) -> str:
        try:
            return os.read(self._read, 1 << 16).decode()
        except BlockingIOError:
            return ""

    def until(self, done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 10
        while not done():
            assert time.monotonic() < deadline
            self.loop.turn(0.01)

    def turn_for(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        self.until(lambda: time.monotonic() > end)


def _raise(error: BaseException) -> None:
    raise error


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    made = Machine(monkeypatch)
    yield made
    made.close()


def test_nothing_is_shown_before_it_is_started(shown: Machine) -> None:
    shown.screen.changed()
    shown.turn_for(0.1)
    assert shown.looks == 0
    shown.screen.start()
    shown.until(lambda: "status: web1: aurae" in shown.said())


def test_a_serial_line_gets_a_block_once_things_have_settled_and_not_often(
    shown: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(screen, "SETTLE", 60)
    monkeypatch.setattr(screen, "LATEST", 60)
    shown.screen.start()
    shown.turn_for(0.2)
    assert shown.said() == "", "things have not settled"
    monkeypatch.setattr(screen, "SETTLE", 0.05)
    first = time.monotonic()
    shown.screen.changed()
    shown.until(lambda: shown.said().count("aurae 1.2.3") == 1)
    shown.state = FULL._replace(addresses=("none",))
    shown.screen.changed()
    shown.until(lambda: "addresses     none" in shown.said())
    # Twice until they have settled, and once between two blocks.
    assert time.monotonic() - first > 0.2


def test_a_screen_goes_on_listening_with_what_the_one_before_had(shown: Machine) -> None:
    before = addresses.listen().detach()
    made = Screen(shown.loop, shown.log, lambda: FULL, before)
    assert made.listener == before
    made.start()
    assert made.listener == before
    made.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(before)


def test_what_never_settles_is_shown_all_the_same(shown: Machine) -> None:
    shown.screen.start()

    def said() -> bool:
        shown.screen.changed()
        return "aurae 1.2.3" in shown.said()

    shown.until(said)


def test_what_is_as_it_was_is_not_said_again(shown: Machine) -> None:
    shown.screen.start()
    shown.until(lambda: "aurae 1.2.3" in shown.said())
    shown.screen.changed()
    shown.turn_for(0.4)
    assert shown.said() == ""


def test_the_last_error_is_remembered_whoever_had_it() -> None:
    log = Log(None)
    told: list[str] = []
    log.on_failure = lambda: told.append(log.failure)
    log.show("runtime", "info: fine")
    log.error("cannot mount it")
    log.show("network", "error: no lease")
    assert told[0].startswith("auraed: cannot mount it (at ")
    assert told[1].startswith("network: no lease (at ")
    assert log.failure == told[1]


def test_the_kernel_command_line_switches_it_off() -> None:
    assert parse("quiet").screen
    assert not parse("aurae.screen=off").screen
    assert parse("aurae.screen=1").problems == ("aurae.screen=1: must be on or off",)
