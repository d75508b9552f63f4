"""Whether the API serves, as the node itself knows it; `health_service` tells callers."""

from collections.abc import Awaitable, Callable


class Health:
    """Serves from `serve` on, until `drain`."""

    def __init__(self) -> None:
        self.serving = False
        self.on_drain: Callable[[], Awaitable[None]] | None = None

    def serve(self) -> None:
        self.serving = True

    async def drain(self) -> None:
        """Nothing is well any more, for good."""
        self.serving = False
        if self.on_drain is not None:
            await self.on_drain()
