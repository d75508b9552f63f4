"""Who starts a version again that hangs: a process that sleeps."""

import os
import signal
from pathlib import Path

import pytest

from initd.boot import guard


@pytest.mark.parametrize(
    ("cmdline", "seconds"),
    [
        ("quiet", 120 + guard.MORE),
        ("aurae.health=30 quiet", 30 + guard.MORE),
        ("aurae.health=30 aurae.health=40", 40 + guard.MORE),
        ("aurae.health=never", 120 + guard.MORE),
    ],
)
def test_it_sleeps_longer_than_a_version_may_take(cmdline: str, seconds: int) -> None:
    assert guard.seconds(cmdline) == seconds


def test_one_that_is_ended_does_nothing(tmp_path: Path) -> None:
    trigger = tmp_path / "sysrq"
    trigger.touch()
    guard.start(str(trigger))
    pid = int(os.environ["AURAE_GUARD"])
    guard.end()
    _, status = os.waitpid(pid, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    assert "AURAE_GUARD" not in os.environ
    assert not trigger.read_bytes()
    guard.end()


def test_one_that_is_not_starts_the_machine_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trigger = tmp_path / "sysrq"
    trigger.touch()
    monkeypatch.setattr(guard, "seconds", lambda _: 0)
    monkeypatch.setenv("AURAE_GUARD", "")
    guard.start(str(trigger))
    os.waitpid(int(os.environ["AURAE_GUARD"]), 0)
    assert trigger.read_bytes() == b"b"
