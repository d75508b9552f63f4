"""What the runtime imports before there is a root: the initramfs has these modules."""

import gc
from collections.abc import Iterator
from typing import Final

from runtime import imports

_STANDARD: Final = (
    *("logging", "pathlib", "socket", "selectors", "json", "concurrent.futures"),
    *("heapq", "signal", "fcntl", "resource", "contextvars", "ctypes"),
)

# Of ours, what does without gRPC, whose library is too large for the initramfs. Small steps first:
# what they import is not left to the larger ones, and `/init` waits for the end of one at most.
_OURS: Final = (
    *("initd.processes.model", "runtime.cells.model", "runtime.cells.limits"),
    *("runtime.processes", "runtime.cells.endings", "runtime.cells.cells"),
    *("runtime.observe.streams", "runtime.server.peers", "runtime.server.authentication"),
    *("runtime.server.callers", "runtime.server.health", "runtime.server.recorder"),
    *("runtime.server.relay", "runtime.server.settings", "runtime.server.log"),
    *("runtime.trust.files", "initd.version"),
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
    for name in _OURS:
        __import__(name)
        yield
