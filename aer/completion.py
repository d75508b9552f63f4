"""`aer completion`: a script for a shell, made from the same tables."""

import argparse
from typing import Final

from aer import table
from aer.command import Argument, Call, Command
from aer.errors import AerError


def completion(call: Call) -> int:
    from aer import cli

    try:
        import shtab
    except ImportError as e:
        raise AerError("completion needs shtab", "pip install 'auraed[client]'") from e
    parser = cli.build(tuple(table.NOUNS), everywhere=True)
    offers = {"file": shtab.FILE, "directory": shtab.DIRECTORY}
    for action in _actions(parser):
        if what := getattr(action, "completes", None):
            action.complete = offers[what]  # type: ignore[attr-defined]
    print(shtab.complete(parser, shell=call["shell"]))
    return 0


def _actions(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """All of them, those of the commands too. argparse has no public way to walk them."""
    found = []
    for action in parser._actions:
        found.append(action)
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                found += _actions(below)
    return found


COMMANDS: Final = (
    Command(
        words=("completion",),
        help="print a script that completes aer's command line",
        text='bash: eval "$(aer completion bash)" in ~/.bashrc. '
        "zsh: aer completion zsh > _aer in a folder of $fpath.",
        run=completion,
        arguments=(Argument(name="shell", help="whose script", choices=("bash", "zsh")),),
    ),
)
