"""Who starts a version again that hangs: a process that sleeps."""

import subprocess
import sys
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


def run(program: str, trigger: Path) -> None:
    """In a process of its own, as it forks."""
    trigger.touch()
    line = [
        sys.executable,
        "-c",
        f"import os\nfrom initd.boot import guard\n{program}",
        str(trigger),
    ]
    subprocess.run(line, check=True, timeout=60)


def test_one_that_is_ended_does_nothing(tmp_path: Path) -> None:
    run(
        """
import signal, sys
guard.start(sys.argv[1])
pid = int(os.environ["AURAE_GUARD"])
guard.end()
assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL
assert "AURAE_GUARD" not in os.environ
guard.end()
""",
        tmp_path / "sysrq",
    )
    assert not (tmp_path / "sysrq").read_bytes()


def test_one_that_is_not_starts_the_machine_again(tmp_path: Path) -> None:
    run(
        """
import sys
guard.seconds = lambda _: 0
guard.start(sys.argv[1])
os.waitpid(int(os.environ["AURAE_GUARD"]), 0)
""",
        tmp_path / "sysrq",
    )
    assert (tmp_path / "sysrq").read_bytes() == b"b"
