"""What was asked for each cell, on file, so that a restarted runtime knows it."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from initd.errors import InvalidArgument
from runtime.cells.model import DEFAULT_GRACE, Cell
from runtime.cells.model import grace as checked_grace

# A label has no dot, so no cell's own file has such a name.
PARTIAL: Final = ".json.partial"
FREEING: Final = ".freeing"


class Specs:
    """One JSON file a cell, `web/api.json` for `web/api`.

    The file is made last by Allocate and removed last by Free: a cgroup without one is no cell.
    While a cell is being freed there is `web/api.freeing` as well, with the grace: a runtime that
    finds it finishes what the one before it began.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.json"

    def _mark(self, name: str) -> Path:
        return self._folder / f"{name}{FREEING}"

    @contextmanager
    def written(self, cell: Cell) -> Iterator[None]:
        """The file exists once the block is done, and not if it raises.

        Within the block it is `web/api.json.partial`: what a runtime that ends there leaves is told
        from what others have made.
        """
        path = self._path(cell.name)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        partial = path.with_suffix(PARTIAL)
        try:
            partial.write_text(json.dumps(cell.to_json()))
            yield
            partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise

    @contextmanager
    def replaced(self, cell: Cell) -> Iterator[None]:
        """The file says the new limits once the block is done, and the old ones if it raises."""
        path = self._path(cell.name)
        fresh = path.with_suffix(".json.new")
        try:
            fresh.write_text(json.dumps(cell.to_json()))
            yield
            fresh.replace(path)
        except BaseException:
            fresh.unlink(missing_ok=True)
            raise

    def half_made(self) -> list[str]:
        """Cells whose Allocate was not done, the inner ones first."""
        names = self._names(PARTIAL)
        return sorted(names, key=lambda name: name.count("/"), reverse=True)

    def drop(self, name: str) -> None:
        """What `half_made` found is undone."""
        self._path(name).with_suffix(PARTIAL).unlink(missing_ok=True)

    def mark(self, name: str, grace: float) -> None:
        """The cell is being freed, with so many seconds of grace."""
        self._mark(name).write_text(json.dumps(grace))

    def unmark(self, name: str) -> None:
        self._mark(name).unlink(missing_ok=True)

    def marked(self) -> dict[str, float]:
        """The cells that were being freed, the outer ones first, and with what grace."""
        marked = {}
        for name in sorted(self._names(FREEING)):
            # A damaged file still says what was to be done.
            marked[name] = DEFAULT_GRACE
            with suppress(ValueError, InvalidArgument):
                marked[name] = checked_grace(float(self._mark(name).read_text()))
        return marked

    def _names(self, suffix: str) -> list[str]:
        return [
            str(path.relative_to(self._folder)).removesuffix(suffix)
            for path in self._folder.rglob(f"*{suffix}")
        ]

    def remove(self, name: str) -> None:
        self._path(name).unlink(missing_ok=True)
        self.unmark(name)
        with suppress(OSError):  # never made, or cells are left in it: both are fine
            (self._folder / name).rmdir()

    def read(self) -> dict[str, Cell]:
        """The cells on file by name. Files that are none of ours, or damaged, are left out."""
        cells = {}
        for folder, _, files in os.walk(self._folder):
            for file in files:
                path = Path(folder) / file
                with suppress(ValueError, KeyError, TypeError, InvalidArgument):
                    cell = Cell.from_json(json.loads(path.read_text()))
                    if path == self._path(cell.name):
                        cells[cell.name] = cell
        return cells
