"""aurae.node.v0 over gRPC."""

from typing import Any, Final

from aurae.node.v0 import node_pb2, node_pb2_grpc
from google.protobuf.duration_pb2 import Duration
from grpc import aio

from initd.errors import InvalidArgument
from initd.processes.model import How
from runtime.processes import Processes

MODES: Final = {
    node_pb2.SHUTDOWN_MODE_POWEROFF: How.POWEROFF,
    node_pb2.SHUTDOWN_MODE_REBOOT: How.REBOOT,
    node_pb2.SHUTDOWN_MODE_HALT: How.HALT,
    node_pb2.SHUTDOWN_MODE_KEXEC: How.KEXEC,
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
                f"mode: {request.mode} is none; give poweroff (1), reboot (2), halt (3) or "
                "kexec (4)"
            )
        await self._processes.shutdown(how)
        return node_pb2.ShutdownResponse()

    async def ReloadDaemon(
        self, request: node_pb2.ReloadDaemonRequest, context: "aio.ServicerContext[Any, Any]"
    ) -> node_pb2.ReloadDaemonResponse:
        reloaded = await self._processes.reload()
        pause = Duration()
        pause.FromNanoseconds(round(reloaded.pause * 1e9))
        return node_pb2.ReloadDaemonResponse(version=reloaded.version, pause=pause)
