"""Waiting for what must not be left half done."""

import asyncio
from typing import TypeVar

_T = TypeVar("_T")


async def to_the_end(future: "asyncio.Future[_T]") -> tuple[_T, bool]:
    """Its result, and whether we were cancelled while it was awaited."""
    cancelled = False
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError:
            cancelled = True
    return future.result(), cancelled
