"""The published schema and the table of keys: `python -m initd.configuration.reference WHAT`."""

import json
import sys
from collections.abc import Iterator
from typing import Any, Final

from initd.configuration.document import DOCUMENT
from initd.configuration.tables import Anything, Items, Key, Kind, Table, Tables, join, said, schema

ID: Final = "https://aurae.io/schemas/node-config.schema.json"


def node_schema() -> dict[str, Any]:
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": ID,
        "title": "Configuration of an Aurae node",
        **schema(DOCUMENT),
    }


def schema_text() -> str:
    return json.dumps(node_schema(), indent=2) + "\n"


def rows(kind: Kind = DOCUMENT, path: str = "") -> Iterator[tuple[str, Key]]:
    """Each key by its path, tables before what is in them."""
    match kind:
        case Table():
            for key in kind.keys:
                here = join(path, key.name)
                yield here, key
                yield from rows(key.kind, here)
        case Tables():
            yield from rows(kind.of, f"{path}.{kind.sample}")


def keys_text() -> str:
    """The table of keys, in Markdown."""
    lines = ["| key | value | default | |", "|---|---|---|---|"]
    for path, key in rows():
        about = key.doc + ("; at the next boot" if key.boot else "")
        value = _kind(key.kind)
        default = "" if key.default is None else f"`{json.dumps(key.default)}`"
        lines.append(f"| `{path}` | {value} | {default} | {about} |")
    return "\n".join(lines) + "\n"


def _kind(kind: Kind) -> str:
    match kind:
        case Tables() if not isinstance(kind.of, Table):
            return f"by {kind.sample}: {said(kind.of)}"
        case Items() if isinstance(kind.of, Table | Anything):
            return "list of tables"
        case Anything():
            return "table"
    return said(kind)


def main(arguments: list[str]) -> int:
    texts = {"schema": schema_text, "keys": keys_text}
    if len(arguments) != 1 or arguments[0] not in texts:
        sys.exit(f"usage: initd.configuration.reference {'|'.join(texts)}")
    sys.stdout.write(texts[arguments[0]]())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
