"""What may take the machine down beside the API: the power button."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from initd.linux import input as devices
from initd.loop import Loop

_FOLDER: Final = Path("/dev/input")


class PowerButtons:
    """Every input device with a power key, from `look` on."""

    def __init__(self, loop: Loop, pressed: Callable[[], None]) -> None:
        self._loop = loop
        self._pressed = pressed
        self._watched: dict[str, int] = {}

    def save(self) -> dict[str, int]:
        """Descriptors by path."""
        return dict(self._watched)

    def resume(self, watched: Mapping[str, int]) -> None:
        for path, fd in watched.items():
            self._watch(path, fd)

    def look(self, folder: Path = _FOLDER) -> None:
        """Find those that are there now."""
        for path in sorted(folder.glob("event*")):
            self.add(path)

    def add(self, path: Path) -> None:
        """A device that has no power key, or is gone already, is left alone."""
        if str(path) in self._watched:
            return
        try:
            fd = devices.open_device(str(path))
        except OSError:
            return
        try:
            wanted = devices.has_key(fd, devices.KEY_POWER)
        except OSError:
            wanted = False
        if not wanted:
            os.close(fd)
            return
        self._watch(str(path), fd)

    def _watch(self, path: str, fd: int) -> None:
        self._watched[path] = fd
        self._loop.watch(fd, lambda _: self._read(path))

    def _read(self, path: str) -> None:
        fd = self._watched[path]
        try:
            keys = list(devices.pressed(fd))
        except OSError:
            # Unplugged.
            self._loop.unwatch(fd)
            os.close(self._watched.pop(path))
            return
        if devices.KEY_POWER in keys:
            self._pressed()
