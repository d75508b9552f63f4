"""`aer cell`: the commands of CellService."""

import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

from aer import forest, output, parse
from aer.command import Argument, Call, Command

_SERVICE: Final = "aurae.cells.v0.CellService"


def allocate(call: Call) -> int:
    from aurae.cells.v0 import cells_pb2, cells_pb2_grpc

    from aer.session import session

    request = call.request(cells_pb2.CellServiceAllocateRequest())
    with session(call) as node:
        answer = node.unary(cells_pb2_grpc.CellServiceStub(node.channel).Allocate, request)
        output.show(node.config.output, answer, lambda: [f"{answer.cell_name}: allocated"])
    return 0


def free(call: Call) -> int:
    from aurae.cells.v0 import cells_pb2, cells_pb2_grpc

    from aer.session import session

    request = call.request(cells_pb2.CellServiceFreeRequest())
    with session(call) as node:
        answer = node.unary(cells_pb2_grpc.CellServiceStub(node.channel).Free, request)
        output.show(node.config.output, answer, lambda: [f"{call['cell']}: freed"])
    return 0


def start(call: Call) -> int:
    from aurae.cells.v0 import cells_pb2, cells_pb2_grpc

    from aer.session import session

    request = call.request(cells_pb2.CellServiceStartRequest())
    with session(call) as node:
        answer = node.unary(cells_pb2_grpc.CellServiceStub(node.channel).Start, request)
        said = f"{_named(call)}: started, pid {answer.pid}, uid {answer.uid}, gid {answer.gid}"
        output.show(node.config.output, answer, lambda: [said])
    return 0


def stop(call: Call) -> int:
    from aurae.cells.v0 import cells_pb2, cells_pb2_grpc

    from aer.session import session

    request = call.request(cells_pb2.CellServiceStopRequest())
    with session(call) as node:
        answer = node.unary(cells_pb2_grpc.CellServiceStub(node.channel).Stop, request)
        output.show(node.config.output, answer, lambda: [f"{_named(call)}: stopped"])
    return 0


def list_cells(call: Call) -> int:
    from aurae.cells.v0 import cells_pb2, cells_pb2_grpc

    from aer.session import session

    with session(call) as node:
        answer = node.unary(
            cells_pb2_grpc.CellServiceStub(node.channel).List, cells_pb2.CellServiceListRequest()
        )
        rows = forest.rows(answer.cells, datetime.now(UTC), encoding=sys.stdout.encoding)
        output.show(
            node.config.output,
            answer,
            lambda: (
                output.table(forest.HEADERS, rows, forest.RIGHT) if answer.cells else ["no cells"]
            ),
        )
    return 0


def wait(call: Call) -> int:
    from aurae.cells.v0 import cells_pb2, cells_pb2_grpc

    from aer.session import session

    request = call.request(cells_pb2.CellServiceWaitRequest())
    with session(call) as node:
        answer = node.unbounded(cells_pb2_grpc.CellServiceStub(node.channel).Wait, request)
    status = answer.status
    how = "killed by" if status.HasField("signal") else "ended with exit code"
    said = f"{_named(call)}: {how} {forest.exit_text(status)}"
    output.show(node.config.output, answer, lambda: [said])
    if not call["exit_code"]:
        return 0
    return 128 + status.signal if status.HasField("signal") else status.exit_code


def _named(call: Call) -> str:
    return f"{call['cell'] or parse.SYSTEM_CELL}/{call['executable']}"


_CELL: Final = Argument(
    name="cell",
    help="name of the cell; _system is the system's own, and _self, in a cell, that one",
    fields=("cell_name",),
    parse=parse.cell,
)
_EXECUTABLE: Final = Argument(
    name="executable", help="name of the executable", fields=("executable_name",)
)
_GRACE: Final = Argument(
    name="--grace",
    help="time between SIGTERM and SIGKILL, such as 5s; the node's default is 10s",
    metavar="DURATION",
    fields=("grace",),
    parse=parse.duration,
)


def _limit(flag: str, field: str, help_: str, metavar: str) -> Argument:
    parsers: dict[str, Callable[[str], Any]] = {"SIZE": parse.size, "LIST": str}
    parser = parsers.get(metavar, parse.integer)
    return Argument(name=flag, help=help_, metavar=metavar, fields=(f"cell.{field}",), parse=parser)


_LIMITS: Final = (
    _limit("--cpu-weight", "cpu.weight", "cpu.weight: share under contention, 1 to 10000", "N"),
    _limit("--cpu-max", "cpu.max", "cpu.max: CPU time in each period, in µs", "MICROSECONDS"),
    _limit("--cpu-period", "cpu.period", "cpu.max: the period, in µs", "MICROSECONDS"),
    _limit("--cpuset-cpus", "cpuset.cpus", "cpuset.cpus: CPUs, such as 0-1,3", "LIST"),
    _limit("--cpuset-mems", "cpuset.mems", "cpuset.mems: memory nodes, such as 0", "LIST"),
    _limit("--memory-min", "memory.min", "memory.min: never reclaimed below this", "SIZE"),
    _limit("--memory-low", "memory.low", "memory.low: reclaimed last below this", "SIZE"),
    _limit("--memory-high", "memory.high", "memory.high: slowed down above this", "SIZE"),
    _limit("--memory-max", "memory.max", "memory.max: killed for memory beyond this", "SIZE"),
)

COMMANDS: Final = (
    Command(
        words=("cell", "allocate"),
        help="make a cell, with limits",
        text="A SIZE is in bytes, or with K, M, G or T in powers of 1024. 0 is a value; a limit "
        "that is not given stays the kernel's default. A cell below another is CELL/NAME.",
        run=allocate,
        rpc=f"{_SERVICE}.Allocate",
        arguments=(
            Argument(
                name="cell",
                help="its name: DNS labels joined by /",
                fields=("cell.name",),
            ),
            *_LIMITS,
            Argument(
                name="--isolate-process",
                help="namespaces of its own for processes, mounts, IPC and host name",
                fields=("cell.isolate_process",),
                switch=True,
            ),
            Argument(
                name="--isolate-network",
                help="a network namespace of its own",
                fields=("cell.isolate_network",),
                switch=True,
            ),
        ),
    ),
    Command(
        words=("cell", "free"),
        help="end all that a cell holds and remove it",
        run=free,
        rpc=f"{_SERVICE}.Free",
        arguments=(
            Argument(name="cell", help="name of the cell", fields=("cell_name",)),
            _GRACE,
        ),
    ),
    Command(
        words=("cell", "start"),
        help="start an executable in a cell",
        text="Example: aer cell start web sleeper 'sleep 60'",
        run=start,
        rpc=f"{_SERVICE}.Start",
        arguments=(
            _CELL,
            Argument(
                name="executable",
                help="its name, new in the cell",
                fields=("executable.name",),
            ),
            Argument(
                name="command",
                help="a command line for sh -c",
                fields=("executable.command",),
            ),
            Argument(
                name="--uid",
                help="user ID; default: 0",
                metavar="N",
                fields=("uid",),
                parse=parse.integer,
            ),
            Argument(
                name="--gid",
                help="group ID; default: 0",
                metavar="N",
                fields=("gid",),
                parse=parse.integer,
            ),
            Argument(
                name="--env",
                help="an environment variable; may be repeated",
                metavar="NAME=VALUE",
                fields=("executable.environment",),
                parse=parse.assignment,
                many=True,
            ),
            Argument(
                name="--cwd",
                help="working folder, absolute; default: /",
                metavar="FOLDER",
                fields=("executable.working_directory",),
            ),
            Argument(
                name="--description",
                help="for people",
                metavar="TEXT",
                fields=("executable.description",),
            ),
        ),
        trailing=Argument(
            name="args",
            metavar="ARG",
            help="positional parameters of the command, $1, $2 and so on",
            fields=("executable.args",),
        ),
    ),
    Command(
        words=("cell", "stop"),
        help="end an executable and all its processes",
        run=stop,
        rpc=f"{_SERVICE}.Stop",
        arguments=(_CELL, _EXECUTABLE, _GRACE),
    ),
    Command(
        words=("cell", "list"),
        help="list cells and their executables, as a tree",
        run=list_cells,
        rpc=f"{_SERVICE}.List",
    ),
    Command(
        words=("cell", "wait"),
        help="wait until an executable has ended",
        run=wait,
        rpc=f"{_SERVICE}.Wait",
        arguments=(
            _CELL,
            _EXECUTABLE,
            Argument(
                name="--exit-code",
                help="exit with its code, or 128 and the signal that ended it",
                switch=True,
            ),
        ),
    ),
)
