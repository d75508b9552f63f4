"""The runtime that `/init` begins and PID 1 lets go on, with a module of the test's as runtime."""

import os
import select
import subprocess
import sys
from pathlib import Path

import pytest

from initd import headstart

# What /init does, and then PID 1: a script of its own, for who forks it must have one thread.
SCRIPT = """
import os, sys
from initd import headstart

os.chroot = lambda root: os.write(1, f"enters {root}\\n".encode())
started, answer = headstart.begin("pretended", "before")
started.let_in(sys.argv[1], answer)
started.go()
os.environ.update(started.variables())
found = headstart.taken()
assert found == started, (found, started)
assert headstart.taken() is None
os.close(found.end)
if sys.argv[2] == "go":
    found.go()
os.close(found.gate)
os.set_blocking(found.output, True)
with open(found.output) as output:
    sys.stdout.write(output.read())
_, status = os.waitpid(found.pid, 0)
sys.exit(os.waitstatus_to_exitcode(status))
"""

RUNTIME = """
import os
from initd import headstart

def main():
    print("imported", os.environ["HOME"], os.getsid(0) == os.getpid(), flush=True)
    headstart.wait()
    print("runs", sorted(os.environ) == sorted(headstart.ENVIRONMENT), flush=True)
    return 7
"""

AHEAD = """
def steps():
    print("takes a step", flush=True)
    yield
"""


def run(tmp_path: Path, what: str, runtime: str = RUNTIME) -> subprocess.CompletedProcess[str]:
    (tmp_path / "pretended.py").write_text(runtime)
    (tmp_path / "before.py").write_text(AHEAD)
    path = os.pathsep.join((str(tmp_path), str(Path(headstart.__file__).parents[1])))
    return subprocess.run(
        [sys.executable, "-c", SCRIPT, "/the/root", what],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_runtime_enters_the_root_imports_and_goes_on_when_let(tmp_path: Path) -> None:
    done = run(tmp_path, "go")
    assert done.stdout.count("takes a step\n") == 1
    lines = ["enters /the/root", "imported /root True", "runs True"]
    told = [line for line in done.stdout.splitlines() if line != "takes a step"]
    assert (told, done.returncode) == (lines, 7), done.stderr


def test_a_runtime_that_is_not_wanted_ends_and_says_so(tmp_path: Path) -> None:
    done = run(tmp_path, "stay")
    assert done.returncode == 1
    assert "runs" not in done.stdout
    assert "not wanted: PID 1 closed the gate" in done.stdout


def test_a_runtime_that_cannot_be_imported_ends_and_says_why(tmp_path: Path) -> None:
    done = run(tmp_path, "go", "import nothing_of_that_name")
    assert done.returncode == 1
    assert "No module named 'nothing_of_that_name'" in done.stdout


@pytest.mark.parametrize("text", ["", "1:2:3", "1:2:3:x", "1:9997:9998:9999"])
def test_a_variable_of_somebody_else_is_no_head_start(
    monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("AURAE_HEAD_START", text)
    assert headstart.taken() is None
    assert "AURAE_HEAD_START" not in os.environ


def test_without_a_head_start_nobody_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AURAE_HEAD_START", raising=False)
    headstart.wait()


def test_the_pipes_of_a_head_start_do_not_block_pid_1(monkeypatch: pytest.MonkeyPatch) -> None:
    output, end = os.pipe()
    waiting, gate = os.pipe()
    started = headstart.HeadStart(1, output, end, gate)
    for name, value in started.variables().items():
        monkeypatch.setenv(name, value)
    assert headstart.taken() == started
    assert [os.get_inheritable(fd) for fd in started[1:]] == [False] * 3
    assert not os.get_blocking(output)
    started.go()
    assert select.select([waiting], [], [], 0)[0] == [waiting]
    os.close(waiting)
    started.go()
    for fd in started[1:]:
        os.close(fd)
