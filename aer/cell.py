"""`aer cell`: the commands of CellService."""

import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from aer import forest, output, parse
from aer.command import Argument, Call, Command

if TYPE_CHECKING:
    from aurae.cells.v0 import cells_pb2
    from google.protobuf.message import Message

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
        stub = cells_pb2_grpc.CellServiceStub(node.channel)
        answer = node.unary(stub.Start, request)
        if answer.pid:
            inside = f" ({answer.ns_pid} inside)" if answer.ns_pid not in (0, answer.pid) else ""
            ids = f"uid {answer.uid}, gid {answer.gid}"
            said = f"{_named(call)}: started, pid {answer.pid}{inside}, {ids}"
        else:
            said = f"{_named(call)}: waits for {', '.join(call['after'])}"
        if not call["wait_ready"]:
            output.show(node.config.output, answer, lambda: [said])
            return 0
        if node.config.output == "table":
            print(said, flush=True)
        ready = node.unbounded(
            stub.Wait,
            cells_pb2.CellServiceWaitRequest(
                cell_name=call["cell"], executable_name=call["executable"], ready=True
            ),
        )
        output.show(node.config.output, ready, lambda: [_standing(call, ready.status)])
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
    output.show(node.config.output, answer, lambda: [_standing(call, status)])
    if not call["exit_code"]:
        return 0
    return 128 + status.signal if status.HasField("signal") else status.exit_code


def apply(call: Call) -> int:
    from aurae.cells.v0 import cells_pb2, cells_pb2_grpc

    from aer.session import session

    request = call.request(cells_pb2.CellServiceApplyRequest())
    with session(call) as node:
        answer = node.unbounded(cells_pb2_grpc.CellServiceStub(node.channel).Apply, request)
    output.show(node.config.output, answer, lambda: map(_applied, answer.results))
    return int(any(result.code for result in answer.results))


def _applied(result: "cells_pb2.ApplyResult") -> str:
    from aurae.cells.v0 import cells_pb2

    outcome: str = cells_pb2.ApplyOutcome.Name(result.outcome)
    said = outcome.removeprefix("APPLY_OUTCOME_").lower()
    return f"{result.name}: {said}" + (f": {result.error}" if result.error else "")


def _set(text: str) -> "tuple[Sequence[Message], Sequence[Message]]":
    """The cells and executables in the JSON file of this name, `-` for standard input."""
    from aurae.cells.v0 import cells_pb2
    from google.protobuf.json_format import Parse, ParseError

    request = cells_pb2.CellServiceApplyRequest()
    try:
        Parse(sys.stdin.read() if text == "-" else parse.path(text).read_text(), request)
    except ParseError as e:
        raise ValueError(f"{text}: {e}") from e
    except OSError as e:
        raise ValueError(f"{text}: {e.strerror}") from e
    return request.cells, request.executables


def events(call: Call) -> int:
    from aurae.cells.v0 import cells_pb2, cells_pb2_grpc

    from aer.session import session

    with session(call) as node:
        watch = cells_pb2_grpc.CellServiceStub(node.channel).Watch
        for seen in node.unbounded(watch, cells_pb2.CellServiceWatchRequest()):
            if node.config.output == "table":
                for line in forest.events(seen):
                    print(line, flush=True)
            else:
                output.show_item(node.config.output, seen)
    return 0


def _standing(call: Call, status: "cells_pb2.ExecutableStatus") -> str:
    """How it ended, or that it is ready."""
    if status.HasField("signal"):
        said = f"killed by {forest.exit_text(status)}"
    elif status.HasField("exit_code"):
        said = f"ended with exit code {forest.exit_text(status)}"
    else:
        said = f"ready, pid {status.pid}" if status.ready else forest.state(status)
    return f"{_named(call)}: {said}" + (f" ({status.reason})" if status.reason else "")


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


_SUPERVISION: Final = (
    Argument(
        name="--restart",
        help="whether it is started again when it has ended",
        choices=("never", "on_failure", "always"),
        metavar="MODE",
        fields=("executable.restart.mode",),
    ),
    Argument(
        name="--backoff",
        help="wait before the first restart; it doubles with each; the node's default is 1s",
        metavar="DURATION",
        fields=("executable.restart.backoff",),
        parse=parse.duration,
    ),
    Argument(
        name="--max-backoff",
        help="the longest such wait; the node's default is 1m",
        metavar="DURATION",
        fields=("executable.restart.max_backoff",),
        parse=parse.duration,
    ),
    Argument(
        name="--restart-limit",
        help="restarts within the window; after so many it rests as failed",
        metavar="N",
        fields=("executable.restart.limit",),
        parse=parse.integer,
    ),
    Argument(
        name="--restart-window",
        help="the window of the limit; the node's default is 10m",
        metavar="DURATION",
        fields=("executable.restart.window",),
        parse=parse.duration,
    ),
    Argument(
        name="--after",
        help="start it when this one is ready, EXECUTABLE or CELL/EXECUTABLE in a cell below; "
        "may be repeated",
        metavar="NAME",
        fields=("executable.after",),
        many=True,
    ),
    Argument(
        name="--ready",
        help="what makes it ready: that it has started, exits with 0, listens, or tells by "
        "sd_notify",
        choices=("started", "exit", "listen", "notify"),
        metavar="KIND",
        fields=("executable.readiness.kind",),
    ),
    Argument(
        name="--listen",
        help="with --ready listen: a TCP port, or the path of a Unix socket",
        metavar="ADDRESS",
        fields=("executable.readiness.listen",),
    ),
    Argument(
        name="--ready-timeout",
        help="end it if it is not ready in this time",
        metavar="DURATION",
        fields=("executable.readiness.timeout",),
        parse=parse.duration,
    ),
)

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
    _limit("--pids-max", "pids.max", "pids.max: processes and threads", "N"),
    _limit("--io-weight", "io.weight", "io.weight: share under contention, 1 to 10000", "N"),
    Argument(
        name="--io-max",
        help="io.max of a device, such as 8:0,rbps=1M,wiops=100; may be repeated",
        metavar="DEVICE,LIMIT=RATE",
        fields=("cell.io.max",),
        parse=parse.io_max,
        many=True,
    ),
)


def _security(flag: str, help_: str) -> Argument:
    field = flag.removeprefix("--").replace("-", "_")
    return Argument(name=flag, help=help_, fields=(f"cell.security.{field}",), switch=True)


_SECURITY: Final = (
    Argument(
        name="--profile",
        help="restricted: the safe values of all that follows, and --isolate-process",
        choices=("restricted",),
        fields=("cell.security.profile",),
    ),
    _security("--user-namespace", "user and group IDs of its own: its root is nobody outside"),
    _security("--read-only-root", "what the node has mounted is read-only"),
    _security("--private-tmp", "/tmp and /var/tmp of its own"),
    _security("--private-dev", "/dev of its own, with little more than null and random"),
    _security("--no-new-privileges", "no file gives more privileges when it is executed"),
    _security("--drop-capabilities", "no capabilities, but those of --keep-capability"),
    Argument(
        name="--keep-capability",
        help="one that is kept, such as CAP_NET_RAW; the others are dropped; may be repeated",
        metavar="CAPABILITY",
        fields=("cell.security.keep_capabilities",),
        many=True,
    ),
    Argument(
        name="--seccomp",
        help="system calls that fail; default: those that change the machine",
        choices=("default",),
        fields=("cell.security.seccomp",),
    ),
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
            *_SECURITY,
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
        text="Example: aer cell start web sleeper 'sleep 60'. One that comes after others is "
        "started when they are ready.",
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
            *_SUPERVISION,
            Argument(
                name="--wait-ready",
                help="wait until it is ready; an error if it comes to rest without",
                switch=True,
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
        words=("cell", "apply"),
        help="make a set of cells and executables",
        text="What is there already stays as it is, so it can be applied again. The file has the "
        'form of CellServiceApplyRequest in JSON: {"cells": [...], "executables": [...]}. A node '
        "applies such a file at boot: the credential aurae.cells.json. Exit status 1 if an entry "
        "was refused; the others are made all the same.",
        run=apply,
        rpc=f"{_SERVICE}.Apply",
        arguments=(
            Argument(
                name="file",
                help="the set, as JSON; - is standard input",
                fields=("cells", "executables"),
                parse=_set,
                complete="file",
            ),
        ),
    ),
    Command(
        words=("cell", "events"),
        help="follow what changes in cells and executables",
        text="First all there is, then each change as it happens.",
        run=events,
        rpc=f"{_SERVICE}.Watch",
    ),
    Command(
        words=("cell", "wait"),
        help="wait until an executable has come to rest",
        text="That is when it has ended and is not to be started again.",
        run=wait,
        rpc=f"{_SERVICE}.Wait",
        arguments=(
            _CELL,
            _EXECUTABLE,
            Argument(
                name="--ready",
                help="wait until it is ready instead; an error if it comes to rest without",
                fields=("ready",),
                switch=True,
            ),
            Argument(
                name="--exit-code",
                help="exit with its code, or 128 and the signal that ended it",
                switch=True,
            ),
        ),
    ),
)
