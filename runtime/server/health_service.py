"""Health of each service, as grpc.health.v1 has it."""

from collections.abc import Iterable
from typing import Any, Final

from grpc_health.v1 import health_pb2
from grpc_health.v1.health import aio

from initd.errors import Unavailable
from runtime.server.health import Health

SERVING: Final = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING: Final = health_pb2.HealthCheckResponse.NOT_SERVING


class HealthService:
    """The published servicer, whose Watch ends once it has said that the API drains."""

    def __init__(self, health: Health, services: Iterable[str]) -> None:
        self._health = health
        self._services = ("", *services)
        self._servicer: aio.HealthServicer | None = None

    async def Check(self, request: Any, context: Any) -> Any:  # noqa: N802
        return await (await self._begun()).Check(request, context)

    async def List(self, _request: Any, context: Any) -> Any:  # noqa: N802
        servicer = await self._begun()
        statuses = {
            service: await servicer.Check(health_pb2.HealthCheckRequest(service=service), context)
            for service in self._services
        }
        return health_pb2.HealthListResponse(statuses=statuses)

    async def Watch(self, request: Any, context: Any) -> None:  # noqa: N802
        await (await self._begun()).Watch(request, _Watching(self._health, context))

    async def _begun(self) -> aio.HealthServicer:
        """All services and the node as a whole, `""`, are as well as the API is. Nothing is waited
        for while nobody watches, so the first caller finds it whole, and so does the second."""
        if self._servicer is None:
            self._servicer = servicer = aio.HealthServicer()
            for service in self._services:
                await servicer.set(service, SERVING)
            self._health.on_drain = servicer.enter_graceful_shutdown
            if not self._health.serving:
                await servicer.enter_graceful_shutdown()
        return self._servicer


class _Watching:
    """The context of a Watch. Ends it after the last thing that it will ever say."""

    def __init__(self, health: Health, context: Any) -> None:
        self._health = health
        self._context = context

    async def write(self, message: Any) -> None:
        await self._context.write(message)
        if message.status == NOT_SERVING and not self._health.serving:
            raise Unavailable("the API is stopping; try again when it is back")
