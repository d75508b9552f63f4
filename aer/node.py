"""`aer node`: the commands of NodeService, and those of IdentityService."""

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from aer import identity, output
from aer.command import Argument, Call, Command

if TYPE_CHECKING:
    from aer.session import Session

# Seconds between two looks at what the node waits for, and how long it may take to go down.
_LOOK: Final = 0.5
_DOWN: Final = 120.0


def shut_down(call: Call) -> int:
    from aurae.node.v0 import node_pb2, node_pb2_grpc

    from aer.session import session

    word = call.command.words[-1]
    mode = node_pb2.ShutdownMode.Value(f"SHUTDOWN_MODE_{word.upper()}")
    request = node_pb2.ShutdownRequest(mode=mode)
    with session(call) as node:
        answer = node.unary(node_pb2_grpc.NodeServiceStub(node.channel).Shutdown, request)
        said = f"{node.config.socket}: goes down ({word})"
        output.show(node.config.output, answer, lambda: [said])
        if not call["no_wait"]:
            _wait(node)
    return 0


def reload_daemon(call: Call) -> int:
    from aurae.node.v0 import node_pb2, node_pb2_grpc

    from aer.session import session

    with session(call) as node:
        stub = node_pb2_grpc.NodeServiceStub(node.channel)
        answer = node.unbounded(stub.ReloadDaemon, node_pb2.ReloadDaemonRequest())
        milliseconds = round(answer.pause.ToMilliseconds())
        said = (
            f"{node.config.socket}: PID 1 is auraed {answer.version} now, "
            f"{milliseconds} ms without it"
        )
        output.show(node.config.output, answer, lambda: [said])
    return 0


def _wait(node: "Session") -> None:
    """Until the API has ended. People are told what the node waits for, whenever that changes."""
    import grpc

    deadline = time.monotonic() + (node.config.timeout or _DOWN)
    before: list[str] = []
    while time.monotonic() < deadline:
        try:
            living = _living(node)
        except grpc.RpcError:
            return
        if living != before and node.config.output == "table":
            waits = ", ".join(living) if living else "its services"
            print(f"{node.config.socket}: waits for {waits}", flush=True)
        before = living
        time.sleep(_LOOK)
    output.warn(f"{node.config.socket}: still answers")


def _living(node: "Session") -> list[str]:
    from aurae.cells.v0 import cells_pb2, cells_pb2_grpc

    stub = cells_pb2_grpc.CellServiceStub(node.channel)
    answer = node.unary(stub.List, cells_pb2.CellServiceListRequest())

    def names(nodes: Any) -> Iterator[str]:
        for one in nodes:
            for status in one.executables:
                if status.state != cells_pb2.EXECUTABLE_STATE_ENDED:
                    yield output.printable(f"{one.cell.name}/{status.executable.name}")
            yield from names(one.children)

    return list(names(answer.cells))


_NO_WAIT: Final = Argument(
    name="--no-wait",
    help="return once the node has begun, and do not tell what it waits for",
    switch=True,
)


def _down(word: str, text: str, more: str = "") -> Command:
    return Command(
        words=("node", word),
        help=text,
        text="Workloads get SIGTERM and then SIGKILL, file systems are written. Tells what the "
        f"node waits for, until its API has ended. {more}".strip(),
        run=shut_down,
        rpc="aurae.node.v0.NodeService.Shutdown",
        arguments=(_NO_WAIT,),
        fixed={"mode": "each mode has a command"},
    )


COMMANDS: Final = (
    _down("poweroff", "switch the node's power off"),
    _down("reboot", "start the node again"),
    _down("halt", "stop the node and keep its power"),
    _down(
        "kexec",
        "start the kernel that was loaded, without the firmware",
        "Refused unless kexec_file_load(2) has loaded one.",
    ),
    Command(
        words=("node", "reload-daemon"),
        help="replace the program that is PID 1 by the one that is installed now",
        text="Workloads, their output and the services go on. A program that cannot start changes "
        "nothing.",
        run=reload_daemon,
        rpc="aurae.node.v0.NodeService.ReloadDaemon",
    ),
    *identity.COMMANDS,
)
