from pathlib import Path

import pytest

from image.console import Console, LostError, NotSeenError, after_escape, clean
from image.monitor import forwarded_port


def runs(_seconds: float | None) -> bool:
    return False


def ended(_seconds: float | None) -> bool:
    return True


def test_expect_reads_on_from_what_it_has_seen(tmp_path: Path) -> None:
    file = tmp_path / "console"
    file.write_bytes("one\r\ntwo\r\none ä\r\n".encode())
    console = Console(file, runs)
    assert console.wait_for("o(.)e", 1)[1] == "n"
    assert console.wait_for("one (.)", 1)[1] == "ä"
    with pytest.raises(NotSeenError, match=r"no 'one' in 0\.05 s"):
        console.wait_for("one", 0.05)


def test_what_comes_while_waiting_is_seen(tmp_path: Path) -> None:
    file = tmp_path / "console"

    def write(_seconds: float | None) -> bool:
        file.write_text("late")
        return False

    assert Console(file, write).wait_for("late", 5)[0] == "late"


def test_a_machine_that_ends_or_panics_first_is_lost(tmp_path: Path) -> None:
    file = tmp_path / "console"
    file.write_text("starting\n")
    with pytest.raises(LostError, match="QEMU has ended before 'ready'"):
        Console(file, ended).wait_for("ready", 5)
    file.write_text("Kernel panic - not syncing: no init\nready\n")
    with pytest.raises(LostError, match="kernel panic before 'ready'"):
        Console(file, runs).wait_for("ready", 5)


def test_the_last_words_of_a_machine_that_has_ended_are_seen(tmp_path: Path) -> None:
    file = tmp_path / "console"
    file.write_text("reboot: Power down\n")
    assert Console(file, ended).wait_for("Power (.*)\n", 5)[1] == "down"


def test_text_has_no_escape_sequences() -> None:
    assert clean(b"\x1b[2J\x1b[1;1Hhello\r\n\x1b[31mred\x1b[0m\x1bc") == "hello\nred"


@pytest.mark.parametrize(
    ("typed", "sent", "waits"),
    [
        (b"ls\r", b"ls\r", False),
        (b"a\x01", b"a", True),
        (b"\x01\x01", b"\x01", False),
        (b"\x01b", b"\x01b", False),
        (b"a\x01x", None, False),
        (b"\x01X", None, False),
        (b"x", b"x", False),
    ],
)
def test_ctrl_a_x_leaves_and_all_else_is_typed(
    typed: bytes, sent: bytes | None, waits: bool
) -> None:
    assert after_escape(typed, escaped=False) == (waits, sent)


def test_ctrl_a_x_leaves_also_when_it_comes_in_two_reads() -> None:
    escaped, sent = after_escape(b"\x01", escaped=False)
    assert (escaped, sent) == (True, b"")
    assert after_escape(b"x", escaped=escaped) == (False, None)


def test_the_forwarded_port_is_read_from_qemus_table() -> None:
    table = """Hub -1 (nic0):
  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ
  TCP[ESTABLISHED]   12       127.0.0.1 50000       10.0.2.15  8080     0     0
  TCP[HOST_FORWARD]  10       127.0.0.1 41433       10.0.2.15  8080     0     0
"""
    assert forwarded_port(table) == 41433
    assert forwarded_port("") is None
