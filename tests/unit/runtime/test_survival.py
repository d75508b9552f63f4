"""The API is killed half way, or finds its cgroups otherwise than it left them."""

import asyncio
import os
import signal
from pathlib import Path

import pytest
from aurae.cells.v0 import cells_pb2
from google.protobuf.duration_pb2 import Duration
from grpc import StatusCode

from initd.errors import ResourceExhausted
from runtime.cells.cells import Cells
from runtime.cells.model import Cell
from runtime.cells.specs import Specs
from runtime.cells.wanted import WantedFiles
from runtime.processes import Processes
from runtime.scope import Scope, entered
from tests.unit.runtime import node as nodes
from tests.unit.runtime.node import DEADLINE, Node, until
from tests.unit.runtime.test_cells_over_grpc import refused


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("node")


def test_a_free_that_was_begun_is_finished_by_the_next_run(folder: Path) -> None:
    with nodes.owner(folder):
        with nodes.api(folder) as process, nodes.client(folder) as before:
            for name in ("web", "web/api", "other"):
                before.allocate(name)
            deaf = "trap '' TERM; echo > deaf; while :; do sleep 0.05; done"
            pid = before.start("web/api", "deaf", deaf, working_directory=str(folder))
            before.start("web", "meek", "exec sleep 1000")
            before.start("other", "meek", "exec sleep 1000")
            nodes.appears(folder / "deaf")
            request = cells_pb2.CellServiceFreeRequest(cell_name="web", grace=Duration(seconds=600))
            freeing = before.cells.Free.future(request, timeout=DEADLINE)
            nodes.appears(folder / "cells/web.freeing")
            process.kill()
            process.wait(DEADLINE)
            error = freeing.exception()
            assert refused(freeing.result)[0] is StatusCode.UNAVAILABLE, error
        with nodes.api(folder), nodes.client(folder) as after:
            assert "web" in after.list()
            code, message = refused(lambda: after.start("web", "late", "true"))
            assert (code, message) == (
                StatusCode.FAILED_PRECONDITION,
                "cell web: is being freed; wait until it is gone",
            )
            os.kill(pid, signal.SIGKILL)
            until(lambda: "web" not in after.list(), "web is freed")
            assert set(after.list()) == {"other"}
            assert {path.name for path in (folder / "cells").iterdir()} == {"other.json"}
            after.allocate("web")
            assert not after.list()["web"].executables
            after.free("web")
            after.free("other", grace=Duration(seconds=0))


def test_a_free_whose_caller_leaves_leaves_no_note(node: Node) -> None:
    node.allocate("left")
    deaf = "trap '' TERM; echo > left-deaf; while :; do sleep 0.05; done"
    node.start("left", "deaf", deaf, working_directory=str(node.folder))
    nodes.appears(node.folder / "left-deaf")
    request = cells_pb2.CellServiceFreeRequest(cell_name="left", grace=Duration(seconds=600))
    freeing = node.cells.Free.future(request, timeout=DEADLINE)
    note = node.folder / "cells/left.freeing"
    nodes.appears(note)
    freeing.cancel()
    until(lambda: not note.exists(), "the note is gone")
    node.free("left", grace=Duration(seconds=0))


def test_what_allocate_had_half_made_is_undone_and_what_others_made_is_left(folder: Path) -> None:
    with nodes.owner(folder):
        with nodes.api(folder) as process, nodes.client(folder) as before:
            before.allocate("web")
            process.kill()
            process.wait(DEADLINE)
        cgroups = folder / "cgroup/aurae"
        for name in ("half", "web/half", "foreign", "web/foreign"):
            (cgroups / name).mkdir()
        (folder / "cells/web").mkdir()
        for name in ("half", "web/half", "never-begun"):
            (folder / f"cells/{name}.json.partial").write_text("{")
        with nodes.api(folder), nodes.client(folder) as after:
            assert set(after.list()) == {"web"}
            left = {str(path.relative_to(cgroups)) for path in cgroups.rglob("*") if path.is_dir()}
            assert left == {"_system", "foreign", "web", "web/foreign"}
            assert not list((folder / "cells").rglob("*.partial"))
            code, message = refused(lambda: after.allocate("foreign"))
            assert code is StatusCode.FAILED_PRECONDITION
            assert message == (
                "cell foreign: somebody else has made a cgroup there; remove that first"
            )
            assert not (folder / "cells/foreign.json.partial").exists()
            after.free("web")
            assert not (cgroups / "web").exists()


def test_executables_of_a_cell_that_is_gone_are_forgotten(folder: Path) -> None:
    """The cell's files were removed, then the runtime was killed: PID 1 still knew what ended."""
    with nodes.owner(folder):
        with nodes.api(folder) as process, nodes.client(folder) as before:
            before.allocate("web")
            before.start("web", "old", "exit 3")
            before.wait("web", "old")
            process.kill()
            process.wait(DEADLINE)
        (folder / "cells/web.json").unlink()
        for file in (folder / "cgroup/aurae/web").iterdir():
            file.unlink()
        (folder / "cgroup/aurae/web").rmdir()
        with nodes.api(folder), nodes.client(folder) as after:
            until(lambda: not list((folder / "logs").glob("[0-9]*")), "its output is gone")
            after.allocate("web")
            assert not after.list()["web"].executables
            after.free("web")


def test_a_cgroup_that_somebody_removed_is_told_and_can_be_freed(node: Node) -> None:
    node.allocate("pulled")
    folder = node.cgroups / "pulled"
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    remedy = "somebody else has removed its cgroup; free it, then allocate it anew"
    for call in (
        lambda: node.start("pulled", "x", "true"),
        lambda: node.allocate("pulled/child"),
    ):
        assert refused(call) == (StatusCode.FAILED_PRECONDITION, f"cell pulled: {remedy}")
    assert "pulled" in node.list()
    node.free("pulled")
    node.allocate("pulled")
    node.free("pulled")


def test_a_process_that_was_moved_out_of_its_leaf_is_ended_all_the_same(node: Node) -> None:
    node.allocate("moved")
    deaf = node.folder / "deaf"
    command = f"trap '' TERM; touch {deaf}; while :; do sleep 0.05; done"
    pid = node.start("moved", "away", command)
    until(deaf.exists, "it hears no SIGTERM")
    procs = node.cgroups / "moved/_away/cgroup.procs"
    procs.write_text("")
    node.stop("moved", "away", grace=Duration(nanos=200_000_000))
    assert node.wait("moved", "away").signal == signal.SIGKILL
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    node.free("moved")


def allocate(cells: Cells, cell: Cell) -> None:
    asyncio.run(cells.allocate(cell))


def test_there_are_as_many_cells_as_the_node_takes_and_half_of_them_for_callers_in_one(
    tmp_path: Path,
) -> None:
    cells = Cells(
        nodes.FolderCgroups(tmp_path / "cgroup"),
        Specs(tmp_path / "cells"),
        WantedFiles(tmp_path / "executables"),
        Processes(tmp_path / "initd.sock"),
        notify=tmp_path / "notify",
        most=6,
    )
    cells.recover()
    allocate(cells, Cell(name="tenant"))
    with entered(Scope(cell="tenant")):
        for number in (1, 2):
            allocate(cells, Cell(name=f"tenant/c{number}"))
        message = "^cell c3: a cell of this node takes 3 cells and has as many; free some first$"
        with pytest.raises(ResourceExhausted, match=message):
            allocate(cells, Cell(name="tenant/c3"))
    for number in (3, 4, 5):
        allocate(cells, Cell(name=f"c{number}"))
    message = "^cell c6: this node takes 6 cells and has as many; free some first$"
    with pytest.raises(ResourceExhausted, match=message):
        allocate(cells, Cell(name="c6"))
    assert not (tmp_path / "cgroup/aurae/c6").exists()
