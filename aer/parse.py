"""Words of a command line or a configuration, made values. All raise ValueError with the rule."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from aurae.cells.v0 import cells_pb2

# List shows the system's own cell under this name. No cell can have it: it is no DNS label.
SYSTEM_CELL: Final = "_system"
# And what a caller in a cell sees that one called.
OWN_CELL: Final = "_self"

_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)?")
_RATES: Final = ("rbps", "wbps", "riops", "wiops")
_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZE: Final = re.compile(r"(-?\d+)([KMGT]?)", re.IGNORECASE)


def duration(text: str) -> float:
    """Seconds."""
    if not (parts := _DURATION.fullmatch(text)):
        raise ValueError(f"{text!r} is no duration; write 500ms, 5s, 2m, 1h or 30d")
    return float(parts[1]) * _UNITS[parts[2] or "s"]


def size(text: str) -> int:
    """Bytes."""
    if not (parts := _SIZE.fullmatch(text)):
        raise ValueError(f"{text!r} is no size; write bytes, or 64K, 64M, 2G (powers of 1024)")
    return int(parts[1]) << (10 * " KMGT".index(parts[2].upper() or " "))


def integer(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"{text!r} is no whole number") from None


def cell(text: str) -> str | None:
    """Name of a cell, or None for the system's own or the caller's: so the API names those."""
    return None if text in (SYSTEM_CELL, OWN_CELL) else text


def executable(text: str) -> tuple[str | None, str]:
    """`CELL/EXECUTABLE`, or `EXECUTABLE` alone, which is one of the system's own cell."""
    cell_name, _, name = text.rpartition("/")
    if not name:
        raise ValueError(f"{text!r} names no executable; write CELL/EXECUTABLE, or EXECUTABLE")
    return cell(cell_name) or None, name


def assignment(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise ValueError(f"{text!r} is no assignment; write NAME=VALUE")
    return name, value


def io_max(text: str) -> "cells_pb2.IoMax":
    """`DEVICE,LIMIT=RATE,…`; bytes take units, as `size` does."""
    from aurae.cells.v0 import cells_pb2

    device, *limits = text.split(",")
    line = cells_pb2.IoMax(device=device)
    for limit in limits:
        name, value = assignment(limit)
        if name not in _RATES:
            raise ValueError(f"{name!r} is no limit of io.max; write {', '.join(_RATES)}")
        setattr(line, name, size(value))
    return line


def path(text: str) -> Path:
    return Path(text).expanduser()
