"""Cells and their executables as a tree of lines. Plain functions over the answer of List."""

import signal
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from aer import output

if TYPE_CHECKING:
    from aurae.cells.v0 import cells_pb2

HEADERS: Final = ("CELL / EXECUTABLE", "STATE", "PID", "AGE", "EXIT", "COMMAND")
RIGHT: Final = "PID AGE EXIT"

Row = tuple[str, ...]

_UNICODE: Final = ("├─ ", "└─ ", "│  ")
_ASCII: Final = ("|- ", "`- ", "|  ")


def rows(
    nodes: "Iterable[cells_pb2.CellGraphNode]", now: datetime, *, encoding: str = "utf-8"
) -> Iterator[Row]:
    """Cells with their last label, a slash and their limits; below them their executables, and
    then the cells within."""
    for node in nodes:
        yield _cell(node, node.cell.name)
        yield from _inside(node, now, "", _lines(encoding))


def events(seen: "cells_pb2.CellServiceWatchResponse") -> Iterator[str]:
    """A line for each cell and executable that the answer tells of: time, name, what it is now."""
    at = f"{seen.at.ToDatetime(tzinfo=UTC):%Y-%m-%dT%H:%M:%S.%f}"[:-3] + "Z"
    for line in _changes(seen):
        yield f"{at} {output.printable(line)}"


def _changes(seen: "cells_pb2.CellServiceWatchResponse") -> Iterator[str]:
    match seen.WhichOneof("change"):
        case "snapshot":
            yield from _all(seen.snapshot.cells)
        case "allocated":
            yield f"{seen.allocated.name}/ allocated {limits(seen.allocated)}".rstrip()
        case "freed":
            yield f"{seen.freed}/ freed"
        case "executable":
            yield _change(seen.executable.cell_name, seen.executable.status)
        case "forgotten":
            name = seen.forgotten.status.executable.name
            yield f"{seen.forgotten.cell_name}/{name} forgotten"


def _all(nodes: "Iterable[cells_pb2.CellGraphNode]") -> Iterator[str]:
    for node in nodes:
        yield f"{node.cell.name}/ {limits(node.cell)}".rstrip()
        yield from (_change(node.cell.name, status) for status in node.executables)
        yield from _all(node.children)


def _change(cell: str, status: "cells_pb2.ExecutableStatus") -> str:
    said = f"{cell}/{status.executable.name} {standing(status)}"
    if status.pid and not status.HasField("ended_at"):
        said += f" pid {status.pid}"
    if exit_text(status):
        said += f" exit {exit_text(status)}"
    details = [text for text in (status.reason, status.status_text) if text]
    return said + (f" ({'; '.join(details)})" if details else "")


def _inside(
    node: "cells_pb2.CellGraphNode", now: datetime, indent: str, lines: tuple[str, str, str]
) -> Iterator[Row]:
    left = len(node.executables) + len(node.children)
    branch, last, through = lines
    for status in node.executables:
        left -= 1
        yield _executable(status, now, indent + (branch if left else last))
    for child in node.children:
        left -= 1
        label = child.cell.name.rpartition("/")[2]
        yield _cell(child, indent + (branch if left else last) + label)
        yield from _inside(child, now, indent + (through if left else "   "), lines)


def _lines(encoding: str) -> tuple[str, str, str]:
    try:
        "".join(_UNICODE).encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return _ASCII
    return _UNICODE


def _cell(node: "cells_pb2.CellGraphNode", label: str) -> Row:
    said = [limits(node.cell)] if limits(node.cell) else []
    if node.HasField("init"):
        said.append("init=ended" if node.init.ended else f"init={node.init.pid}")
    return (f"{label}/", " ".join(said))


def _executable(status: "cells_pb2.ExecutableStatus", now: datetime, indent: str) -> Row:
    started = status.started_at.ToDatetime(tzinfo=UTC)
    return (
        indent + status.executable.name,
        standing(status),
        str(status.pid or ""),
        age((now - started).total_seconds()) if status.HasField("started_at") else "",
        exit_text(status),
        " ".join([status.executable.command, *status.executable.args]),
    )


def limits(cell: "cells_pb2.Cell") -> str:
    """What was asked for, by the kernel's names."""
    said = []
    if cell.cpu.HasField("weight"):
        said.append(f"cpu.weight={cell.cpu.weight}")
    if cell.cpu.HasField("max") or cell.cpu.HasField("period"):
        quota = str(cell.cpu.max) if cell.cpu.HasField("max") else "max"
        period = f"/{cell.cpu.period}" if cell.cpu.HasField("period") else ""
        said.append(f"cpu.max={quota}{period}")
    said += [f"cpuset.{field.name}={value}" for field, value in cell.cpuset.ListFields()]
    said += [f"memory.{field.name}={size(value)}" for field, value in cell.memory.ListFields()]
    if cell.pids.HasField("max"):
        said.append(f"pids.max={cell.pids.max}")
    if cell.io.HasField("weight"):
        said.append(f"io.weight={cell.io.weight}")
    said += [f"io.max={_line(line)}" for line in cell.io.max]
    said += ["isolated processes"] * cell.isolate_process + ["own network"] * cell.isolate_network
    return " ".join(said + _security(cell.security))


def _line(line: "cells_pb2.IoMax") -> str:
    fields = [(field.name, value) for field, value in line.ListFields() if field.name != "device"]
    return ",".join([line.device, *(f"{name}={size(value)}" for name, value in fields)])


def _security(asked: "cells_pb2.Security") -> list[str]:
    from aer.request import enum_words

    said = []
    for field, value in asked.ListFields():
        if field.enum_type:
            said.append(f"{field.name}={enum_words(field.enum_type)[value - 1]}")
        elif field.is_repeated:
            said.append(f"{field.name}={','.join(value)}")
        else:
            said.append(field.name)
    return said


def standing(status: "cells_pb2.ExecutableStatus") -> str:
    """The state, with what it waits for and how often it was started again."""
    said = state(status)
    if status.waiting_for:
        said += f" for {', '.join(status.waiting_for)}"
    if status.restarts:
        said += f", {status.restarts} restart{'s' if status.restarts > 1 else ''}"
    return said


def state(status: "cells_pb2.ExecutableStatus") -> str:
    from aurae.cells.v0 import cells_pb2

    name: str = cells_pb2.ExecutableState.Name(status.state)
    return name.removeprefix("EXECUTABLE_STATE_").lower()


def exit_text(status: "cells_pb2.ExecutableStatus") -> str:
    """The exit code, or the signal's name; empty while it runs."""
    if status.HasField("signal"):
        return signal_name(status.signal)
    return str(status.exit_code) if status.HasField("exit_code") else ""


def signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def size(count: int) -> str:
    """`count` bytes as the command line takes them, exactly."""
    units = "KMGT"
    unit = ""
    while count and count % 1024 == 0 and units:
        count, unit, units = count // 1024, units[0], units[1:]
    return f"{count}{unit}"


def age(seconds: float) -> str:
    """Two units at most: `42s`, `5m12s`, `3h07m`, `2d11h`. A clock ahead of ours gives `0s`."""
    whole = max(0, int(seconds))
    minutes, second = divmod(whole, 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if days:
        return f"{days}d{hour:02}h"
    if hours:
        return f"{hours}h{minute:02}m"
    return f"{minutes}m{second:02}s" if minutes else f"{second}s"
