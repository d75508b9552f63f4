"""Cells: allocate, list, free, and the limits as the kernel holds them."""

import os
from typing import Final

import grpc
import pytest
from aurae.cells.v0 import cells_pb2 as pb

from testkit.cells import forest
from testkit.machines import Machine
from testkit.refusals import refused

# With AURAE_SOAK=1 the counts are large.
SOAK: Final = bool(os.environ.get("AURAE_SOAK"))
MANY: Final = 10_000 if SOAK else 200

CGROUPS: Final = "/sys/fs/cgroup/aurae"


def test_an_allocated_cell_is_a_cgroup_and_is_gone_after_free(machine: Machine) -> None:
    request = pb.CellServiceAllocateRequest(cell=pb.Cell(name="web"))
    answer = machine.api.cells.Allocate(request)
    assert answer.cell_name == "web"
    assert answer.cgroup_v2
    assert "web" in machine.system.read(f"ls {CGROUPS}").split()

    machine.api.cells.Free(pb.CellServiceFreeRequest(cell_name="web"))
    assert "web" not in machine.system.read(f"ls {CGROUPS}").split()
    assert "web" not in [node.cell.name for node in forest(machine.api)]


def test_a_name_with_every_kind_of_character_is_taken(machine: Machine) -> None:
    name = "0-aZ9/" + "x" * 63
    with machine.cell("0-aZ9"), machine.cell(name):
        assert name in [node.cell.name for node in forest(machine.api)]


def test_sixty_four_levels_are_the_deepest_cell(machine: Machine) -> None:
    names = ["/".join(["l"] * depth) for depth in range(1, 65)]
    for name in names:
        machine.api.cells.Allocate(pb.CellServiceAllocateRequest(cell=pb.Cell(name=name)))
    assert [node.cell.name for node in forest(machine.api) if node.cell.name != "_system"] == names
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "cell.name", "65 levels", "64"):
        machine.api.cells.Allocate(
            pb.CellServiceAllocateRequest(cell=pb.Cell(name=names[-1] + "/l"))
        )
    machine.api.cells.Free(pb.CellServiceFreeRequest(cell_name="l"))


def test_list_shows_the_forest_by_name_with_what_was_asked_for(machine: Machine) -> None:
    asked = pb.CpuController(weight=200, max=50_000, period=100_000)
    memory = pb.MemoryController(min=0, max=64 << 20)
    with (
        machine.cell("b"),
        machine.cell("a", cpu=asked, memory=memory),
        machine.cell("a/y"),
        machine.cell("a/x"),
    ):
        listed = machine.api.cells.List(pb.CellServiceListRequest()).cells
        tops = [node for node in listed if node.cell.name != "_system"]
        assert [node.cell.name for node in tops] == ["a", "b"]
        assert [node.cell.name for node in tops[0].children] == ["a/x", "a/y"]
        assert tops[0].cell == pb.Cell(name="a", cpu=asked, memory=memory)
        assert tops[1].cell == pb.Cell(name="b")


@pytest.mark.parametrize(
    ("limits", "file", "expected"),
    [
        ({"cpu": pb.CpuController(weight=1)}, "cpu.weight", "1"),
        ({"cpu": pb.CpuController(weight=777)}, "cpu.weight", "777"),
        ({"cpu": pb.CpuController(weight=10_000)}, "cpu.weight", "10000"),
        ({"cpu": pb.CpuController(max=50_000)}, "cpu.max", "50000 100000"),
        ({"cpu": pb.CpuController(max=20_000, period=40_000)}, "cpu.max", "20000 40000"),
        ({"cpu": pb.CpuController(max=1_000, period=1_000_000)}, "cpu.max", "1000 1000000"),
        ({"cpu": pb.CpuController(period=50_000)}, "cpu.max", "max 50000"),
        ({"cpuset": pb.CpusetController(cpus="1")}, "cpuset.cpus", "1"),
        ({"cpuset": pb.CpusetController(cpus="0-1")}, "cpuset.cpus", "0-1"),
        ({"cpuset": pb.CpusetController(cpus="0,1")}, "cpuset.cpus", "0-1"),
        ({"cpuset": pb.CpusetController(mems="0")}, "cpuset.mems", "0"),
        ({"memory": pb.MemoryController(min=4096)}, "memory.min", "4096"),
        ({"memory": pb.MemoryController(low=8192)}, "memory.low", "8192"),
        ({"memory": pb.MemoryController(high=1 << 25)}, "memory.high", str(1 << 25)),
        ({"memory": pb.MemoryController(max=1 << 26)}, "memory.max", str(1 << 26)),
        ({"memory": pb.MemoryController(min=0)}, "memory.min", "0"),
        ({"memory": pb.MemoryController(low=0)}, "memory.low", "0"),
        ({"memory": pb.MemoryController(high=0)}, "memory.high", "0"),
        ({"memory": pb.MemoryController(max=0)}, "memory.max", "0"),
        ({}, "cpu.weight", "100"),
        ({}, "cpu.max", "max 100000"),
        ({}, "memory.max", "max"),
        ({}, "memory.high", "max"),
        ({}, "memory.min", "0"),
    ],
)
def test_a_limit_stands_in_cgroupfs_as_it_was_given(
    machine: Machine, limits: dict[str, object], file: str, expected: str
) -> None:
    with machine.cell("limited", **limits):
        assert machine.system.read(f"cat {CGROUPS}/limited/{file}").strip() == expected


def test_a_refused_limit_leaves_no_cgroup(machine: Machine) -> None:
    """The weight alone could be set: neither it nor the cgroup may stay."""
    wanted = pb.Cell(
        name="half", cpu=pb.CpuController(weight=5), cpuset=pb.CpusetController(mems="7")
    )
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "cell.cpuset.mems", "7"):
        machine.api.cells.Allocate(pb.CellServiceAllocateRequest(cell=wanted))
    assert "half" not in machine.system.read(f"ls {CGROUPS}").split()
    with machine.cell("half"):
        pass


def test_a_childs_cpus_must_be_its_parents(machine: Machine) -> None:
    with machine.cell("one", cpuset=pb.CpusetController(cpus="0")):
        wanted = pb.Cell(name="one/two", cpuset=pb.CpusetController(cpus="1"))
        with refused(grpc.StatusCode.FAILED_PRECONDITION, "cell.cpuset.cpus", "cell above"):
            machine.api.cells.Allocate(pb.CellServiceAllocateRequest(cell=wanted))


def test_free_takes_the_children_and_what_runs_in_them_along(machine: Machine) -> None:
    with machine.cell("top") as top, machine.cell("top/mid"), machine.cell("top/mid/low") as low:
        outer = top.start("outer", "exec sleep 1000").pid
        inner = low.start("inner", "exec sleep 1000").pid
        top.free()
        left = machine.system.read("ls /proc").split()
        assert str(outer) not in left
        assert str(inner) not in left
        assert "top" not in machine.system.read(f"ls {CGROUPS}").split()


def test_free_ends_children_before_their_parents(machine: Machine) -> None:
    """Each writes a line when it is asked to end; the lines are in the order of the ends."""
    note = 'trap "echo $AURAE_CELL >> /run/order; exit" TERM; echo up; while :; do sleep 0.1; done'
    with machine.cell("p") as parent, machine.cell("p/c") as child:
        parent.start("one", note)
        child.start("one", note)
        for cell in (parent, child):
            assert next(cell.follow("one")).line == "up"
        parent.free()
    assert machine.system.read("cat /run/order; rm /run/order").split() == ["p/c", "p"]


def test_a_freed_name_can_be_allocated_again_and_knows_nothing(machine: Machine) -> None:
    with machine.cell("again", cpu=pb.CpuController(weight=5)) as first:
        first.run("true")
    with machine.cell("again") as second:
        assert second.node() == pb.CellGraphNode(cell=pb.Cell(name="again"))


def test_many_cells_come_and_go_and_nothing_is_left(machine: Machine) -> None:
    def cgroups() -> int:
        numbers = "grep -E '^(cpu|memory|cpuset|pids)' /proc/cgroups | cut -f 3 | sort -n | tail -1"
        return int(machine.system.read(numbers))

    before = machine.system.read(f"ls {CGROUPS}; ls /run/aurae/cells").split()
    alive = cgroups()
    names: list[str] = []
    refusal = None
    for name in (f"cell-{number}" for number in range(MANY)):
        request = pb.CellServiceAllocateRequest(cell=pb.Cell(name=name))
        try:
            machine.api.cells.Allocate(request)
        except grpc.RpcError as e:
            refusal = e
            break
        names.append(name)
    if SOAK:
        # More than a node of 1 GiB takes.
        assert refusal is not None
        assert refusal.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "cells and has as many; free some first" in str(refusal.details())
    else:
        assert refusal is None
    listed = [node.cell.name for node in forest(machine.api)]
    assert {*names, "_system"} == set(listed)
    for name in names:
        machine.api.cells.Free(pb.CellServiceFreeRequest(cell_name=name))
    assert machine.system.read(f"ls {CGROUPS}; ls /run/aurae/cells").split() == before
    # The kernel frees a removed cgroup a little later.
    assert cgroups() < alive + len(names) / 2
