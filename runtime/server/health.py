"""Whether the API serves, as the node itself knows it; `health_service` tells callers."""

import asyncio
from collections.abc import Awaitable, Callable


class Health:
    """Serves from `serve` on, until `drain`."""

    def __init__(self) -> None:
        self.serving = False
        self.on_drain: Callable[[], Awaitable[None]] | None = None
        self._known = asyncio.Event()

    async def known(self) -> None:
        """Wait until it serves, or never will."""
        await self._known.wait()

    def serve(self) -> None:
        """After `drain` it changes nothing."""
        if not self._known.is_set():
            self.serving = True
            self._known.set()

    async def drain(self) -> None:
        """Nothing is well any more, for good."""
        self.serving = False
        self._known.set()
        if self.on_drain is not None:
            await self.on_drain()
