"""The set of cells and executables that the node was given at boot: applied once."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from aurae.cells.v0 import cells_pb2
from google.protobuf.message import Message

from initd.errors import InvalidArgument
from runtime.cells import sets
from runtime.cells.cells import Cells
from runtime.cells.service import cell_from_proto, start_from_proto
from runtime.cells.sets import Entry, Outcome

log = logging.getLogger(__name__)

CONFIGURED: Final = "config.boot.json"


async def apply(cells: Cells, files: tuple[Path, ...], applied: Path) -> None:
    """Apply the first of `files` that exists, unless `applied` says that this was done since boot.

    What is wrong is logged, entry by entry; the rest is made."""
    file = _first(files, applied)
    if file is None:
        return
    try:
        entries = list(read(_content(file)))
    except (OSError, ValueError) as e:
        log.error("%s: cannot be applied: %s", file, e)
    else:
        results = await sets.apply(cells, entries)
        for result in results:
            if result.outcome is Outcome.REFUSED:
                log.error("%s: %s: %s", file.name, result.name, result.error)
        made = sum(result.outcome is Outcome.MADE for result in results)
        log.info("%s: %d of %d entries made", file.name, made, len(results))
    # Last: a runtime that died before goes through the set again, which changes nothing.
    _note(applied)


def _first(files: tuple[Path, ...], applied: Path) -> Path | None:
    if applied.exists():
        return None
    return next((file for file in files if file.exists()), None)


def _note(applied: Path) -> None:
    try:
        applied.touch()
    except OSError as e:
        log.error("%s: cannot be noted, so the set is applied again: %s", applied, e)


def _content(file: Path) -> str:
    text = file.read_text()
    # Of the node's configuration it is a part.
    return json.dumps(json.loads(text)["values"]["cells"]) if file.name == CONFIGURED else text


def read(text: str) -> Iterator[Entry]:
    """The entries of the JSON form of CellServiceApplyRequest. ValueError: it is none."""
    document = json.loads(text)
    if not isinstance(document, dict):
        raise ValueError("is not a JSON object with `cells` and `executables`")
    if unknown := document.keys() - {"cells", "executables"}:
        raise ValueError(f"has {min(unknown)!a}; it takes `cells` and `executables`")
    for kind in ("cells", "executables"):
        items = document.get(kind, [])
        if not isinstance(items, list):
            raise ValueError(f"{kind}: is not a list")
        for number, item in enumerate(items):
            yield _entry(kind, number, item)


def _entry(kind: str, number: int, item: Any) -> Entry:
    where = f"{kind}[{number}]"
    if kind == "cells":
        cell = cells_pb2.Cell()
        return Entry(where, lambda: cell_from_proto(_parsed(item, cell)))
    start = cells_pb2.CellServiceStartRequest()
    return Entry(where, lambda: start_from_proto(_parsed(item, start)))


def _parsed(item: Any, message: Any) -> Any:
    # Only a node that is given a set needs it.
    from google.protobuf.json_format import ParseDict, ParseError

    assert isinstance(message, Message)
    if not isinstance(item, dict):
        raise InvalidArgument("is not an object")
    try:
        return ParseDict(item, message)
    except ParseError as e:
        raise InvalidArgument(str(e)) from e
