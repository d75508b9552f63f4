"""The manual in docs/ is the one that the tables make."""

from pathlib import Path

from aer.manual import manual

FILE = Path(__file__).parents[3] / "docs/reference/aer.md"


def test_the_manual_is_what_the_tables_say() -> None:
    assert FILE.read_text() == manual(), (
        "make it again: python -m aer.manual > docs/reference/aer.md"
    )
