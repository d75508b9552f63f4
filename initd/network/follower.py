"""The node's configuration document, as auraed has merged it, and the news that it has changed."""

import json
import logging
from pathlib import Path
from typing import Any, Final

from initd.linux import inotify
from initd.network.model import Settings

log: Final = logging.getLogger(__name__)

NAME: Final = "config.json"


class Follower:
    """`settings` is what the last document asked for that could be used."""

    def __init__(self, folder: Path) -> None:
        self.settings = Settings()
        self._path = folder / NAME
        self._read: bytes | None = None
        self._inotify = inotify.init()
        folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        # The folder: the file is replaced, and may not be there yet.
        events = inotify.MOVED_TO | inotify.CLOSE_WRITE | inotify.DELETE
        inotify.watch(self._inotify, str(folder), events)

    def fileno(self) -> int:
        return self._inotify

    def heard(self) -> bool:
        """Whether it was about the document; all that was heard is forgotten."""
        return NAME in [event.name for event in inotify.read(self._inotify)]

    def load(self) -> bool:
        """Read it; whether `settings` have changed. What cannot be used is logged, and changes
        nothing."""
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            data = b"{}"
        except OSError as e:
            log.warning("%s: not read: %s", self._path, e.strerror)
            return False
        if data == self._read:
            return False
        self._read = data
        try:
            settings = _settings(json.loads(data).get("values", {}))
        except (ValueError, AttributeError, TypeError, RecursionError) as e:
            log.warning("%s: the network stays as it is: %s", self._path, e)
            return False
        changed, self.settings = settings != self.settings, settings
        return changed


def _settings(values: dict[str, Any]) -> Settings:
    """Raises ValueError, or what a document of another shape does."""
    table = values.get("network") or {}
    hostname = values.get("hostname") or None
    if hostname is not None:
        hostname = str(hostname)
    time = values.get("time") or {}
    if not table and not time:
        return Settings(hostname=hostname)
    # What describes the document is not needed where there is none.
    from initd.network import document

    if problems := document.check(table, time):
        raise ValueError("; ".join(map(str, problems)))
    return document.settings(table, hostname, time)
