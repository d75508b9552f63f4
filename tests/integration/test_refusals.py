"""Every rule: the call is refused with this status and these words, and nothing is changed."""

from collections.abc import Callable
from typing import Any, Final

import grpc
import pytest
from aurae.cells.v0 import cells_pb2 as pb
from aurae.node.v0 import node_pb2
from aurae.observe.v0 import observe_pb2 as observe
from google.protobuf.duration_pb2 import Duration

from testkit.api import Api
from testkit.machines import Machine
from testkit.refusals import refused

INVALID: Final = grpc.StatusCode.INVALID_ARGUMENT
NOT_FOUND: Final = grpc.StatusCode.NOT_FOUND
EXISTS: Final = grpc.StatusCode.ALREADY_EXISTS
PRECONDITION: Final = grpc.StatusCode.FAILED_PRECONDITION
UNIMPLEMENTED: Final = grpc.StatusCode.UNIMPLEMENTED

Call = Callable[[Api], object]
Case = tuple[Call, grpc.StatusCode, tuple[str, ...]]


def allocate(name: str, **fields: Any) -> Call:
    request = pb.CellServiceAllocateRequest(cell=pb.Cell(name=name, **fields))
    return lambda api: api.cells.Allocate(request)


def free(name: str, **fields: Any) -> Call:
    return lambda api: api.cells.Free(pb.CellServiceFreeRequest(cell_name=name, **fields))


def start(cell: str | None = "there", /, uid: int = 0, gid: int = 0, **fields: Any) -> Call:
    executable = pb.Executable(**{"name": "new", "command": "true", **fields})
    request = pb.CellServiceStartRequest(cell_name=cell, executable=executable, uid=uid, gid=gid)
    return lambda api: api.cells.Start(request)


def stop(cell: str | None, executable: str, **fields: Any) -> Call:
    request = pb.CellServiceStopRequest(cell_name=cell, executable_name=executable, **fields)
    return lambda api: api.cells.Stop(request)


def wait(cell: str | None, executable: str) -> Call:
    request = pb.CellServiceWaitRequest(cell_name=cell, executable_name=executable)
    return lambda api: api.cells.Wait(request)


def stream(**fields: Any) -> Call:
    request = observe.GetSubProcessStreamRequest(**fields)
    return lambda api: next(api.observe.GetSubProcessStream(request))


def cpu(**fields: int) -> dict[str, Any]:
    return {"cpu": pb.CpuController(**fields)}


def cpuset(**fields: str) -> dict[str, Any]:
    return {"cpuset": pb.CpusetController(**fields)}


def memory(**fields: int) -> dict[str, Any]:
    return {"memory": pb.MemoryController(**fields)}


DEEP: Final = "/".join("l" for _ in range(100))

NAMES: Final[tuple[Case, ...]] = (
    (allocate(""), INVALID, ("cell.name", "empty")),
    (
        lambda api: api.cells.Allocate(pb.CellServiceAllocateRequest()),
        INVALID,
        ("cell:", "missing"),
    ),
    (allocate(".."), INVALID, ("cell.name", "'.'")),
    (allocate("../there"), INVALID, ("cell.name", "'.'")),
    (allocate("there/../other"), INVALID, ("cell.name", "'.'")),
    (allocate("."), INVALID, ("cell.name", "'.'")),
    (allocate("under_score"), INVALID, ("cell.name", "'_'")),
    (allocate("_system"), INVALID, ("cell.name", "'_'")),
    (allocate("there/_running"), INVALID, ("cell.name", "'_'")),
    (allocate("/"), INVALID, ("cell.name", "empty")),
    (allocate("/there"), INVALID, ("cell.name", "empty")),
    (allocate("there/"), INVALID, ("cell.name", "empty")),
    (allocate("there//x"), INVALID, ("cell.name", "empty")),
    (allocate("-x"), INVALID, ("cell.name", "- at an end")),
    (allocate("x-"), INVALID, ("cell.name", "- at an end")),
    (allocate("a b"), INVALID, ("cell.name", "' '")),
    (allocate("a\nb"), INVALID, ("cell.name", "\\n")),
    (allocate("a\0b"), INVALID, ("cell.name", "\\x00")),
    (allocate("größe"), INVALID, ("cell.name", "a-z")),
    (allocate("x" * 64), INVALID, ("cell.name", "64 characters", "63")),
    (allocate(DEEP), INVALID, ("cell.name", "100 levels", "64")),
    (allocate("x" * 1_000_000), INVALID, ("cell.name", "1023")),
    (allocate("nowhere/x"), NOT_FOUND, ("nowhere/x", "allocate nowhere first")),
    (allocate("there"), EXISTS, ("cell there", "free it first")),
    (
        allocate("x", security=pb.Security(read_only_root=True)),
        INVALID,
        ("cell.security.read_only_root", "isolate_process"),
    ),
    (
        allocate("x", isolate_process=True, security=pb.Security(keep_capabilities=["CAP_X"])),
        INVALID,
        ("cell.security.keep_capabilities", "CAP_X"),
    ),
    (
        allocate("x", isolate_process=True, memory=pb.MemoryController(max=0)),
        PRECONDITION,
        ("cell x", "init cannot begin", "limits"),
    ),
    (allocate("x", pids=pb.PidsController(max=-1)), INVALID, ("cell.pids.max", "below 0")),
    (
        allocate("x", io=pb.IoController(max=[pb.IoMax(device="240:9", rbps=1)])),
        PRECONDITION,
        ("cell.io.max", "240:9"),
    ),
    (free(""), INVALID, ("cell_name", "empty")),
    (free("_system"), INVALID, ("cell_name", "'_'")),
    (free(".."), INVALID, ("cell_name", "'.'")),
    (free("nowhere"), NOT_FOUND, ("cell nowhere",)),
    (free("there/nowhere"), NOT_FOUND, ("cell there/nowhere",)),
    (free("there", grace=Duration(seconds=-1)), INVALID, ("grace", "negative")),
    (free("there", grace=Duration(seconds=3601)), INVALID, ("grace", "3600")),
)

LIMITS: Final[tuple[Case, ...]] = (
    (allocate("x", **cpu(weight=0)), INVALID, ("cell.cpu.weight", "below 1")),
    (allocate("x", **cpu(weight=10_001)), INVALID, ("cell.cpu.weight", "above 10000")),
    (allocate("x", **cpu(weight=2**64 - 1)), INVALID, ("cell.cpu.weight", "above 10000")),
    (allocate("x", **cpu(max=0)), INVALID, ("cell.cpu.max", "below 1000")),
    (allocate("x", **cpu(max=-1)), INVALID, ("cell.cpu.max", "below 1000")),
    (allocate("x", **cpu(max=999)), INVALID, ("cell.cpu.max", "below 1000")),
    (allocate("x", **cpu(max=2**63 - 1)), INVALID, ("cell.cpu.max", "above")),
    (allocate("x", **cpu(period=0)), INVALID, ("cell.cpu.period", "below 1000")),
    (allocate("x", **cpu(period=999)), INVALID, ("cell.cpu.period", "below 1000")),
    (allocate("x", **cpu(period=1_000_001)), INVALID, ("cell.cpu.period", "above 1000000")),
    (allocate("x", **cpuset(cpus="")), INVALID, ("cell.cpuset.cpus", "empty")),
    (allocate("x", **cpuset(cpus="1..4")), INVALID, ("cell.cpuset.cpus", "1..4")),
    (allocate("x", **cpuset(cpus="0-")), INVALID, ("cell.cpuset.cpus", "0-")),
    (allocate("x", **cpuset(cpus="1-0")), INVALID, ("cell.cpuset.cpus", "ends before")),
    (allocate("x", **cpuset(cpus="0 1")), INVALID, ("cell.cpuset.cpus", "list")),
    (allocate("x", **cpuset(cpus="all")), INVALID, ("cell.cpuset.cpus", "list")),
    (allocate("x", **cpuset(cpus="0\n")), INVALID, ("cell.cpuset.cpus", "list")),
    (allocate("x", **cpuset(cpus="77")), INVALID, ("cell.cpuset.cpus", "77 is not on this node")),
    (allocate("x", **cpuset(cpus="99999")), INVALID, ("cell.cpuset.cpus", "99999")),
    (allocate("x", **cpuset(mems="")), INVALID, ("cell.cpuset.mems", "empty")),
    (allocate("x", **cpuset(mems="zero")), INVALID, ("cell.cpuset.mems", "list")),
    (allocate("x", **cpuset(mems="1")), INVALID, ("cell.cpuset.mems", "1 is not on this node")),
    (allocate("x", **memory(min=-1)), INVALID, ("cell.memory.min", "negative")),
    (allocate("x", **memory(low=-1)), INVALID, ("cell.memory.low", "negative")),
    (allocate("x", **memory(high=-1)), INVALID, ("cell.memory.high", "negative")),
    (allocate("x", **memory(max=-(2**63))), INVALID, ("cell.memory.max", "negative")),
)

EXECUTABLES: Final[tuple[Case, ...]] = (
    (lambda api: api.cells.Start(pb.CellServiceStartRequest()), INVALID, ("executable", "missing")),
    (start(name=""), INVALID, ("executable.name", "empty")),
    (start(name="_x"), INVALID, ("executable.name", "_x")),
    (start(name="../x"), INVALID, ("executable.name", "../x")),
    (start(name="a/b"), INVALID, ("executable.name", "a/b")),
    (start(name="x" * 64), INVALID, ("executable.name", "63")),
    (start(name="a\nb"), INVALID, ("executable.name",)),
    (start(command=""), INVALID, ("executable.command", "empty")),
    (start(command="a\0b"), INVALID, ("executable.command", "NUL")),
    (start(command="x" * 131_072), INVALID, ("executable.command", "131071")),
    (start(args=["ok", "a\0b"]), INVALID, ("executable.args[1]", "NUL")),
    (start(args=["x" * 60_000] * 3), INVALID, ("executable",)),
    (start(environment={"A=B": "c"}), INVALID, ("executable.environment", "A=B")),
    (start(environment={"": "c"}), INVALID, ("executable.environment",)),
    (start(environment={"A": "b\0"}), INVALID, ("executable.environment[A]", "NUL")),
    (start(working_directory="here"), INVALID, ("executable.working_directory", "absolute")),
    (start(working_directory="/nowhere"), PRECONDITION, ("executable.working_directory",)),
    (start(working_directory="/etc/os-release"), PRECONDITION, ("executable.working_directory",)),
    (start(uid=2**32 - 1), INVALID, ("uid", "4294967295")),
    (start(gid=2**32 - 1), INVALID, ("gid", "4294967295")),
    (start("nowhere"), NOT_FOUND, ("cell nowhere", "allocate it first")),
    (start("_system"), INVALID, ("cell_name", "leave it out")),
    (start(""), INVALID, ("cell_name", "empty")),
    (start("../x"), INVALID, ("cell_name", "'.'")),
    (start(name="running"), EXISTS, ("executable running of cell there", "stop it first")),
    (stop("there", ""), INVALID, ("executable_name", "empty")),
    (stop("there", "nothing"), NOT_FOUND, ("executable nothing of cell there",)),
    (stop("nowhere", "running"), NOT_FOUND, ("cell nowhere",)),
    (stop(None, "nothing"), NOT_FOUND, ("executable nothing of the system",)),
    (stop("there", "running", grace=Duration(seconds=-1)), INVALID, ("grace", "negative")),
    (stop("there", "running", grace=Duration(seconds=3601)), INVALID, ("grace", "3600")),
    (wait("there", ""), INVALID, ("executable_name", "empty")),
    (wait("there", "nothing"), NOT_FOUND, ("executable nothing of cell there",)),
    (wait("nowhere", "running"), NOT_FOUND, ("cell nowhere",)),
)

OTHERS: Final[tuple[Case, ...]] = (
    (stream(), INVALID, ("process_id", "executable_name")),
    (stream(process_id=1, executable_name="running"), INVALID, ("both", "one of them")),
    (stream(process_id=1), NOT_FOUND, ("process 1",)),
    (stream(process_id=-1), INVALID, ("process_id", "negative")),
    (stream(process_id=2_000_000_000), NOT_FOUND, ("process 2000000000",)),
    (stream(process_id=1, cell_name="there"), INVALID, ("cell_name", "executable_name")),
    (stream(executable_name="nothing", cell_name="there"), NOT_FOUND, ("executable nothing",)),
    (stream(executable_name="running", cell_name="nowhere"), NOT_FOUND, ("nowhere",)),
    (stream(executable_name="nothing"), NOT_FOUND, ("executable nothing",)),
    (stream(executable_name="", cell_name="there"), INVALID, ("executable_name", "empty")),
    (stream(executable_name="x", channel_type=9), INVALID, ("channel_type", "9")),
    (
        lambda api: next(api.observe.GetPosixSignalsStream(observe.GetPosixSignalsStreamRequest())),
        UNIMPLEMENTED,
        ("GetPosixSignalsStream",),
    ),
    (lambda api: api.node.Shutdown(node_pb2.ShutdownRequest()), INVALID, ("mode",)),
    (
        lambda api: api.node.Shutdown(node_pb2.ShutdownRequest(mode=9)),  # type: ignore[arg-type]
        INVALID,
        ("mode", "9"),
    ),
)


@pytest.mark.parametrize(
    ("cases"),
    [
        pytest.param(NAMES, id="names"),
        pytest.param(LIMITS, id="limits"),
        pytest.param(EXECUTABLES, id="executables"),
        pytest.param(OTHERS, id="others"),
    ],
)
def test_a_bad_call_is_refused_and_changes_nothing(
    machine: Machine, cases: tuple[Case, ...], subtests: pytest.Subtests
) -> None:
    with machine.cell("there") as there:
        there.start("running", "exec sleep 1000")
        before = machine.api.cells.List(pb.CellServiceListRequest())
        for number, (call, code, fragments) in enumerate(cases):
            with subtests.test(number=number, fragments=fragments), refused(code, *fragments):
                call(machine.api)
            assert machine.api.cells.List(pb.CellServiceListRequest()) == before
