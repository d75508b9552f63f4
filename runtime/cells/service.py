"""aurae.cells.v0 over gRPC: translate, one call, translate back."""

from typing import Any, Final, TypeAlias

from aurae.cells.v0 import cells_pb2, cells_pb2_grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from grpc import aio

from initd.errors import InvalidArgument, Unimplemented
from initd.processes.model import State
from runtime.cells import cells, model

# Generic in its stub only.
Context: TypeAlias = "aio.ServicerContext[Any, Any]"

STATES: Final = {
    State.RUNNING: cells_pb2.EXECUTABLE_STATE_RUNNING,
    State.STOPPING: cells_pb2.EXECUTABLE_STATE_STOPPING,
    State.ENDED: cells_pb2.EXECUTABLE_STATE_ENDED,
}

BILLION: Final = 1_000_000_000


class CellService(cells_pb2_grpc.CellServiceServicer):
    def __init__(self, all_cells: cells.Cells) -> None:
        self._cells = all_cells

    async def Allocate(
        self, request: cells_pb2.CellServiceAllocateRequest, context: Context
    ) -> cells_pb2.CellServiceAllocateResponse:
        if not request.HasField("cell"):
            raise InvalidArgument("cell: is missing; say what to allocate")
        cell = cell_from_proto(request.cell)
        self._cells.allocate(cell)
        return cells_pb2.CellServiceAllocateResponse(cell_name=cell.name, cgroup_v2=True)

    async def Free(
        self, request: cells_pb2.CellServiceFreeRequest, context: Context
    ) -> cells_pb2.CellServiceFreeResponse:
        name = model.cell_name(request.cell_name, "cell_name")
        await self._cells.free(name, _grace(request))
        return cells_pb2.CellServiceFreeResponse()

    async def Start(
        self, request: cells_pb2.CellServiceStartRequest, context: Context
    ) -> cells_pb2.CellServiceStartResponse:
        if not request.HasField("executable"):
            raise InvalidArgument("executable: is missing; say what to start")
        process = await self._cells.start(
            _cell(request),
            executable_from_proto(request.executable),
            uid=model.user_or_group(request.uid, "uid"),
            gid=model.user_or_group(request.gid, "gid"),
        )
        return cells_pb2.CellServiceStartResponse(pid=process.pid, uid=process.uid, gid=process.gid)

    async def Stop(
        self, request: cells_pb2.CellServiceStopRequest, context: Context
    ) -> cells_pb2.CellServiceStopResponse:
        executable = model.executable_name(request.executable_name, "executable_name")
        await self._cells.stop(_cell(request), executable, _grace(request))
        return cells_pb2.CellServiceStopResponse()

    async def List(
        self, request: cells_pb2.CellServiceListRequest, context: Context
    ) -> cells_pb2.CellServiceListResponse:
        return cells_pb2.CellServiceListResponse(cells=map(_node_to_proto, self._cells.list()))

    async def Wait(
        self, request: cells_pb2.CellServiceWaitRequest, context: Context
    ) -> cells_pb2.CellServiceWaitResponse:
        executable = model.executable_name(request.executable_name, "executable_name")
        status = await self._cells.wait(_cell(request), executable)
        return cells_pb2.CellServiceWaitResponse(status=_status_to_proto(status))


def _cell(
    request: cells_pb2.CellServiceStartRequest
    | cells_pb2.CellServiceStopRequest
    | cells_pb2.CellServiceWaitRequest,
) -> str | None:
    if not request.HasField("cell_name"):
        return None
    if request.cell_name == model.SYSTEM:
        raise InvalidArgument(f"cell_name: leave it out for the system's own cell, {model.SYSTEM}")
    return model.cell_name(request.cell_name, "cell_name")


def _grace(
    request: cells_pb2.CellServiceFreeRequest | cells_pb2.CellServiceStopRequest,
) -> float:
    return model.grace(_seconds(request.grace) if request.HasField("grace") else None)


def _seconds(duration: Duration) -> float:
    return duration.seconds + duration.nanos / BILLION


def _given(message: Any, field: str) -> Any:
    """The field's value, or None where it is absent."""
    return getattr(message, field) if message.HasField(field) else None


def cell_from_proto(cell: cells_pb2.Cell) -> model.Cell:
    for field in ("isolate_process", "isolate_network"):
        if getattr(cell, field):
            raise Unimplemented(f"cell.{field}: is not built yet; leave it out")
    cpu, cpuset, memory = (_given(cell, field) for field in ("cpu", "cpuset", "memory"))
    return model.Cell(
        name=cell.name,
        cpu=None
        if cpu is None
        else model.Cpu(
            weight=_given(cpu, "weight"), max=_given(cpu, "max"), period=_given(cpu, "period")
        ),
        cpuset=None
        if cpuset is None
        else model.Cpuset(cpus=_given(cpuset, "cpus"), mems=_given(cpuset, "mems")),
        memory=None
        if memory is None
        else model.Memory(
            min=_given(memory, "min"),
            low=_given(memory, "low"),
            high=_given(memory, "high"),
            max=_given(memory, "max"),
        ),
    )


def cell_to_proto(cell: model.Cell) -> cells_pb2.Cell:
    message = cells_pb2.Cell(name=cell.name)
    for field, limits in (("cpu", cell.cpu), ("cpuset", cell.cpuset), ("memory", cell.memory)):
        if limits is None:
            continue
        there = getattr(message, field)
        # A message without fields was given too.
        there.SetInParent()
        for name in limits.__slots__:
            if (value := getattr(limits, name)) is not None:
                setattr(there, name, value)
    return message


def executable_from_proto(executable: cells_pb2.Executable) -> model.Executable:
    return model.Executable(
        name=executable.name,
        command=executable.command,
        description=executable.description,
        args=tuple(executable.args),
        environment=dict(executable.environment),
        working_directory=executable.working_directory,
    )


def executable_to_proto(executable: model.Executable) -> cells_pb2.Executable:
    return cells_pb2.Executable(
        name=executable.name,
        command=executable.command,
        description=executable.description,
        args=executable.args,
        environment=executable.environment,
        working_directory=executable.working_directory,
    )


def _node_to_proto(node: cells.Node) -> cells_pb2.CellGraphNode:
    return cells_pb2.CellGraphNode(
        cell=cells_pb2.Cell(name=model.SYSTEM) if node.cell is None else cell_to_proto(node.cell),
        children=map(_node_to_proto, node.children),
        executables=map(_status_to_proto, node.executables),
    )


def _status_to_proto(status: cells.Status) -> cells_pb2.ExecutableStatus:
    process = status.process
    message = cells_pb2.ExecutableStatus(
        executable=executable_to_proto(status.executable),
        pid=process.pid,
        state=STATES[process.state],
        started_at=_timestamp(process.started),
        uid=process.uid,
        gid=process.gid,
    )
    if process.state is State.ENDED:
        if process.code is not None:
            message.exit_code = process.code
        if process.signal is not None:
            message.signal = process.signal
        if process.ended is not None:
            message.ended_at.CopyFrom(_timestamp(process.ended))
    return message


def _timestamp(nanoseconds: int) -> Timestamp:
    return Timestamp(seconds=nanoseconds // BILLION, nanos=nanoseconds % BILLION)
