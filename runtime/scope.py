"""How much of the node a caller sees: all of it, or one cell's subtree."""

from collections.abc import Callable
from contextvars import ContextVar
from typing import Final

from initd.errors import NotFound
from initd.values import NamedTuple


class OutOfScope(NotFound):
    """It lies outside of what the caller sees. Whether it exists was not looked at."""


class Scope(NamedTuple):
    """Nothing outside of `cell` exists. None: the whole node.

    A caller inside of the cell names what is in it from there. A tenant calls from elsewhere, and
    names the cell and what is in it from the node."""

    cell: str | None = None
    identity: tuple[int, int] | None = None
    """User and group that it may start executables as. None: as anybody."""
    tenant: bool = False

    def absolute(self, name: str) -> str:
        """The cell that a caller means by `name`. Raises OutOfScope."""
        if not self.cell:
            return name
        if not self.tenant:
            return f"{self.cell}/{name}"
        if not self.holds(name):
            _outside.get()(name)
            raise OutOfScope(f"cell {name}: does not exist; yours are {self.cell} and those in it")
        return name

    def relative(self, cell: str) -> str:
        """The inverse of `absolute`, for a cell below."""
        return cell if not self.cell or self.tenant else cell.removeprefix(f"{self.cell}/")

    def holds(self, cell: str) -> bool:
        """Is `cell` the scope's own, or below it?"""
        return not self.cell or cell == self.cell or cell.startswith(f"{self.cell}/")

    def is_own(self, cell: str) -> bool:
        """Is it the cell that the caller is in?"""
        return cell == self.cell and not self.tenant

    def title(self, cell: str) -> str:
        """How messages call a cell. What lies outside has no name."""
        if self.is_own(cell):
            return "this cell"
        return f"cell {self.relative(cell)}" if self.holds(cell) else "a cell above"


NODE: Final = Scope()

_current: ContextVar[Scope] = ContextVar("scope", default=NODE)
_outside: ContextVar[Callable[[str], None]] = ContextVar("outside", default=lambda _name: None)


def current() -> Scope:
    """The scope of the call that this task serves; the node's where it serves none."""
    return _current.get()


class entered:  # noqa: N801 (reads as a verb in `with`)
    """Within the block, in this task and those it makes, `scope` is the current one. `outside` is
    told of each name that lies outside of it."""

    # Not by contextlib: each call enters one, and this takes a fifth of the time.
    __slots__ = ("_outside", "_scope", "_tokens")

    def __init__(self, scope: Scope, outside: Callable[[str], None] = lambda _name: None) -> None:
        self._scope = scope
        self._outside = outside

    def __enter__(self) -> None:
        self._tokens = _current.set(self._scope), _outside.set(self._outside)

    def __exit__(self, *_: object) -> None:
        current, outside = self._tokens
        _outside.reset(outside)
        _current.reset(current)
