"""What is published of the document is what the code reads."""

import json
import tomllib
from pathlib import Path

from initd.configuration import document, reference

DOCS = Path(__file__).parents[3] / "docs/reference"
AGAIN = "python -m initd.configuration.reference"


def test_the_published_schema_is_up_to_date() -> None:
    text = (DOCS / "node-config.schema.json").read_text()
    assert text == reference.schema_text(), (
        f"{AGAIN} schema > docs/reference/node-config.schema.json"
    )
    json.loads(text)


def test_the_table_of_keys_is_up_to_date() -> None:
    assert reference.keys_text() in (DOCS / "configuration.md").read_text(), f"{AGAIN} keys"


def test_the_example_can_be_applied() -> None:
    text = (DOCS / "configuration.md").read_text()
    example = text.partition("```toml\n")[2].partition("```")[0]
    assert document.parse(example).problems == ()
    assert tomllib.loads(example).keys() >= {"hostname", "network", "sysctls"}


def test_every_key_has_a_line() -> None:
    found = [path for path, _ in reference.rows()]
    assert len(found) == len(set(found))
    assert {"hostname", "disks.data.device", "identity.federated", "cells.executables"} <= set(
        found
    )
