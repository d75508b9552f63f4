"""The command line: argparse, made from the tables."""

import argparse
from collections.abc import Callable, Collection, Sequence
from typing import Any, Final, NoReturn

from aer import parse as parsers
from aer import table
from aer.command import Argument, Call, Command
from aer.errors import UsageError
from aer.settings import SEARCHED, SETTINGS

_COMMAND: Final = " command"
_EPILOG: Final = "Options of every command that asks a node, such as --output: aer --help"


# Commands whose last word may be left out, and the words that stand in its place otherwise.
SHORT: Final = {("node", "upgrade", "to"): ("status", "cancel", "rollback")}


class Parser(argparse.ArgumentParser):
    """Says what is wrong and where the help is; the usage of a long command would drown it."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, f"{self.prog} --help")


def parse(words: Sequence[str]) -> Call:
    """The command that `words` ask for. Raises UsageError; SystemExit(0) after help or version."""
    head, tail = _split(words)
    head = _completed(head)
    # Only a noun that is named needs its table.
    parser = build([noun for noun in table.NOUNS if noun in head])
    namespace = vars(parser.parse_args(head))
    command: Command | None = namespace.get(_COMMAND)
    if command is None:
        raise UsageError("no command given", "aer --help")
    values = {a.key: namespace[a.key] for a in command.arguments}
    if tail is not None:
        if command.trailing is None:
            raise UsageError(f"aer {' '.join(command.words)}: takes nothing after --")
        values[command.trailing.key] = tail
    flags = {s.name: namespace[s.name] for s in SETTINGS if s.name in namespace}
    return Call(command, values, flags, namespace.get("config"))


def build(nouns: Collection[str], *, everywhere: bool = False) -> argparse.ArgumentParser:
    """The parser of `aer`, with the commands of `nouns`; the others are named in the help only.

    `everywhere` lists the settings in the help of every command, as completion needs them.
    """
    parser = Parser(
        prog="aer",
        description="Client of the Aurae API.",
        epilog="Exit status: 0 done, 1 refused or failed, 2 usage.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action=_Version, help="print the version of aer")
    groups: dict[tuple[str, ...], Any] = {}
    groups[()] = parser.add_subparsers(metavar="COMMAND", title="commands", parser_class=Parser)
    _add_settings(parser, shown=True)
    for noun, text in table.NOUNS.items():
        commands = table.commands(noun) if noun in nouns else ()
        if commands and commands[0].words != (noun,):
            _group(groups, (noun,), text)
        elif not commands:
            groups[()].add_parser(noun, help=text, add_help=False)
        for command in commands:
            *above, word = command.words
            for depth in range(2, len(above) + 1):
                if tuple(above[:depth]) not in groups:
                    _group(groups, tuple(above[:depth]), "")
            _add_command(groups[tuple(above)], word, command, shown=everywhere)
    return parser


def _group(groups: dict[tuple[str, ...], Any], words: tuple[str, ...], text: str) -> None:
    parser = groups[words[:-1]].add_parser(words[-1], help=text, description=_sentence(text))
    groups[words] = parser.add_subparsers(
        metavar="COMMAND", title="commands", parser_class=Parser, required=True, dest=words[-1]
    )


def _add_command(group: Any, word: str, command: Command, *, shown: bool) -> None:
    parser = group.add_parser(
        word,
        help=command.help,
        description=f"{_sentence(command.help)} {command.text}".strip(),
        epilog=_EPILOG if command.rpc else None,
        allow_abbrev=False,
    )
    for argument in command.arguments:
        _add_argument(parser, argument)
    if command.trailing:
        parser.usage = parser.format_usage().removeprefix("usage: ").rstrip()
        parser.usage += f" [-- {command.trailing.shown}...]"
        parser.epilog = f"What follows -- is the {command.trailing.help}. {parser.epilog}"
    if command.rpc:
        _add_settings(parser, shown=shown)
    parser.set_defaults(**{_COMMAND: command})


def _sentence(text: str) -> str:
    return text if not text or text.endswith("?") else f"{text[0].upper()}{text[1:]}."


def _add_argument(parser: argparse.ArgumentParser, argument: Argument) -> None:
    names = [argument.short] * bool(argument.short) + [argument.name]
    options: dict[str, Any] = {"help": argument.help, "default": argument.default}
    if argument.switch:
        options["action"] = "store_true"
    else:
        options |= {"metavar": argument.shown, "type": _typed(argument.parse)}
        if argument.choices:
            options["choices"] = argument.choices
            if argument.metavar == "":
                options["metavar"] = None
        if argument.many and argument.is_flag:
            options["action"] = "append"
    if argument.is_flag:
        options["required"] = argument.required
    elif argument.optional:
        options["nargs"] = "*" if argument.many else "?"
    if argument.is_flag and argument.default is not None:
        options["help"] += f"; default: {argument.default}"
    action = parser.add_argument(*names, **options)
    _complete(action, argument.complete)


def _add_settings(parser: argparse.ArgumentParser, *, shown: bool) -> None:
    title = "options of every command that asks a node"
    group = parser.add_argument_group(title) if shown else parser
    searched = ", ".join(map(str, SEARCHED))
    config = group.add_argument(
        "--config",
        metavar="FILE",
        type=_typed(parsers.path),
        default=argparse.SUPPRESS,
        help=f"configuration file; default: the first of {searched}"
        if shown
        else argparse.SUPPRESS,
    )
    _complete(config, "file")
    for setting in SETTINGS:
        action = group.add_argument(
            *[setting.short] * bool(setting.short),
            setting.flag,
            metavar=setting.metavar,
            choices=setting.choices or None,
            default=argparse.SUPPRESS,
            help=setting.help if shown else argparse.SUPPRESS,
        )
        _complete(action, setting.complete)


def _complete(action: argparse.Action, what: str) -> None:
    """Leave word for completion, which gives shtab what it looks for."""
    if what:
        action.completes = what  # type: ignore[attr-defined]


def _typed(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """argparse shows a ValueError's type and not what it says."""

    def typed(text: str) -> Any:
        try:
            return parse(text)
        except ValueError as e:
            raise argparse.ArgumentTypeError(str(e)) from None

    return typed


def _completed(words: list[str]) -> list[str]:
    """With the word that may be left out before what it is about."""
    for (*above, word), others in SHORT.items():
        places = range(len(words) - len(above))
        at = next((n for n in places if words[n : n + len(above)] == above), None)
        if at is not None and words[at + len(above)] not in (word, *others, "-h", "--help"):
            return [*words[: at + len(above)], word, *words[at + len(above) :]]
    return words


def _split(words: Sequence[str]) -> tuple[list[str], list[str] | None]:
    """What stands before and after the first `--`; argparse would mix the two."""
    if "--" not in words:
        return list(words), None
    at = words.index("--")
    return list(words[:at]), list(words[at + 1 :])


class _Version(argparse.Action):
    """Asks the metadata only when it is wanted: that costs 20 ms."""

    def __init__(self, option_strings: Sequence[str], dest: str, **options: Any) -> None:
        super().__init__(option_strings, dest, nargs=0, default=argparse.SUPPRESS, **options)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import version

        print(f"aer {version('auraed')}")
        parser.exit()
