"""aurae.node.v0 over gRPC."""

from typing import Any, Final

from aurae.node.v0 import node_pb2, node_pb2_grpc
from grpc import aio

from initd.errors import InvalidArgument
from initd.processes.model import How
from runtime.processes import Processes

MODES: Final = {
    node_pb2.SHUTDOWN_MODE_POWEROFF: How.POWEROFF,
    node_pb2.SHUTDOWN_MODE_REBOOT: How.REBOOT,
    node_pb2.SHUTDOWN_MODE_HALT: How.HALT,
}


class NodeService(node_pb2_grpc.NodeServiceServicer):
    def __init__(self, processes: Processes) -> None:
        self._processes = processes

    async def Shutdown(
        self, request: node_pb2.ShutdownRequest, context: "aio.ServicerContext[Any, Any]"
    ) -> node_pb2.ShutdownResponse:
        how = MODES.get(request.mode)
        if how is None:
            raise InvalidArgument(
                f"mode: {request.mode} is none; give poweroff (1), reboot (2) or halt (3)"
            )
        await self._processes.shutdown(how)
        return node_pb2.ShutdownResponse()
