"""`aer node`: the command of NodeService."""

from typing import Final

from aer import output
from aer.command import Argument, Call, Command


def shutdown(call: Call) -> int:
    from aurae.node.v0 import node_pb2, node_pb2_grpc

    from aer.session import session

    request = call.request(node_pb2.ShutdownRequest())
    with session(call) as node:
        answer = node.unary(node_pb2_grpc.NodeServiceStub(node.channel).Shutdown, request)
        said = f"{node.config.socket}: goes down ({call['mode']})"
        output.show(node.config.output, answer, lambda: [said])
    return 0


COMMANDS: Final = (
    Command(
        words=("node", "shutdown"),
        help="take the node down",
        text="Workloads get SIGTERM and then SIGKILL, file systems are written.",
        run=shutdown,
        rpc="aurae.node.v0.NodeService.Shutdown",
        arguments=(
            Argument(
                name="mode",
                help="switch the power off, start again, or stop and keep the power",
                fields=("mode",),
                choices=("poweroff", "reboot", "halt"),
            ),
        ),
    ),
)
