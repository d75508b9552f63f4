"""Of `inspect`, what asyncio asks of plain functions and objects; see `runtime.imports`."""

from collections.abc import Awaitable
from functools import partial
from types import FunctionType, MethodType
from typing import Any, Final

# Include/cpython/code.h.
_COROUTINE: Final = 0x80


def iscoroutinefunction(obj: Any) -> bool:
    while isinstance(obj, (MethodType, partial)):
        obj = obj.__func__ if isinstance(obj, MethodType) else obj.func
    return isinstance(obj, FunctionType) and bool(obj.__code__.co_flags & _COROUTINE)


def isawaitable(obj: Any) -> bool:
    return isinstance(obj, Awaitable)
