"""`aer discovery`: the command of DiscoveryService."""

from typing import Final

from aer import output
from aer.command import Call, Command


def discover(call: Call) -> int:
    from aurae.discovery.v0 import discovery_pb2, discovery_pb2_grpc

    from aer.session import session

    with session(call) as node:
        stub = discovery_pb2_grpc.DiscoveryServiceStub(node.channel)
        answer = node.unary(stub.Discover, discovery_pb2.DiscoverRequest())
        health = "healthy" if answer.healthy else "not healthy"
        output.show(
            node.config.output,
            answer,
            lambda: [f"{node.config.socket}: auraed {answer.version}, {health}"],
        )
    return 0


COMMANDS: Final = (
    Command(
        words=("discovery", "discover"),
        help="ask a node what it is",
        run=discover,
        rpc="aurae.discovery.v0.DiscoveryService.Discover",
    ),
)
