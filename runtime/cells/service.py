"""aurae.cells.v0 over gRPC: translate, one call, translate back."""

import time
from collections.abc import AsyncIterator, Mapping
from functools import partial
from typing import Any, Final, TypeAlias, TypeVar

from aurae.cells.v0 import cells_pb2, cells_pb2_grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from grpc import aio

from initd.errors import InvalidArgument, PermissionDenied
from initd.processes.model import Process
from initd.processes.model import State as ProcessState
from runtime import scope
from runtime.cells import cells, model, security, sets
from runtime.cells.changes import Allocated, Change, Changed, Forgotten, Freed
from runtime.cells.policy import Kind, Mode, Policy, Readiness, Restart
from runtime.cells.sets import Entry, Outcome, Result, Start
from runtime.cells.status import Status
from runtime.cells.tenants import Tenants
from runtime.cells.wanted import Exit, State
from runtime.server import errors

# Generic in its stub only.
Context: TypeAlias = "aio.ServicerContext[Any, Any]"

_T = TypeVar("_T")

STATES: Final = {
    State.RUNNING: cells_pb2.EXECUTABLE_STATE_RUNNING,
    State.STOPPING: cells_pb2.EXECUTABLE_STATE_STOPPING,
    State.ENDED: cells_pb2.EXECUTABLE_STATE_ENDED,
    State.WAITING: cells_pb2.EXECUTABLE_STATE_WAITING,
    State.STARTING: cells_pb2.EXECUTABLE_STATE_STARTING,
    State.BACKOFF: cells_pb2.EXECUTABLE_STATE_BACKOFF,
    State.FAILED: cells_pb2.EXECUTABLE_STATE_FAILED,
}

# What is not specified is the first.
MODES: Final = {
    cells_pb2.RESTART_MODE_UNSPECIFIED: Mode.NEVER,
    cells_pb2.RESTART_MODE_NEVER: Mode.NEVER,
    cells_pb2.RESTART_MODE_ON_FAILURE: Mode.ON_FAILURE,
    cells_pb2.RESTART_MODE_ALWAYS: Mode.ALWAYS,
}
KINDS: Final = {
    cells_pb2.READINESS_KIND_UNSPECIFIED: Kind.STARTED,
    cells_pb2.READINESS_KIND_STARTED: Kind.STARTED,
    cells_pb2.READINESS_KIND_EXIT: Kind.EXIT,
    cells_pb2.READINESS_KIND_LISTEN: Kind.LISTEN,
    cells_pb2.READINESS_KIND_NOTIFY: Kind.NOTIFY,
}
OUTCOMES: Final = {
    Outcome.MADE: cells_pb2.APPLY_OUTCOME_MADE,
    Outcome.UNCHANGED: cells_pb2.APPLY_OUTCOME_UNCHANGED,
    Outcome.REFUSED: cells_pb2.APPLY_OUTCOME_REFUSED,
}

PROFILES: Final[Mapping[Any, security.Profile | None]] = {
    cells_pb2.SECURITY_PROFILE_UNSPECIFIED: None,
    cells_pb2.SECURITY_PROFILE_RESTRICTED: security.Profile.RESTRICTED,
}
SECCOMP: Final[Mapping[Any, security.Seccomp | None]] = {
    cells_pb2.SECCOMP_PROFILE_UNSPECIFIED: None,
    cells_pb2.SECCOMP_PROFILE_DEFAULT: security.Seccomp.DEFAULT,
}

BILLION: Final = 1_000_000_000
# Of one Apply. Each takes the loop a while, and its result some of the answer.
MAX_ENTRIES: Final = 1_000
# Of one cell's io.max, which the kernel keeps by device.
MAX_DEVICES: Final = 256


class CellService(cells_pb2_grpc.CellServiceServicer):
    def __init__(self, all_cells: cells.Cells, tenants: Tenants) -> None:
        self._cells = all_cells
        self._tenants = tenants

    async def _home(self) -> None:
        """A tenant's own cell is there when it is needed."""
        own = scope.current()
        if own.tenant and own.cell is not None:
            await self._tenants.ensure(own.cell)

    async def Allocate(
        self, request: cells_pb2.CellServiceAllocateRequest, context: Context
    ) -> cells_pb2.CellServiceAllocateResponse:
        if not request.HasField("cell"):
            raise InvalidArgument("cell: is missing; say what to allocate")
        cell = scoped_cell(request.cell)
        await self._home()
        await self._cells.allocate(cell)
        return cells_pb2.CellServiceAllocateResponse(cell_name=request.cell.name, cgroup_v2=True)

    async def Free(
        self, request: cells_pb2.CellServiceFreeRequest, context: Context
    ) -> cells_pb2.CellServiceFreeResponse:
        await self._cells.free(_named(request.cell_name), _grace(request))
        return cells_pb2.CellServiceFreeResponse()

    async def Start(
        self, request: cells_pb2.CellServiceStartRequest, context: Context
    ) -> cells_pb2.CellServiceStartResponse:
        wanted = start_from_proto(request)
        await self._home()
        status = await self._cells.start(
            wanted.cell, wanted.executable, uid=wanted.uid, gid=wanted.gid
        )
        process = status.process
        return cells_pb2.CellServiceStartResponse(
            pid=0 if process is None else process.pid,
            uid=status.uid,
            gid=status.gid,
            ns_pid=0 if process is None else process.ns_pid,
        )

    async def Stop(
        self, request: cells_pb2.CellServiceStopRequest, context: Context
    ) -> cells_pb2.CellServiceStopResponse:
        executable = model.executable_name(request.executable_name, "executable_name")
        await self._cells.stop(_cell(request), executable, _grace(request))
        return cells_pb2.CellServiceStopResponse()

    async def List(
        self, request: cells_pb2.CellServiceListRequest, context: Context
    ) -> cells_pb2.CellServiceListResponse:
        own = scope.current()
        nodes = self._cells.list(own.cell, whole=own.tenant)
        return cells_pb2.CellServiceListResponse(cells=map(_node_to_proto, nodes))

    async def Wait(
        self, request: cells_pb2.CellServiceWaitRequest, context: Context
    ) -> cells_pb2.CellServiceWaitResponse:
        executable = model.executable_name(request.executable_name, "executable_name")
        status = await self._cells.wait(_cell(request), executable, ready=request.ready)
        return cells_pb2.CellServiceWaitResponse(status=_status_to_proto(status))

    async def Apply(
        self, request: cells_pb2.CellServiceApplyRequest, context: Context
    ) -> cells_pb2.CellServiceApplyResponse:
        count = len(request.cells) + len(request.executables)
        if count > MAX_ENTRIES:
            raise InvalidArgument(
                f"cells, executables: are {count} together; at most {MAX_ENTRIES} at once"
            )
        cells = [Entry(f"{cell.name}/", partial(scoped_cell, cell)) for cell in request.cells]
        starts = [
            Entry(
                f"{start.cell_name or _shown_own()}/{start.executable.name}",
                partial(start_from_proto, start),
            )
            for start in request.executables
        ]
        await self._home()
        results = await sets.apply(self._cells, [*cells, *starts])
        return cells_pb2.CellServiceApplyResponse(results=map(_result_to_proto, results))

    async def Watch(
        self, request: cells_pb2.CellServiceWatchRequest, context: Context
    ) -> AsyncIterator[cells_pb2.CellServiceWatchResponse]:
        own = scope.current()
        async for seen in self._cells.watch(own.cell, whole=own.tenant):
            yield _seen_to_proto(seen)


def scoped_cell(message: cells_pb2.Cell) -> model.Cell:
    """The cell that the caller means."""
    cell = cell_from_proto(message)
    return cell._replace(name=scope.current().absolute(cell.name)).checked()


def start_from_proto(request: cells_pb2.CellServiceStartRequest) -> Start:
    if not request.HasField("executable"):
        raise InvalidArgument("executable: is missing; say what to start")
    uid, gid = _identity(request)
    return Start(
        cell=_cell(request),
        executable=executable_from_proto(request.executable),
        uid=uid,
        gid=gid,
    )


def _result_to_proto(result: Result) -> cells_pb2.ApplyResult:
    message = cells_pb2.ApplyResult(name=result.name, outcome=OUTCOMES[result.outcome])
    if result.error is not None:
        code, message.error = errors.status(result.error)
        message.code = code.value[0]
    return message


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
    return model.Cell(
        name=cell.name,
        cpu=_controller(cell, "cpu", model.Cpu),
        cpuset=_controller(cell, "cpuset", model.Cpuset),
        memory=_controller(cell, "memory", model.Memory),
        pids=_controller(cell, "pids", model.Pids),
        io=_io_from_proto(cell.io) if cell.HasField("io") else None,
        isolate_process=cell.isolate_process,
        isolate_network=cell.isolate_network,
        security=_security_from_proto(cell.security) if cell.HasField("security") else None,
    ).checked()


def _controller(cell: cells_pb2.Cell, field: str, kind: type[_T]) -> _T | None:
    """A message of optional fields as the value that has the same."""
    if not cell.HasField(field):  # type: ignore[arg-type]
        return None
    there = getattr(cell, field)
    return kind(**{name: _given(there, name) for name in there.DESCRIPTOR.fields_by_name})


def _io_from_proto(io: cells_pb2.IoController) -> model.Io:
    if len(io.max) > MAX_DEVICES:
        raise InvalidArgument(f"cell.io.max: names {len(io.max)} devices; at most {MAX_DEVICES}")
    rates = ("rbps", "wbps", "riops", "wiops")
    return model.Io(
        weight=_given(io, "weight"),
        max=tuple(
            model.IoMax(device=line.device, **{name: _given(line, name) for name in rates})
            for line in io.max
        ),
    )


def _security_from_proto(asked: cells_pb2.Security) -> security.Security:
    return security.Security(
        profile=_known(PROFILES, asked.profile, "cell.security.profile"),
        user_namespace=asked.user_namespace,
        read_only_root=asked.read_only_root,
        private_tmp=asked.private_tmp,
        private_dev=asked.private_dev,
        no_new_privileges=asked.no_new_privileges,
        drop_capabilities=asked.drop_capabilities,
        keep_capabilities=tuple(asked.keep_capabilities),
        seccomp=_known(SECCOMP, asked.seccomp, "cell.security.seccomp"),
    )


def cell_to_proto(cell: model.Cell) -> cells_pb2.Cell:
    message = cells_pb2.Cell(
        name=cell.name,
        isolate_process=cell.isolate_process,
        isolate_network=cell.isolate_network,
    )
    for field, limits in cell.limits():
        there = getattr(message, field)
        # A message without fields was given too.
        there.SetInParent()
        for name in limits._fields:
            value = getattr(limits, name)
            if isinstance(value, tuple):
                getattr(there, name).extend(map(_io_max_to_proto, value))
            elif value is not None:
                setattr(there, name, value)
    if cell.security is not None:
        message.security.CopyFrom(_security_to_proto(cell.security))
    return message


def _io_max_to_proto(line: model.IoMax) -> cells_pb2.IoMax:
    return cells_pb2.IoMax(
        device=line.device, rbps=line.rbps, wbps=line.wbps, riops=line.riops, wiops=line.wiops
    )


def _security_to_proto(asked: security.Security) -> cells_pb2.Security:
    return cells_pb2.Security(
        profile=_number(PROFILES, asked.profile),
        user_namespace=asked.user_namespace,
        read_only_root=asked.read_only_root,
        private_tmp=asked.private_tmp,
        private_dev=asked.private_dev,
        no_new_privileges=asked.no_new_privileges,
        drop_capabilities=asked.drop_capabilities,
        keep_capabilities=asked.keep_capabilities,
        seccomp=_number(SECCOMP, asked.seccomp),
    )


def executable_from_proto(executable: cells_pb2.Executable) -> model.Executable:
    return model.Executable(
        name=executable.name,
        command=executable.command,
        description=executable.description,
        args=tuple(executable.args),
        environment=dict(executable.environment),
        working_directory=executable.working_directory,
        policy=Policy(
            restart=_restart_from_proto(executable.restart),
            after=tuple(executable.after),
            readiness=_readiness_from_proto(executable.readiness),
        ),
    ).checked()


def _restart_from_proto(restart: cells_pb2.RestartPolicy) -> Restart:
    return Restart(
        mode=_known(MODES, restart.mode, "executable.restart.mode"),
        backoff=_given_seconds(restart, "backoff"),
        max_backoff=_given_seconds(restart, "max_backoff"),
        limit=_given(restart, "limit"),
        window=_given_seconds(restart, "window"),
    )


def _readiness_from_proto(readiness: cells_pb2.Readiness) -> Readiness:
    return Readiness(
        kind=_known(KINDS, readiness.kind, "executable.readiness.kind"),
        listen=readiness.listen,
        timeout=_given_seconds(readiness, "timeout"),
    )


def _known(table: Mapping[Any, _T], number: int, where: str) -> _T:
    if number not in table:
        raise InvalidArgument(f"{where}: {number} is none; give one of 0 to {max(table)}")
    return table[number]


def _given_seconds(message: Any, field: str) -> float | None:
    return _seconds(getattr(message, field)) if message.HasField(field) else None


def executable_to_proto(executable: model.Executable) -> cells_pb2.Executable:
    return cells_pb2.Executable(
        name=executable.name,
        command=executable.command,
        description=executable.description,
        args=executable.args,
        environment=executable.environment,
        working_directory=executable.working_directory,
        restart=_restart_to_proto(executable.policy.restart),
        after=executable.policy.after,
        readiness=_readiness_to_proto(executable.policy.readiness),
    )


def _restart_to_proto(restart: Restart) -> cells_pb2.RestartPolicy | None:
    if restart == Restart():
        return None
    return cells_pb2.RestartPolicy(
        mode=_number(MODES, restart.mode),
        backoff=_duration(restart.backoff),
        max_backoff=_duration(restart.max_backoff),
        limit=restart.limit,
        window=_duration(restart.window),
    )


def _readiness_to_proto(readiness: Readiness) -> cells_pb2.Readiness | None:
    if readiness == Readiness():
        return None
    return cells_pb2.Readiness(
        kind=_number(KINDS, readiness.kind),
        listen=readiness.listen,
        timeout=_duration(readiness.timeout),
    )


def _number(table: Mapping[_T, Any], value: Any) -> _T:
    """The last is the one that says it outright."""
    return [number for number, known in table.items() if known is value][-1]


def _duration(seconds: float | None) -> Duration | None:
    if seconds is None:
        return None
    whole = round(seconds * BILLION)
    return Duration(seconds=whole // BILLION, nanos=whole % BILLION)


def _node_to_proto(node: cells.Node) -> cells_pb2.CellGraphNode:
    return cells_pb2.CellGraphNode(
        cell=_cell_to_proto(node.cell),
        children=map(_node_to_proto, node.children),
        executables=map(_status_to_proto, node.executables),
        init=None if node.init is None else _init_to_proto(node.init),
    )


def _cell_to_proto(cell: model.Cell | None) -> cells_pb2.Cell:
    """With the name that the caller knows it by."""
    if cell is None:
        return cells_pb2.Cell(name=model.SYSTEM)
    message = cell_to_proto(cell)
    message.name = _shown(cell.name)
    return message


def _init_to_proto(init: Process) -> cells_pb2.CellInit:
    return cells_pb2.CellInit(pid=init.pid, ended=init.state is ProcessState.ENDED)


def _shown(name: str) -> str:
    """The name that the caller knows a cell by."""
    own = scope.current()
    return model.SELF if own.is_own(name) else own.relative(name)


def _shown_own() -> str:
    """How a caller's own cell is called, or the system's."""
    own = scope.current().cell
    return model.SYSTEM if own is None else _shown(own)


def _seen_to_proto(
    seen: tuple[cells.Node, ...] | tuple[int, Change],
) -> cells_pb2.CellServiceWatchResponse:
    match seen:
        case (int(at), Allocated(cell)):
            message = cells_pb2.CellServiceWatchResponse(allocated=_cell_to_proto(cell))
        case (int(at), Freed(name)):
            message = cells_pb2.CellServiceWatchResponse(freed=_shown(name))
        case (int(at), Changed(name, status)):
            change = cells_pb2.ExecutableChange(
                cell_name=_shown(name), status=_status_to_proto(status)
            )
            message = cells_pb2.CellServiceWatchResponse(executable=change)
        case (int(at), Forgotten(name, executable)):
            known = cells_pb2.ExecutableStatus(executable=cells_pb2.Executable(name=executable))
            change = cells_pb2.ExecutableChange(cell_name=_shown(name), status=known)
            message = cells_pb2.CellServiceWatchResponse(forgotten=change)
        case nodes:
            at = time.time_ns()
            snapshot = cells_pb2.CellServiceListResponse(cells=map(_node_to_proto, nodes))
            message = cells_pb2.CellServiceWatchResponse(snapshot=snapshot)
    message.at.CopyFrom(_timestamp(at))
    return message


def _status_to_proto(status: Status) -> cells_pb2.ExecutableStatus:
    message = cells_pb2.ExecutableStatus(
        executable=executable_to_proto(status.executable),
        state=STATES[status.state],
        uid=status.uid,
        gid=status.gid,
        ready=status.ready,
        restarts=status.restarts,
        last_exit=None if status.last is None else _exit_to_proto(status.last),
        waiting_for=status.waiting_for,
        reason=status.reason,
        restart_at=None if status.restart_at is None else _timestamp(status.restart_at),
    )
    if status.process is not None:
        _add_process(message, status.process)
    return message


def _add_process(message: cells_pb2.ExecutableStatus, process: Process) -> None:
    message.pid = process.pid
    message.ns_pid = process.ns_pid
    message.started_at.CopyFrom(_timestamp(process.started))
    message.status_text = process.status
    if process.state is ProcessState.ENDED:
        if process.code is not None:
            message.exit_code = process.code
        if process.signal is not None:
            message.signal = process.signal
        if process.ended is not None:
            message.ended_at.CopyFrom(_timestamp(process.ended))


def _exit_to_proto(ending: Exit) -> cells_pb2.ExecutableExit:
    return cells_pb2.ExecutableExit(
        exit_code=ending.code, signal=ending.signal, ended_at=_timestamp(ending.at)
    )


def _timestamp(nanoseconds: int) -> Timestamp:
    return Timestamp(seconds=nanoseconds // BILLION, nanos=nanoseconds % BILLION)
