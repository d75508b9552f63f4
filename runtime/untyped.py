"""Stands for a module of types that nobody looks at while a program runs; see `runtime.imports`."""

from typing import Any


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    return Any
