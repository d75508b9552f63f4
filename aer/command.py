"""Commands as values: the table of a noun makes its part of the command line and of the manual."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from aer.settings import Config

if TYPE_CHECKING:
    from google.protobuf.message import Message

_M = TypeVar("_M", bound="Message")


@dataclass(frozen=True, slots=True, kw_only=True)
class Argument:
    """One word or flag of a command.

    `fields` are the request fields that it fills, as paths such as `cell.cpu.weight`; with two of
    them `parse` returns a pair. Without any, the argument is the client's own business.
    """

    name: str
    help: str
    fields: tuple[str, ...] = ()
    parse: Callable[[str], Any] = str
    metavar: str = ""
    short: str = ""
    choices: tuple[str, ...] = ()
    default: Any = None
    optional: bool = False
    """A word that may be left out. Flags always may."""
    required: bool = False
    """A flag that may not be left out."""
    many: bool = False
    switch: bool = False
    complete: str = ""
    """What a shell offers: `file`, `directory` or nothing."""

    @property
    def is_flag(self) -> bool:
        return self.name.startswith("--")

    @property
    def key(self) -> str:
        """Under which name the value is found in `Call.values`."""
        return self.name.removeprefix("--").replace("-", "_")

    @property
    def shown(self) -> str:
        return self.metavar or self.key.upper()


@dataclass(frozen=True, slots=True)
class Call:
    """A command as it was called."""

    command: "Command"
    values: Mapping[str, Any]
    flags: Mapping[str, str] = field(default_factory=dict)
    config: Path | None = None

    def settings(self) -> Config:
        """Raises UsageError."""
        return Config.load(self.config, self.flags)

    def __getitem__(self, key: str) -> Any:
        return self.values.get(key)

    def request(self, message: _M) -> _M:
        """`message`, with its fields filled from the command line. Raises UsageError."""
        from aer.request import fill

        for argument in self.command.everything():
            value = self.values.get(argument.key)
            if value is not None and value is not False:
                fill(message, argument, value)
        return message


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """`run` does it and returns the exit status. It imports what it needs itself, so that help
    and completion need nothing."""

    words: tuple[str, ...]
    help: str
    run: Callable[[Call], int]
    arguments: tuple[Argument, ...] = ()
    trailing: Argument | None = None
    """What may follow `--`."""
    rpc: str = ""
    text: str = ""
    fixed: Mapping[str, str] = field(default_factory=dict)
    """Request fields that the client sets by itself, each with the reason."""

    def everything(self) -> tuple[Argument, ...]:
        return self.arguments + ((self.trailing,) if self.trailing else ())
