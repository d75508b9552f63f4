"""aurae.cells.v0 over gRPC: translate, one call, translate back."""

from dataclasses import replace
from typing import Any, Final, TypeAlias

from aurae.cells.v0 import cells_pb2, cells_pb2_grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from grpc import aio

from initd.errors import InvalidArgument, PermissionDenied, Unimplemented
from initd.processes.model import State
from runtime import scope
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
        self._cells.allocate(replace(cell, name=scope.current().absolute(cell.name)))
        return cells_pb2.CellServiceAllocateResponse(cell_name=cell.name, cgroup_v2=True)

    async def Free(
        self, request: cells_pb2.CellServiceFreeRequest, context: Context
    ) -> cells_pb2.CellServiceFreeResponse:
        await self._cells.free(_named(request.cell_name), _grace(request))
        return cells_pb2.CellServiceFreeResponse()

    async def Start(
        self, request: cells_pb2.CellServiceStartRequest, context: Context
    ) -> cells_pb2.CellServiceStartResponse:
        if not request.HasField("executable"):
            raise InvalidArgument("executable: is missing; say what to start")
        uid, gid = _identity(request)
        process = await self._cells.start(
            _cell(request), executable_from_proto(request.executable), uid=uid, gid=gid
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
        nodes = self._cells.list(scope.current().cell)
        return cells_pb2.CellServiceListResponse(cells=map(_node_to_proto, nodes))

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
    """The caller's own cell where none is named."""
    if not request.HasField("cell_name"):
        return scope.current().cell
    if request.cell_name in (model.SYSTEM, model.SELF):
        raise InvalidArgument(f"cell_name: leave it out for {request.cell_name}")
    return _named(request.cell_name)


def _named(name: str) -> str:
    relative = model.cell_name(name, "cell_name")
    return model.cell_name(scope.current().absolute(relative), "cell_name")


def _identity(request: cells_pb2.CellServiceStartRequest) -> tuple[int, int]:
    """User and group to start as. Who is not root gives nobody else's rights away."""
    own = scope.current().identity
    uid, gid = own or (0, 0)
    if request.HasField("uid"):
        uid = model.user_or_group(request.uid, "uid")
    if request.HasField("gid"):
        gid = model.user_or_group(request.gid, "gid")
    if own is not None and (uid, gid) != own:
        raise PermissionDenied(
            f"uid, gid: {uid}, {gid} are not the caller's own {own[0]}, {own[1]}; leave them out, "
            "or call as root of the cell"
        )
    return uid, gid


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
        cell=_cell_to_proto(node.cell),
        children=map(_node_to_proto, node.children),
        executables=map(_status_to_proto, node.executables),
    )


def _cell_to_proto(cell: model.Cell | None) -> cells_pb2.Cell:
    """With the name that the caller knows it by."""
    if cell is None:
        return cells_pb2.Cell(name=model.SYSTEM)
    own = scope.current()
    message = cell_to_proto(cell)
    message.name = model.SELF if cell.name == own.cell else own.relative(cell.name)
    return message


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
