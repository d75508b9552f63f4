"""Executables: as whom and in what they run, how they end, and that all of them is gone then."""

import time
from typing import Final

import grpc
import pytest
from aurae.cells.v0 import cells_pb2 as pb

from testkit.cells import Cell
from testkit.machines import Machine
from testkit.refusals import refused

CGROUPS: Final = "/sys/fs/cgroup/aurae"

# A process tree that does what it can to get away: it forks twice, leaves its session and its
# process group, ignores what may be ignored, and closes nothing.
RUNAWAYS: Final = """
trap '' TERM HUP INT
for i in 1 2 3; do
  setsid sh -c 'setsid sh -c "trap \\"\\" TERM HUP; while :; do sleep 1; done" & exit' &
done
wait
echo up
while :; do sleep 1; done
"""


def alive(machine: Machine, cell: str) -> list[str]:
    """What runs in the cell or below, by process ID."""
    read = f"cat $(find {CGROUPS}/{cell} -name cgroup.procs)"
    return machine.system.read(read).split()


def wait_for_line(cell: Cell, executable: str, text: str) -> None:
    """Return once it has said so; the call's own deadline bounds it."""
    for item in cell.follow(executable):
        if item.line == text:
            return
    raise AssertionError(f"{executable} ended and had not said {text!r}")


def test_start_answers_with_the_process_and_list_shows_it_run_and_end(machine: Machine) -> None:
    with machine.cell("c") as cell:
        answer = cell.start("one", "trap 'exit 7' USR1; echo up; while :; do sleep 0.1; done")
        wait_for_line(cell, "one", "up")
        running = cell.status("one")
        assert (running.pid, running.state) == (answer.pid, pb.EXECUTABLE_STATE_RUNNING)
        assert not running.HasField("ended_at")
        machine.system.read(f"kill -USR1 {answer.pid}")
        ended = cell.wait("one")
        assert (ended.state, ended.exit_code) == (pb.EXECUTABLE_STATE_ENDED, 7)
        assert not ended.HasField("signal")
        assert ended.started_at == running.started_at
        assert ended.started_at.ToNanoseconds() < ended.ended_at.ToNanoseconds()
        assert cell.status("one") == ended


def test_the_exit_code_is_the_commands(machine: Machine) -> None:
    with machine.cell("c") as cell:
        for code in (0, 1, 42, 255):
            assert cell.run(f"exit {code}").exit_code == code
        assert cell.run("kill -USR1 $$").signal == 10
        missing = cell.run("/no/such/program")
        assert missing.exit_code == 127
        assert "not found" in missing.stderr


def test_an_executable_runs_as_the_user_and_group_asked_for(machine: Machine) -> None:
    script = "id -u; id -g; id -G; grep -E '^(Uid|Gid|Groups)' /proc/self/status"
    with machine.cell("c") as cell:
        said = cell.run(script, uid=1000, gid=2000).stdout.split("\n")
        assert said[:3] == ["1000", "2000", "2000"]
        assert said[3].split() == ["Uid:", *["1000"] * 4]
        assert said[4].split() == ["Gid:", *["2000"] * 4]
        assert said[5].split() in (["Groups:"], ["Groups:", "2000"])
        assert cell.run(script).stdout.split("\n")[:2] == ["0", "0"]
        assert cell.run("cat /proc/1/environ", uid=1000).exit_code != 0
        assert cell.run("ls /run/credentials/@system", uid=1000).exit_code != 0


def test_an_executable_gets_its_arguments_environment_and_folder(machine: Machine) -> None:
    script = 'echo "$0|$1|$2|$#"; echo "$GREETING"; pwd; echo "$PATH|$AURAE_CELL|$AURAE_EXECUTABLE"'
    with machine.cell("c") as cell:
        cell.start(
            "one",
            script,
            "a b",
            "$HOME",
            environment={"GREETING": "grüezi\nmitenand", "AURAE_CELL": "mine"},
            working_directory="/run",
        )
        said = cell.lines("one")["stdout"]
        assert said[0] == "one|a b|$HOME|2"
        assert said[1:3] == ["grüezi", "mitenand"]
        assert said[3] == "/run"
        assert said[4].endswith("|mine|one")
        assert "/bin" in said[4]


def test_an_executable_leads_a_session_of_its_own_without_descriptors_of_ours(
    machine: Machine,
) -> None:
    stat = "cut -d ' ' -f 1,5,6 /proc/$$/stat"  # pid, process group, session
    # `true` lets the shell start ls, and not become it.
    script = f"{stat}; ls /proc/$$/fd; true"
    with machine.cell("c") as cell:
        said = cell.read(script).split("\n")
        leader = said[0].split()
        assert leader[0] == leader[1] == leader[2]
        assert said[1:] == ["0", "1", "2", ""]
        assert cell.read("cat; echo end") == "end\n"


def test_without_a_cell_it_runs_in_the_systems_own_cell(machine: Machine) -> None:
    where = machine.system.read("cat /proc/self/cgroup").strip()
    assert where.startswith("0::/aurae/_system/_")
    assert machine.system.node().cell.name == "_system"


def test_it_runs_in_a_leaf_of_its_cell(machine: Machine) -> None:
    with machine.cell("c"), machine.cell("c/d") as cell:
        cell.start("exe.1_x-y", "cat /proc/self/cgroup")
        assert cell.lines("exe.1_x-y")["stdout"] == ["0::/aurae/c/d/_exe.1_x-y"]


def test_an_ended_name_can_be_started_anew(machine: Machine) -> None:
    with machine.cell("c") as cell:
        first = cell.start("again", "echo one").pid
        assert cell.lines("again")["stdout"] == ["one"]
        cell.wait("again")
        second = cell.start("again", "echo two").pid
        assert second != first
        assert cell.lines("again")["stdout"] == ["two"]
        assert len(cell.node().executables) == 1


def test_the_same_name_in_another_cell_is_another_executable(machine: Machine) -> None:
    with machine.cell("a") as a, machine.cell("b") as b:
        a.start("same", "exec sleep 1000")
        b.start("same", "echo b")
        assert b.wait("same").exit_code == 0
        assert a.status("same").state == pb.EXECUTABLE_STATE_RUNNING


def test_stop_ends_the_whole_tree(machine: Machine) -> None:
    with machine.cell("c") as cell:
        cell.start("runaways", RUNAWAYS)
        wait_for_line(cell, "runaways", "up")
        assert len(alive(machine, "c")) >= 4
        cell.stop("runaways", grace=0.5)
        assert alive(machine, "c") == []
        assert cell.status("runaways").signal == 9
        assert machine.system.read(f"ls {CGROUPS}/c | grep ^_ || true") == ""


def test_free_ends_the_whole_tree(machine: Machine) -> None:
    with machine.cell("c") as cell:
        cell.start("runaways", RUNAWAYS)
        wait_for_line(cell, "runaways", "up")
        processes = alive(machine, "c")
        cell.free(grace=0.5)
        left = machine.system.read("ls /proc").split()
        assert not set(processes) & set(left)


def test_what_an_executable_leaves_behind_ends_with_it(machine: Machine) -> None:
    with machine.cell("c") as cell:
        cell.start("parent", "setsid sleep 1000 & echo $!")
        assert cell.wait("parent").exit_code == 0
        (child,) = cell.lines("parent")["stdout"]
        assert child not in machine.system.read("ls /proc").split()


def test_stop_asks_first_and_gives_the_time_that_was_asked_for(machine: Machine) -> None:
    polite = "trap 'echo bye; exit 3' TERM; echo up; while :; do sleep 0.1; done"
    with machine.cell("c") as cell:
        cell.start("polite", polite)
        wait_for_line(cell, "polite", "up")
        cell.stop("polite", grace=30)
        status = cell.status("polite")
        assert status.exit_code == 3
        assert cell.lines("polite")["stdout"] == ["up", "bye"]


def test_one_that_ignores_sigterm_is_killed_after_the_grace(machine: Machine) -> None:
    stubborn = "trap '' TERM; echo up; while :; do sleep 0.1; done"
    with machine.cell("c") as cell:
        cell.start("stubborn", stubborn)
        wait_for_line(cell, "stubborn", "up")
        began = time.monotonic()
        cell.stop("stubborn", grace=2)
        assert 2 <= time.monotonic() - began < 20
        assert cell.status("stubborn").signal == 9


def test_a_grace_of_zero_kills_at_once(machine: Machine) -> None:
    with machine.cell("c") as cell:
        cell.start("polite", "trap 'echo asked; exit' TERM; echo up; while :; do sleep 0.1; done")
        wait_for_line(cell, "polite", "up")
        cell.stop("polite", grace=0)
        assert cell.status("polite").signal == 9
        assert cell.lines("polite")["stdout"] == ["up"]


def test_stopping_what_has_ended_changes_nothing(machine: Machine) -> None:
    with machine.cell("c") as cell:
        cell.start("short", "exit 5")
        ended = cell.wait("short")
        cell.stop("short")
        assert cell.status("short") == ended


def test_wait_answers_when_the_executable_ends_and_at_once_afterwards(machine: Machine) -> None:
    with machine.cell("c") as cell:
        cell.start("later", "sleep 1; exit 4")
        assert cell.wait("later").exit_code == 4
        assert cell.wait("later", timeout=10).exit_code == 4


def test_a_wait_ends_with_its_deadline_and_the_executable_goes_on(machine: Machine) -> None:
    with machine.cell("c") as cell:
        cell.start("long", "exec sleep 1000")
        with refused(grpc.StatusCode.DEADLINE_EXCEEDED):
            cell.wait("long", timeout=1)
        assert cell.status("long").state == pb.EXECUTABLE_STATE_RUNNING


def test_a_call_that_is_cancelled_is_not_gone_on_with(machine: Machine) -> None:
    """Free has sent SIGTERM when its deadline passes: the cell stays, and can be freed again."""
    with machine.cell("c") as cell:
        cell.start("stubborn", "trap '' TERM; echo up; while :; do sleep 0.1; done")
        wait_for_line(cell, "stubborn", "up")
        request = pb.CellServiceFreeRequest(cell_name="c")
        with refused(grpc.StatusCode.DEADLINE_EXCEEDED):
            machine.api.cells.Free(request, timeout=1)
        assert cell.node().cell.name == "c"
        cell.start("other", "true")
        cell.free(grace=0)


def test_executables_of_a_cell_are_listed_in_the_order_of_their_starts(machine: Machine) -> None:
    with machine.cell("c") as cell:
        for name in ("z", "a", "m"):
            cell.start(name, "true")
        assert [status.executable.name for status in cell.node().executables] == ["z", "a", "m"]


def test_orphans_are_reaped(machine: Machine) -> None:
    """Their parents end before them and nobody waits: PID 1 must, or zombies stay."""
    with machine.cell("c") as cell:
        orphans = "for i in 1 2 3 4 5 6 7 8 9; do (sh -c 'sleep 0.2 & exit' &); done; sleep 2"
        cell.start("orphans", orphans)
        assert cell.wait("orphans").exit_code == 0
        stats = machine.system.read("cat /proc/[0-9]*/stat 2>/dev/null; true").splitlines()
        assert [line for line in stats if line.rpartition(")")[2].split()[0] == "Z"] == []


@pytest.mark.parametrize("count", [50])
def test_many_executables_run_side_by_side(machine: Machine, count: int) -> None:
    with machine.cell("c") as cell:
        for number in range(count):
            cell.start(f"e{number}", f"sleep 1; exit {number}")
        codes = [cell.wait(f"e{number}").exit_code for number in range(count)]
        assert codes == list(range(count))
