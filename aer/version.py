"""`aer version`."""

from typing import Final

from aer.command import Call, Command


def version(_: Call) -> int:
    from importlib.metadata import version as installed

    print(f"aer {installed('auraed')}")
    return 0


COMMANDS: Final = (
    Command(
        words=("version",),
        help="print the version of aer; discovery discover asks the node's",
        run=version,
    ),
)
