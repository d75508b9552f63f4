"""Limits, seen in their effect on what runs."""

from collections.abc import Mapping, Sequence

from aurae.cells.v0 import cells_pb2 as pb

from testkit.cells import Cell
from testkit.machines import Machine

CGROUPS = "/sys/fs/cgroup/aurae"

# Takes 4 MB a second time and again until something stops it.
HOG = "x=$(head -c 4000000 /dev/zero | tr '\\0' x); while :; do x=$x$x; done"

# Wants all of a processor.
BURN = "while :; do :; done"


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


def test_memory_high_makes_a_cell_give_back_and_kills_nothing(machine: Machine) -> None:
    """What it reads stays in memory as long as there is room: 8 MiB here, in the end."""
    read = "find /usr -type f -exec cat {} + | wc -c"
    with machine.cell("high", memory=pb.MemoryController(high=8 << 20)) as cell:
        assert int(cell.read(read)) > 32 << 20
        events = numbers(machine, "high", "memory.events")
        assert events["high"] > 0
        assert events["oom_kill"] == 0
        current = int(machine.system.read(f"cat {CGROUPS}/high/memory.current"))
        assert current < 10 << 20


def usage(machine: Machine, cells: Sequence[str], seconds: int) -> list[float]:
    """CPU seconds that each of the cells gets in a second, seen for so many seconds."""
    look = "".join(f"grep usage_usec {CGROUPS}/{cell}/cpu.stat; " for cell in cells)
    clock = "cut -d ' ' -f 1 /proc/uptime; "
    said = machine.system.read(f"{clock}{look} sleep {seconds}; {clock}{look}").splitlines()
    half = len(said) // 2
    elapsed = float(said[half]) - float(said[0])
    used = zip(said[1:half], said[half + 1 :], strict=True)
    return [(int(b.split()[1]) - int(a.split()[1])) / 1e6 / elapsed for a, b in used]


def test_cpu_max_holds_a_busy_loop_to_its_share(machine: Machine) -> None:
    with (
        machine.cell("slow", cpu=pb.CpuController(max=20_000, period=100_000)) as slow,
        machine.cell("fast") as fast,
    ):
        slow.start("burn", BURN)
        fast.start("burn", BURN)
        share, free = usage(machine, ["slow", "fast"], 5)
        assert numbers(machine, "slow", "cpu.stat")["nr_throttled"] > 10
        # Under emulation a period may be overdrawn a little.
        assert 0.1 < share < 0.3
        assert free > 0.6


def test_cpu_weight_divides_a_contended_processor(machine: Machine) -> None:
    with (
        machine.cell("shared", cpuset=pb.CpusetController(cpus="0")),
        machine.cell("shared/big", cpu=pb.CpuController(weight=900)) as big,
        machine.cell("shared/small", cpu=pb.CpuController(weight=100)) as small,
    ):
        big.start("burn", BURN)
        small.start("burn", BURN)
        more, less = usage(machine, ["shared/big", "shared/small"], 8)
        assert 4 < more / less < 20


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
