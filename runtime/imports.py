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

POSTPONED: Final = (
    # protobuf's pure Python implementation, which its compiled one imports and does not use. With
    # it come five more modules: a tenth of the start.
    "google.protobuf.internal.python_message",
    # Of protobuf's Timestamp in local time.
    "calendar",
    # Of protobuf's pools without compiled code.
    "google.protobuf.descriptor_database",
    # Of text from subprocesses, and of exceptions that name what may have been meant.
    "locale",
    "textwrap",
    # Of gRPC's list of public roots, which the node does without.
    "pkgutil",
    # Of TLS by asyncio: the API's is gRPC's.
    "asyncio.sslproto",
)

# These as well, and what is asked of them at the start is found in another module.
SMALLER: Final = {
    # What asyncio asks of functions. With it come ast, dis, and more.
    "inspect": "runtime.inspection",
    # It makes classes for all that is new in typing, and our Python has that.
    "typing_extensions": "typing",
    # What gRPC's signatures are made of: generic types of generic types, which cost as much as all
    # of its server.
    "grpc._typing": "runtime.untyped",
    # What asyncio and gRPC take from them.
    "subprocess": "runtime.borrowed",
    "traceback": "runtime.borrowed",
}

# The half of gRPC's asyncio package that calls others, a third of its Python: the node is called.
CALLING: Final = (
    *("grpc.aio._base_call", "grpc.aio._base_channel", "grpc.aio._call"),
    *("grpc.aio._channel", "grpc.aio._interceptor", "grpc.aio._metadata"),
)


def postpone(names: Iterable[str] = POSTPONED) -> None:
    """Have these modules loaded when something in them is asked for, and not before. Those that are
    loaded stay so."""
    for name in names:
        sys.modules.setdefault(name, _StandIn(name))
    for name, smaller in SMALLER.items():
        sys.modules.setdefault(name, _StandIn(name, smaller))
    for name in CALLING:
        sys.modules.setdefault(name, _StandIn(name, "runtime.called"))


def calling() -> None:
    """Have gRPC's own of what stands in for it, for who calls others: few nodes do."""
    aio = import_module("grpc.aio")
    stood = [name for name in CALLING if isinstance(sys.modules[name], _StandIn)]
    for name in stood:
        del sys.modules[name]
    for module in map(import_module, stood):
        for attribute, value in vars(aio).items():
            if value is Any:
                setattr(aio, attribute, getattr(module, attribute, Any))


def asyncio() -> None:
    """Import it without its TLS, which would load OpenSSL, and which the API leaves to gRPC."""
    if "asyncio" not in sys.modules:
        with without("ssl"):
            import_module("asyncio")


class _StandIn(ModuleType):
    """Stands in `sys.modules` for a module until something is used that `first` has not."""

    def __init__(self, name: str, first: str = "") -> None:
        super().__init__(name)
        self.__first = first

    def __getattr__(self, attribute: str) -> Any:
        # What the import system itself asks of a module is no use of it.
        if attribute.startswith("__"):
            raise AttributeError(attribute)
        if self.__first and hasattr(found := import_module(self.__first), attribute):
            return getattr(found, attribute)
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
