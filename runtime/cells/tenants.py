"""Tenants' own cells: made when they are first needed, with the limits that the policy says."""

import asyncio
import logging
from collections.abc import Callable, Iterable

from initd.errors import AlreadyExists, AuraedError, FailedPrecondition
from initd.values import NamedTuple
from runtime import scope
from runtime.cells.cells import Cells
from runtime.cells.model import Cell
from runtime.cells.security import NONE, Security

log = logging.getLogger(__name__)


class Quota(NamedTuple):
    """What a tenant has: its own cell, whose limits hold for all in it, and how many cells."""

    cell: Cell
    cells: int


def confinement(cell: Cell) -> tuple[bool, bool, Security]:
    """What keeps its executables from the node's."""
    security = (cell.security or NONE).resolved()
    return cell.isolate_process, cell.isolate_network, security


class Tenants:
    """`quota` says what a tenant has now."""

    def __init__(self, cells: Cells, quota: Callable[[str], Quota]) -> None:
        self._cells = cells
        self._quota = quota
        self._making: dict[str, asyncio.Lock] = {}

    def check(self, name: str) -> None:
        """Raises FailedPrecondition where the cell of that name is none of the tenant's: somebody
        else has made it, and it confines less than the policy says."""
        there = self._cells.cell(name)
        if there is None or there.tenant:
            return
        wanted = self._quota(name).cell
        if confinement(there) != confinement(wanted):
            raise FailedPrecondition(
                f"cell {name}: is there, and not confined as that of the tenant {name}; ask an "
                "operator to free it"
            )

    async def ensure(self, name: str) -> None:
        """The tenant's own cell is there when this returns. Raises what Allocate raises."""
        if self._cells.cell(name) is not None and name not in self._making:
            return
        lock = self._making.setdefault(name, asyncio.Lock())
        try:
            async with lock:
                if self._cells.cell(name) is None:
                    with scope.entered(scope.NODE):
                        await self._cells.allocate(self._quota(name).cell._replace(tenant=True))
                    log.info("tenant %s: its cell is made", name)
        except AlreadyExists:
            return
        finally:
            self._making.pop(name, None)

    def most(self, name: str) -> int:
        """How many cells there may be in the tenant's own."""
        return self._quota(name).cells

    def adjust(self, names: Iterable[str]) -> None:
        """Give tenants' cells that exist the limits that the policy says now. Of the tenants that
        the node has made no cell for, `names` are meant."""
        for name in sorted({*names, *self._cells.tenants()}):
            cell = self._quota(name).cell
            try:
                self._cells.adjust(cell)
            except (AuraedError, OSError) as e:
                log.error("tenant %s: its cell keeps its limits: %s", name, e)
