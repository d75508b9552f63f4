"""The one border of the state: values to JSON and back, by the types of their fields."""

import json
import types
from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Any, Final, TypeVar, Union, get_args, get_origin, get_type_hints

from initd.handover.model import FORMAT, Descriptor, State

_T = TypeVar("_T")


class StateError(Exception):
    """A state that this program cannot take over. Names the field and the rule."""


def encode(state: State) -> bytes:
    return json.dumps(_plain(state), separators=(",", ":")).encode()


def _plain(value: Any) -> Any:
    """What JSON has no type for, as what it has."""
    if _is_object(type(value)):
        return {name: _plain(item) for name, item in value._asdict().items()}
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def _is_object(kind: Any) -> bool:
    """Whether it is a class of the model."""
    return isinstance(kind, type) and issubclass(kind, tuple) and hasattr(kind, "_fields")


def decode(data: bytes) -> State:
    """Raises StateError: no state, of another format, with a field that is missing, of another
    type, or unknown here, so that nothing is lost in silence."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise StateError(f"state: not JSON ({error})") from error
    if not isinstance(value, dict):
        raise StateError("state: not a JSON object")
    if value.get("format") != FORMAT:
        raise StateError(f"state: has format {value.get('format')}, this program reads {FORMAT}")
    return _object(value, State, "state")


def descriptors(value: object) -> Iterator[int]:
    """The number of every descriptor in a value of the model."""
    hints = _hints(type(value))
    for name, hint in hints.items():
        yield from _descriptors(getattr(value, name), hint)


def _descriptors(value: Any, hint: Any) -> Iterator[int]:
    if value is None:
        return
    if hint is Descriptor:
        yield value
    elif _is_object(type(value)):
        yield from descriptors(value)
    elif isinstance(value, tuple):
        for item in value:
            yield from _descriptors(item, get_args(hint)[0])
    elif isinstance(value, dict) and get_origin(hint) is dict:
        for item in value.values():
            yield from _descriptors(item, get_args(hint)[1])
    elif get_origin(hint) in (types.UnionType, Union):
        (inner,) = (item for item in get_args(hint) if item is not type(None))
        yield from _descriptors(value, inner)


def _object(value: Any, kind: type[_T], where: str) -> _T:
    if not isinstance(value, dict):
        raise StateError(f"{where}: not an object")
    hints = _hints(kind)
    if unknown := sorted(value.keys() - hints.keys()):
        raise StateError(f"{where}.{unknown[0]}: unknown to this program")
    fields = {name: _value(value[name], hints[name], f"{where}.{name}") for name in value}
    try:
        return kind(**fields)
    except TypeError as error:
        raise StateError(f"{where}: {error}") from error


def _value(value: Any, hint: Any, where: str) -> Any:
    """`value` from JSON as the type `hint`: those that the model uses, and no others."""
    if hint is Any:
        return value
    origin = get_origin(hint)
    if origin is not None:
        return _container(value, origin, get_args(hint), where)
    if _is_object(hint):
        return _object(value, hint, where)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return _enum(value, hint, where)
    wanted = int if hint is Descriptor else hint
    if type(value) is int and wanted is float:
        return float(value)
    if type(value) is not wanted:
        raise StateError(f"{where}: {value!r} is not {wanted.__name__}")
    return value


def _container(value: Any, origin: Any, inner: tuple[Any, ...], where: str) -> Any:
    if origin in (types.UnionType, Union):
        (hint,) = (item for item in inner if item is not type(None))
        return None if value is None else _value(value, hint, where)
    if origin is tuple:
        if not isinstance(value, list):
            raise StateError(f"{where}: not a list")
        return tuple(_value(item, inner[0], f"{where}[{at}]") for at, item in enumerate(value))
    if not isinstance(value, dict):
        raise StateError(f"{where}: not an object")
    return {key: _value(item, inner[1], f"{where}.{key}") for key, item in value.items()}


def _enum(value: Any, kind: type[Enum], where: str) -> Enum:
    try:
        return kind(value)
    except ValueError as error:
        raise StateError(f"{where}: {error}") from error


_known: Final[dict[Any, dict[str, Any]]] = {}


def _hints(kind: Any) -> dict[str, Any]:
    if kind not in _known:
        _known[kind] = get_type_hints(kind)
    return _known[kind]
