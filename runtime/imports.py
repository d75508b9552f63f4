"""What the runtime's imports load, and in which order: most of the API's start goes there.

It is called before gRPC and asyncio are imported for the first time. What is kept away here is
imported by others and not used by the node, or not before its API answers.
"""

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Any, Final

# protobuf's pure Python implementation, which its compiled one imports and does not use. With it
# come five more modules: a tenth of the start.
POSTPONED: Final = ("google.protobuf.internal.python_message",)


def postpone(names: Iterable[str] = POSTPONED) -> None:
    """Have these modules loaded when something in them is asked for, and not before."""
    for name in names:
        sys.modules[name] = _StandIn(name)


class _StandIn(ModuleType):
    """Stands in `sys.modules` for a module until it is used."""

    def __getattr__(self, attribute: str) -> Any:
        # What the import system itself asks of a module is no use of it.
        if attribute.startswith("__"):
            raise AttributeError(attribute)
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(import_module(self.__name__), attribute)


@contextmanager
def without(name: str) -> Iterator[None]:
    """Within the block, importing `name` fails. For modules that do without it."""
    sys.modules[name] = None  # type: ignore[assignment] # the import system's own mark
    try:
        yield
    finally:
        del sys.modules[name]
