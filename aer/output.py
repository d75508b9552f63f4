"""What is said to people and to programs, and where."""

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from google.protobuf.message import Message

WIDTH: Final = 80


def complain(message: str, hint: str = "") -> None:
    """An error: the message, then what to try."""
    print(f"aer: {message}", file=sys.stderr)
    if hint:
        print(f"({hint})", file=sys.stderr)


def warn(message: str) -> None:
    print(f"aer: warning: {message}", file=sys.stderr)


def note(message: str) -> None:
    """What is not part of the output."""
    print(f"({message})", file=sys.stderr)


def show(form: str, answer: "Message", lines: Callable[[], Iterable[str]]) -> None:
    """`answer` for a program, or `lines` for people. Flushed, for whoever reads a stream."""
    if form == "table":
        for line in lines():
            print(line)
    else:
        print(_document(form, answer, indent=2), end="")
    sys.stdout.flush()


def show_item(form: str, answer: "Message") -> None:
    """One answer of a stream for a program: a line of JSON, or a document of YAML."""
    if form == "yaml":
        print("---")
    print(_document(form, answer, indent=None), end="", flush=True)


def _document(form: str, answer: "Message", indent: int | None) -> str:
    from google.protobuf.json_format import MessageToDict

    values = MessageToDict(
        answer, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    if form == "yaml":
        import yaml

        text: str = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
        return text
    import json

    return json.dumps(values, indent=indent, ensure_ascii=False) + "\n"


def table(headers: Sequence[str], rows: Iterable[Sequence[str]], right: str = "") -> Iterable[str]:
    """Lines of columns as wide as they must be; those named in `right` end on one edge.

    The last word of a row that is short runs on over the columns that it lacks. Lines are cut at a
    terminal's edge, and never in a file or a pipe.
    """
    cells = [tuple(headers), *(tuple(map(printable, row)) for row in rows)]
    full = [row for row in cells if len(row) == len(headers)]
    widths = [max(map(len, column)) for column in zip(*full, strict=True)]
    widths[0] = max(len(row[0]) for row in cells)
    edge = _width()
    for row in cells:
        padded = [
            text.rjust(width) if header in right.split() else text.ljust(width)
            for text, width, header in zip(row, widths, headers, strict=False)
        ]
        line = "  ".join(padded).rstrip()
        yield line if edge is None or len(line) <= edge else line[: edge - 1] + "…"


def printable(text: str) -> str:
    """What a node says cannot move the cursor or colour the screen."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _width() -> int | None:
    if not sys.stdout.isatty():
        return None
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns or WIDTH
    except OSError:
        return WIDTH
