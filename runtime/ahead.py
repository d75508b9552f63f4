"""What the runtime imports before there is a root: the initramfs has these modules."""

import gc
from collections.abc import Iterator
from typing import Final

from runtime import imports

_STANDARD: Final = (
    *("logging", "pathlib", "socket", "selectors", "json", "concurrent.futures"),
    *("heapq", "signal", "fcntl", "resource", "contextvars", "ctypes"),
)


def steps() -> Iterator[None]:
    """Each `next` takes one. `runtime.__main__.main` looks for garbage again."""
    gc.disable()
    imports.postpone()
    for name in _STANDARD:
        __import__(name)
        yield
    imports.asyncio()
    yield
