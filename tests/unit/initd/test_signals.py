"""What signals to PID 1 do: the table in the docs, the loop and the minimal loop say the same."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from initd import fallback, machine, shutdown
from initd.linux import power
from initd.linux.splice import make_pipe

DOCS = Path(__file__).parents[3] / "docs/signals.md"


def documented() -> dict[str, str]:
    rows = re.findall(r"^\| (SIG\w+) \|.*\| (\w+) \|$", DOCS.read_text(), re.MULTILINE)
    return dict(rows)


def test_the_table_in_the_docs_is_what_the_loop_does() -> None:
    roads = {number.name: how.value for number, (how, _) in machine.SIGNALS.items()}
    assert documented() == {"SIGCHLD": "reap", **roads}


def test_the_minimal_loop_takes_the_same_roads() -> None:
    actions = {number: power.Action[action] for number, (action, _) in fallback.ROADS.items()}
    assert actions == {
        number: shutdown.ACTIONS[how] for number, (how, _) in machine.SIGNALS.items()
    }


# As PID 1 would, but for ending the machine, on the children and pipes of a process of its own.
LOOP = """
import os, sys
from initd import fallback

def go_down(action, letter):
    print("down", action, flush=True)
    os._exit(0)

fallback._go_down = go_down
fallback._say = lambda text: print(text, flush=True)
read, write = os.pipe2(os.O_NONBLOCK)
os.set_blocking(write, True)
child = os.fork()
if child == 0:
    for _ in range(100):
        os.write(write, b"x" * 65536)
    print("written", flush=True)
    os._exit(0)
print("child", child, flush=True)
fallback.run("a reason")
"""


def test_the_minimal_loop_says_why_reaps_empties_pipes_and_goes_down() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", LOOP],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[3],
    ) as process:
        assert process.stdout is not None
        said = {process.stdout.readline() for _ in range(2)}
        (child,) = (int(line.split()[1]) for line in said if line.startswith("child"))
        assert "fatal: a reason\n" in said
        assert process.stdout.readline().startswith("workloads run on without API")
        assert process.stdout.readline() == "written\n"
        deadline = time.monotonic() + 20
        while Path(f"/proc/{child}").exists():
            assert time.monotonic() < deadline, "the child was not reaped"
            time.sleep(0.01)
        for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGALRM):
            process.send_signal(number)
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "down RESTART\n"
        assert process.wait(20) == 0


def test_the_minimal_loop_reads_only_what_pid_1_reads() -> None:
    read, write = make_pipe()
    try:
        assert read in fallback.pipes()
        assert write not in fallback.pipes()
        os.write(write, b"output")
        fallback.drain(fallback.pipes())
        with pytest.raises(BlockingIOError):
            os.read(read, 1)
    finally:
        os.close(read)
        os.close(write)
