"""What was asked for each cell, on file, so that a restarted runtime knows it."""

import json
import os
from contextlib import suppress
from pathlib import Path

from initd.errors import InvalidArgument
from runtime.cells.model import Cell


class Specs:
    """One JSON file a cell, `web/api.json` for `web/api`.

    The file is made last by Allocate and removed last by Free: a cgroup without one is no cell.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.json"

    def write(self, cell: Cell) -> None:
        """All of the file exists afterwards, or none."""
        path = self._path(cell.name)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # A label has no dot, so no cell's file has this name.
        partial = path.with_suffix(".json.partial")
        try:
            partial.write_text(json.dumps(cell.to_json()))
            partial.replace(path)
        except OSError:
            partial.unlink(missing_ok=True)
            raise

    def remove(self, name: str) -> None:
        self._path(name).unlink(missing_ok=True)
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
