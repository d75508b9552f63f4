"""Values as JSON."""

from dataclasses import fields, is_dataclass
from typing import Any


def to_json(value: Any) -> Any:
    """Named tuples and dataclasses, and those in them, by the names of their fields."""
    if isinstance(value, tuple):
        if names := getattr(value, "_fields", ()):
            return {name: to_json(item) for name, item in zip(names, value, strict=True)}
        return [to_json(item) for item in value]
    if is_dataclass(value):
        return {field.name: to_json(getattr(value, field.name)) for field in fields(value)}
    return value
