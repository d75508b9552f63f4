"""aurae.discovery.v0 over gRPC."""

from collections.abc import Callable
from typing import Any

from aurae.discovery.v0 import discovery_pb2, discovery_pb2_grpc
from grpc import aio


class DiscoveryService(discovery_pb2_grpc.DiscoveryServiceServicer):
    def __init__(self, version: str, healthy: Callable[[], bool]) -> None:
        self._version = version
        self._healthy = healthy

    async def Discover(
        self, request: discovery_pb2.DiscoverRequest, context: "aio.ServicerContext[Any, Any]"
    ) -> discovery_pb2.DiscoverResponse:
        return discovery_pb2.DiscoverResponse(healthy=self._healthy(), version=self._version)
