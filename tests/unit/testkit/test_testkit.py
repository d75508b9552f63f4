"""The parts of testkit that need no machine; the rest is tested by the tests that use it."""

from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from typing import NoReturn

import grpc
import pytest
from aurae.cells.v0 import cells_pb2 as pb
from aurae.cells.v0 import cells_pb2_grpc

from image.acceleration import emulator_failed
from testkit import api
from testkit.api import Api
from testkit.cells import Cell, allocated, duration, forest
from testkit.machines import state
from testkit.refusals import refused


class Cells(cells_pb2_grpc.CellServiceServicer):
    """Answers what the tests need."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def Allocate(  # noqa: N802
        self, request: pb.CellServiceAllocateRequest, context: grpc.ServicerContext
    ) -> pb.CellServiceAllocateResponse:
        if request.cell.name == "taken":
            context.abort(grpc.StatusCode.ALREADY_EXISTS, "cell taken: free it first")
        self.calls.append(f"allocate {request.cell.name}")
        return pb.CellServiceAllocateResponse()

    def Free(  # noqa: N802
        self, request: pb.CellServiceFreeRequest, context: grpc.ServicerContext
    ) -> pb.CellServiceFreeResponse:
        self.calls.append(f"free {request.cell_name} {request.grace.ToMilliseconds()}")
        if self.calls[-2].startswith("free"):
            context.abort(grpc.StatusCode.NOT_FOUND, "gone")
        return pb.CellServiceFreeResponse()

    def List(  # noqa: N802
        self, request: pb.CellServiceListRequest, context: grpc.ServicerContext
    ) -> pb.CellServiceListResponse:
        # Without a deadline it is some thousand years.
        self.calls.append(f"list {context.time_remaining() < api.CALL_SECONDS + 5}")
        child = pb.CellGraphNode(cell=pb.Cell(name="a/b"))
        tops = [pb.CellGraphNode(cell=pb.Cell(name="a"), children=[child])]
        return pb.CellServiceListResponse(cells=[*tops, pb.CellGraphNode(cell=pb.Cell(name="c"))])

    def unused(self, request: object, context: grpc.ServicerContext) -> NoReturn:
        raise NotImplementedError

    Start = Stop = Wait = Watch = Apply = unused


@contextmanager
def served(cells: Cells) -> Iterator[Api]:
    server = grpc.server(futures.ThreadPoolExecutor(1))
    cells_pb2_grpc.add_CellServiceServicer_to_server(cells, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield Api.on(channel)
    finally:
        server.stop(None).wait()


def test_a_cell_is_freed_at_once_at_the_end_of_its_with() -> None:
    cells = Cells()
    with served(cells) as there:
        with allocated(there, "a"):
            pass
        # Freed by the test itself: not an error.
        with allocated(there, "a") as cell:
            cell.free(grace=0)
    assert cells.calls == ["allocate a", "free a 0", "allocate a", "free a 0", "free a 0"]


def test_a_call_without_a_deadline_gets_one_and_the_forest_is_flat() -> None:
    cells = Cells()
    with served(cells) as there:
        assert [node.cell.name for node in forest(there)] == ["a", "a/b", "c"]
        assert Cell(there, "a/b").node().cell.name == "a/b"
    assert set(cells.calls) == {"list True"}


def test_refused_wants_the_code_and_every_fragment() -> None:
    with served(Cells()) as there:

        def call() -> None:
            with allocated(there, "taken"):
                pass

        with refused(grpc.StatusCode.ALREADY_EXISTS, "cell taken", "free it"):
            call()
        with (
            pytest.raises(AssertionError, match="ALREADY_EXISTS, not NOT_FOUND"),
            refused(grpc.StatusCode.NOT_FOUND),
        ):
            call()
        with (
            pytest.raises(AssertionError, match=r"lacks \['other'\]"),
            refused(grpc.StatusCode.ALREADY_EXISTS, "taken", "other"),
        ):
            call()
        with pytest.raises(pytest.fail.Exception), refused(grpc.StatusCode.NOT_FOUND):
            pass


def test_durations_are_exact() -> None:
    made = duration(0.5)
    assert made
    assert (made.seconds, made.nanos) == (0, 500_000_000)
    assert duration(None) is None


@pytest.mark.parametrize("name", ["sh", "a) Z (b", ")"])
def test_the_state_of_a_process_is_found_behind_any_name(name: str) -> None:
    assert state(f"12 ({name}) S 1 12 12 0") == "S"


def test_only_an_int3_and_a_timer_that_is_late_are_the_emulators_fault() -> None:
    fault = "[    2.523912] Oops: int3: 0000 [#1] PREEMPT SMP NOPTI\n"
    assert emulator_failed(fault + "Kernel panic - not syncing: Fatal exception in interrupt")
    late = (
        "[    0.024000] Kernel panic - not syncing: IO-APIC + timer doesn't work!  Boot with apic="
    )
    assert emulator_failed(late)
    assert not emulator_failed("Kernel panic - not syncing: Attempted to kill init!")
