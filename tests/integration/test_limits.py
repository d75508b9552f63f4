"""Limits, seen in their effect on what runs."""

from collections.abc import Mapping

from aurae.cells.v0 import cells_pb2 as pb

from testkit.cells import Cell
from testkit.machines import Machine

CGROUPS = "/sys/fs/cgroup/aurae"

# Takes 4 MB a second time and again until something stops it.
HOG = "x=$(head -c 4000000 /dev/zero | tr '\\0' x); while :; do x=$x$x; done"

# Burns CPU for as many seconds as its argument, and never more than one processor.
BURN = "end=$(( $(date +%s) + $1 )); while [ $(date +%s) -lt $end ]; do :; done"


def numbers(machine: Machine, cell: str, file: str) -> Mapping[str, int]:
    """A file of lines with a key and a number."""
    lines = machine.system.read(f"cat {CGROUPS}/{cell}/{file}").splitlines()
    return {key: int(value) for key, value in (line.split() for line in lines)}


def test_a_memory_hog_is_killed_in_its_cell_only(machine: Machine) -> None:
    with (
        machine.cell("tight", memory=pb.MemoryController(max=32 << 20)) as tight,
        machine.cell("beside") as beside,
    ):
        beside.start("bystander", "exec sleep 1000")
        tight.start("hog", HOG)
        assert tight.wait("hog").signal == 9
        assert numbers(machine, "tight", "memory.events")["oom_kill"] >= 1
        assert numbers(machine, "beside", "memory.events")["oom_kill"] == 0
        assert beside.status("bystander").state == pb.EXECUTABLE_STATE_RUNNING
    assert "Out of memory: Killed process 1 " not in machine.console.text


def test_a_limit_counts_all_executables_of_the_cell_and_its_children(machine: Machine) -> None:
    with (
        machine.cell("outer", memory=pb.MemoryController(max=32 << 20)),
        machine.cell("outer/inner") as inner,
    ):
        inner.start("hog", HOG)
        assert inner.wait("hog").signal == 9
        assert numbers(machine, "outer", "memory.events")["oom_kill"] >= 1


def test_memory_high_slows_a_cell_and_kills_nothing(machine: Machine) -> None:
    fill = "head -c 30000000 /dev/zero > /run/fill; echo filled; rm /run/fill"
    with machine.cell("high", memory=pb.MemoryController(high=8 << 20)) as cell:
        cell.start("fill", fill)
        assert cell.wait("fill").exit_code == 0
        events = numbers(machine, "high", "memory.events")
        assert events["high"] > 0
        assert events["oom_kill"] == 0


def test_cpu_max_holds_a_busy_loop_to_its_share(machine: Machine) -> None:
    """A fifth of one processor. What counts is the CPU time that the kernel let it have."""
    with machine.cell("slow", cpu=pb.CpuController(max=20_000, period=100_000)) as slow:
        slow.start("burn", BURN, "5")
        status = slow.wait("burn")
        seconds = (status.ended_at.ToNanoseconds() - status.started_at.ToNanoseconds()) / 1e9
        stat = numbers(machine, "slow", "cpu.stat")
        share = stat["usage_usec"] / 1e6 / seconds
        assert stat["nr_throttled"] > 10
        # Under emulation a period may be overdrawn a little; without the limit it is about 1.
        assert 0.1 < share < 0.3


def test_cpu_weight_divides_a_contended_processor(machine: Machine) -> None:
    with (
        machine.cell("shared", cpuset=pb.CpusetController(cpus="0")),
        machine.cell("shared/big", cpu=pb.CpuController(weight=900)) as big,
        machine.cell("shared/small", cpu=pb.CpuController(weight=100)) as small,
    ):
        for cell in (big, small):
            cell.start("burn", BURN, "8")
        for cell in (big, small):
            cell.wait("burn")
        usage = {
            name: numbers(machine, f"shared/{name}", "cpu.stat")["usage_usec"]
            for name in ("big", "small")
        }
        assert usage["big"] > 3 * usage["small"]


def test_a_cpuset_pins_what_runs_in_the_cell(machine: Machine) -> None:
    def allowed(cell: Cell) -> str:
        return cell.read("grep Cpus_allowed_list /proc/self/status").split()[1]

    with (
        machine.cell("first", cpuset=pb.CpusetController(cpus="0")) as first,
        machine.cell("second", cpuset=pb.CpusetController(cpus="1")) as second,
        machine.cell("second/child") as child,
        machine.cell("free") as free,
    ):
        assert allowed(first) == "0"
        assert allowed(second) == "1"
        assert allowed(child) == "1"
        assert allowed(free) == "0-1"


def test_limits_do_not_touch_what_runs_outside(machine: Machine) -> None:
    with machine.cell("zero", memory=pb.MemoryController(max=0)) as zero:
        assert zero.run("echo never").signal == 9
        assert machine.system.read("echo here") == "here\n"
