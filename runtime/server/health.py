"""Health of each service, as grpc.health.v1 has it."""

from collections.abc import Iterable
from typing import Any, Final

from grpc_health.v1 import health_pb2
from grpc_health.v1.health import aio

from initd.errors import Unavailable

SERVING: Final = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING: Final = health_pb2.HealthCheckResponse.NOT_SERVING


class Health:
    """The published servicer, whose Watch ends once it has said that the API drains."""

    def __init__(self) -> None:
        self._servicer = aio.HealthServicer()
        self._services: tuple[str, ...] = ()
        self.serving = False

    async def serve(self, services: Iterable[str]) -> None:
        """All `services`, and the node as a whole, are well."""
        self._services = ("", *services)
        for service in self._services:
            await self._servicer.set(service, SERVING)
        self.serving = True

    async def drain(self) -> None:
        """Nothing is well any more, for good."""
        self.serving = False
        await self._servicer.enter_graceful_shutdown()

    async def Check(self, request: Any, context: Any) -> Any:  # noqa: N802
        return await self._servicer.Check(request, context)

    async def List(self, _request: Any, context: Any) -> Any:  # noqa: N802
        statuses = {
            service: await self._servicer.Check(
                health_pb2.HealthCheckRequest(service=service), context
            )
            for service in self._services
        }
        return health_pb2.HealthListResponse(statuses=statuses)

    async def Watch(self, request: Any, context: Any) -> None:  # noqa: N802
        await self._servicer.Watch(request, _Watching(self, context))


class _Watching:
    """The context of a Watch. Ends it after the last thing that it will ever say."""

    def __init__(self, health: Health, context: Any) -> None:
        self._health = health
        self._context = context

    async def write(self, message: Any) -> None:
        await self._context.write(message)
        if message.status == NOT_SERVING and not self._health.serving:
            raise Unavailable("the API is stopping; try again when it is back")
