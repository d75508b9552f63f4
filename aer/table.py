"""All commands, noun by noun, in the order of the help."""

from importlib import import_module
from typing import Final

from aer.command import Command

# Each noun is a module of its name with a table COMMANDS.
NOUNS: Final = {
    "pki": "make a trust domain and issue SVIDs",
}


def commands(noun: str) -> tuple[Command, ...]:
    table: tuple[Command, ...] = import_module(f"aer.{noun}").COMMANDS
    return table
