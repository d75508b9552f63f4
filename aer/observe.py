"""`aer observe`: the commands of ObserveService."""

import sys
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from aer import forest, output, parse
from aer.command import Argument, Call, Command
from aer.errors import UsageError

if TYPE_CHECKING:
    from aurae.observe.v0 import observe_pb2

_SERVICE: Final = "aurae.observe.v0.ObserveService"
_BATCH: Final = {"batch": "many lines a message cost a tenth of one line a message"}


def daemon_log(call: Call) -> int:
    from aurae.observe.v0 import observe_pb2, observe_pb2_grpc

    from aer.session import session

    request = call.request(observe_pb2.GetAuraeDaemonLogStreamRequest())
    with session(call) as node:
        stub = observe_pb2_grpc.ObserveServiceStub(node.channel)
        for answer in node.unbounded(stub.GetAuraeDaemonLogStream, request):
            if node.config.output == "table":
                _note(answer.lost_lines)
                print(f"{_time(answer.item.timestamp)} {answer.item.channel:<8}{answer.item.line}")
                sys.stdout.flush()
            else:
                output.show_item(node.config.output, answer)
    return 0


def subprocess(call: Call) -> int:
    from aurae.observe.v0 import observe_pb2

    if bool(call["executable"]) == bool(call["pid"]):
        raise UsageError(
            "which output? give an executable or --pid, one of them",
            "aer observe subprocess CELL/EXECUTABLE",
        )
    return follow(call, call.request(observe_pb2.GetSubProcessStreamRequest()))


def follow(call: Call, request: "observe_pb2.GetSubProcessStreamRequest") -> int:
    """Print the output of an executable: its stdout on ours, its stderr on ours."""
    from aurae.observe.v0 import observe_pb2_grpc

    from aer.session import session

    request.batch = True
    with session(call) as node:
        stub = observe_pb2_grpc.ObserveServiceStub(node.channel)
        for answer in node.unbounded(stub.GetSubProcessStream, request):
            if node.config.output == "table":
                _note(answer.lost_lines)
                _print([answer.item] * answer.HasField("item"), timed=bool(call["timestamps"]))
                _print(answer.more, timed=bool(call["timestamps"]))
                sys.stdout.flush()
            else:
                for one in _single(answer):
                    output.show_item(node.config.output, one)
    return 0


def signals(call: Call) -> int:
    from aurae.observe.v0 import observe_pb2, observe_pb2_grpc

    from aer.session import session

    request = call.request(observe_pb2.GetPosixSignalsStreamRequest())
    with session(call) as node:
        stub = observe_pb2_grpc.ObserveServiceStub(node.channel)
        for answer in node.unbounded(stub.GetPosixSignalsStream, request):
            if node.config.output == "table":
                name = forest.signal_name(answer.signal.signal)
                print(f"{name} to pid {answer.signal.process_id}", flush=True)
            else:
                output.show_item(node.config.output, answer)
    return 0


def _single(
    answer: "observe_pb2.GetSubProcessStreamResponse",
) -> "Iterator[observe_pb2.GetSubProcessStreamResponse]":
    """The answers that a request without `batch` would have had: programs read one line each."""
    from aurae.observe.v0 import observe_pb2

    more = list(answer.more)
    del answer.more[:]
    yield answer
    for item in more:
        yield observe_pb2.GetSubProcessStreamResponse(item=item)


def _print(items: "Iterable[observe_pb2.LogItem]", *, timed: bool) -> None:
    for item in items:
        stream = sys.stderr if item.channel == "stderr" else sys.stdout
        stream.write(f"{_time(item.timestamp)} {item.line}\n" if timed else f"{item.line}\n")


def _note(lost_lines: int) -> None:
    if lost_lines:
        sys.stdout.flush()
        output.warn(f"{lost_lines} lines are missing here: they were written faster than read")


def _time(nanoseconds: int) -> str:
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest // 1_000_000:03}Z"


NO_FOLLOW: Final = Argument(
    name="--no-follow",
    help="end after what is kept, instead of waiting for more",
    fields=("no_follow",),
    switch=True,
)
CHANNEL: Final = Argument(
    name="--channel",
    help="one of the two; default: both",
    fields=("channel_type",),
    choices=("stdout", "stderr"),
    metavar="CHANNEL",
)
TIMESTAMPS: Final = Argument(
    name="--timestamps", short="-t", help="begin each line with its time, UTC", switch=True
)

COMMANDS: Final = (
    Command(
        words=("observe", "daemon-log"),
        help="follow what auraed itself logs",
        run=daemon_log,
        rpc=f"{_SERVICE}.GetAuraeDaemonLogStream",
        arguments=(NO_FOLLOW,),
    ),
    Command(
        words=("observe", "subprocess"),
        help="follow the output of an executable",
        text="Its stdout goes to stdout and its stderr to stderr. `aer logs` is a short form.",
        run=subprocess,
        rpc=f"{_SERVICE}.GetSubProcessStream",
        fixed=_BATCH,
        arguments=(
            Argument(
                name="executable",
                help="CELL/EXECUTABLE, or EXECUTABLE alone in the system's own cell",
                fields=("cell_name", "executable_name"),
                parse=parse.executable,
                optional=True,
            ),
            Argument(
                name="--pid",
                help="the pid that cell start answered, instead of a name",
                metavar="N",
                fields=("process_id",),
                parse=parse.integer,
            ),
            CHANNEL,
            NO_FOLLOW,
            TIMESTAMPS,
        ),
    ),
    Command(
        words=("observe", "signals"),
        help="follow the signals sent to a workload",
        run=signals,
        rpc=f"{_SERVICE}.GetPosixSignalsStream",
        arguments=(
            Argument(name="workload", help="its name", fields=("workload.id",)),
            Argument(
                name="--type",
                help="what it is",
                fields=("workload.workload_type",),
                choices=("cell", "pod_sandbox", "vm"),
                metavar="TYPE",
                default="cell",
            ),
        ),
    ),
)
