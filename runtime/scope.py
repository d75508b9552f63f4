"""How much of the node a caller sees: all of it, or one cell's subtree."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

from initd.values import NamedTuple


class Scope(NamedTuple):
    """Inside `cell` names are relative to it, and nothing else exists. None: the whole node."""

    cell: str | None = None
    identity: tuple[int, int] | None = None
    """User and group that it may start executables as. None: as anybody."""

    def absolute(self, name: str) -> str:
        """The cell that a caller means by `name`."""
        return f"{self.cell}/{name}" if self.cell else name

    def relative(self, cell: str) -> str:
        """The inverse of `absolute`, for a cell below."""
        return cell.removeprefix(f"{self.cell}/") if self.cell else cell

    def holds(self, cell: str) -> bool:
        """Is `cell` the scope's own, or below it?"""
        return not self.cell or cell == self.cell or cell.startswith(f"{self.cell}/")

    def title(self, cell: str) -> str:
        """How messages call a cell. What lies outside has no name."""
        if cell == self.cell:
            return "this cell"
        return f"cell {self.relative(cell)}" if self.holds(cell) else "a cell above"


NODE: Final = Scope()

_current: ContextVar[Scope] = ContextVar("scope", default=NODE)


def current() -> Scope:
    """The scope of the call that this task serves; the node's where it serves none."""
    return _current.get()


@contextmanager
def entered(scope: Scope) -> Iterator[None]:
    """Within the block, in this task and those it makes, `scope` is the current one."""
    token = _current.set(scope)
    try:
        yield
    finally:
        _current.reset(token)
