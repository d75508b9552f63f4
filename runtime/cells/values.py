"""Values as JSON."""

from collections.abc import Mapping
from typing import Any


def to_json(value: Any) -> Any:
    """Named tuples, and those in them, by the names of their fields."""
    if isinstance(value, tuple):
        if names := getattr(value, "_fields", ()):
            return {name: to_json(item) for name, item in zip(names, value, strict=True)}
        return [to_json(item) for item in value]
    return dict(value) if isinstance(value, Mapping) else value
