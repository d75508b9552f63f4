"""The manual, made from the tables: `python -m aer.manual > docs/reference/aer.md`."""

from collections.abc import Iterator
from typing import Final

from aer import table
from aer.command import Argument, Command
from aer.settings import SEARCHED, SETTINGS

_HEAD: Final = """\
# aer

Made from the tables in `aer/` by `python -m aer.manual`; edit those.

Exit status: 0 done, 1 refused or failed, 2 usage, 130 interrupted, 141 when nobody reads on. An
error is a message on stderr, often with a hint in parentheses below it.

`_system` stands for the system's own cell wherever a cell is asked for. `aer logs EXECUTABLE`,
without a cell, means that one too. Run inside of a cell, `aer` has the API of that cell's
subtree: names are relative to the cell, and `_self` is the cell.

`--output json` and `yaml` print the API's answers with the field names of the protos. A stream
prints one JSON object a line, or one YAML document an answer.

## Settings

The configuration file is the one that `--config` names, or the first of these that exists: {}.
It is TOML, all values are strings, and a relative path counts from the file. Flags go over it, and
may stand before or after the words of a command that asks a node.

| flag | section | key | |
|---|---|---|---|"""


def manual() -> str:
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield _HEAD.format(", ".join(f"`{path}`" for path in SEARCHED))
    for setting in SETTINGS:
        flags = ", ".join(f"`{flag}`" for flag in (setting.short, setting.flag) if flag)
        section = f"`[{setting.section}]`"
        yield f"| {flags} | {section} | `{setting.name}` | {setting.help} |"
    yield from ("", "## Commands")
    for noun in table.NOUNS:
        for command in table.commands(noun):
            yield from _command(command)


def _command(command: Command) -> Iterator[str]:
    words = " ".join(command.words)
    yield from ("", f"### aer {words}", "", f"    aer {words}{_usage(command)}", "")
    yield f"{command.help[0].upper()}{command.help[1:]}. {command.text}".rstrip()
    if command.rpc:
        yield f"Calls `{command.rpc}`."
    if command.everything():
        yield from ("", "| argument | |", "|---|---|")
    for argument in command.everything():
        yield f"| {_shown(argument, command)} | {_help(argument)} |"


def _usage(command: Command) -> str:
    words = [
        (a.shown if not a.optional else f"[{a.shown}]") + "..." * a.many
        for a in command.arguments
        if not a.is_flag
    ]
    required = [f"{a.name} {a.shown}" for a in command.arguments if a.required]
    options = ["[OPTION]..."] if any(a.is_flag for a in command.arguments) else []
    trailing = [f"[-- {command.trailing.shown}...]"] if command.trailing else []
    return "".join(f" {word}" for word in (*words, *required, *options, *trailing))


def _shown(argument: Argument, command: Command) -> str:
    if argument is command.trailing:
        return f"`-- {argument.shown}...`"
    if not argument.is_flag:
        return f"`{argument.shown}`"
    value = "" if argument.switch else f" {argument.shown}"
    return (
        f"`{argument.short}`, `{argument.name}`" if argument.short else f"`{argument.name}{value}`"
    )


def _help(argument: Argument) -> str:
    said = argument.help
    if argument.choices:
        said += f": {', '.join(f'`{choice}`' for choice in argument.choices)}"
    if argument.default is not None:
        said += f"; default: `{argument.default}`"
    return said.replace("|", "\\|")


if __name__ == "__main__":
    print(manual(), end="")
