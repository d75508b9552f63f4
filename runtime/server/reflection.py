"""Reflection, by grpc's own implementation, which is loaded when somebody asks for it."""

from collections.abc import Sequence
from importlib import import_module
from typing import Any, Final

import grpc

SERVICE: Final = "grpc.reflection.v1alpha.ServerReflection"
_METHOD: Final = f"/{SERVICE}/ServerReflectionInfo"


class Reflection(grpc.GenericRpcHandler):
    """Tells of `services`, by their full names."""

    def __init__(self, services: Sequence[str]) -> None:
        self._services = services
        self._handler: Any = None

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        if handler_call_details.method != _METHOD:
            return None
        if self._handler is None:
            self._handler = self._make()
        return self._handler

    def _make(self) -> Any:
        from grpc_reflection.v1alpha import reflection, reflection_pb2

        from runtime.server.services import LATER

        # It tells of what is loaded.
        for name in LATER:
            import_module(name)
        servicer = reflection.aio.ReflectionServicer(self._services)
        return grpc.stream_stream_rpc_method_handler(
            servicer.ServerReflectionInfo,
            request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
            response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
        )
