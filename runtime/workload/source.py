"""Follows what the node issues from: its authority's files, and what it is known by."""

import asyncio
import logging
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from initd.linux import inotify
from runtime.observe.wakeups import Wakeups
from runtime.trust.trust import Trust
from runtime.workload import material
from runtime.workload.identities import NodeIdentities
from runtime.workload.material import REMEDY, Material, Places
from runtime.workload.model import LIFE

if TYPE_CHECKING:
    from runtime.workload.issuer import NodeIssuer
    from runtime.workload.keys import SigningKeys

log = logging.getLogger(__name__)

CHANGES: Final = inotify.CREATE | inotify.CLOSE_WRITE | inotify.MOVED_TO | inotify.DELETE
# Seconds until all is read again though nothing was seen to change: a clock may have been set.
AGAIN: Final = 60.0
# Several files are changed one after the other: all of them, it is hoped, within so many seconds.
SETTLED: Final = 0.05


class Source:
    """The node's own authority, as it is on file, and whom `trust` believes. The public keys of
    tokens are kept in `keys`."""

    def __init__(self, places: Places, keys: Path, trust: Trust, *, life: float = LIFE) -> None:
        self._places = places
        self._trust = trust
        self._changed = asyncio.Event()
        self._file = keys
        self._life = life
        self._keys: SigningKeys | None = None
        self._taken: Material | None = None
        self._said = ""

    async def follow(self, identities: NodeIdentities) -> None:
        """Give what there is to `identities`, and again whenever it changes."""
        self._trust.listen(lambda _: self._changed.set())
        try:
            self._places.kept.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as e:
            log.warning("%s: what changes there is seen late: %s", self._places.kept, e)
        with Wakeups() as wakeups:
            while True:
                self._changed = changed = asyncio.Event()
                with ExitStack() as watches:
                    for folder in self._places.folders():
                        # It may be gone by now; then that is seen in the folder above.
                        with suppress(OSError):
                            watches.enter_context(wakeups.on(folder, changed, CHANGES))
                    await self.look(identities)
                    with suppress(TimeoutError):
                        async with asyncio.timeout(AGAIN):
                            await changed.wait()
                            await asyncio.sleep(SETTLED)

    async def look(self, identities: NodeIdentities) -> None:
        """Take what there is now, if that is new and usable."""
        known = self._trust.current
        if known is None:
            return
        try:
            found = await asyncio.to_thread(material.read, self._places, known)
            if found is None or found == self._taken:
                return
            issuer = await asyncio.to_thread(self._issuer, found)
        except (ValueError, OSError) as e:
            self._complain(str(e))
            return
        self._taken, self._said = found, ""
        identities.take(issuer)
        log.info("workloads get identities as %s/cell/…", found.node)

    def _issuer(self, found: Material) -> "NodeIssuer":
        # With them comes `cryptography`: a node without an authority does without.
        from runtime.workload.issuer import NodeIssuer
        from runtime.workload.keys import SigningKeys

        if self._keys is None:
            self._keys = SigningKeys(self._file)
        try:
            return NodeIssuer(found, self._keys, life=self._life)
        except Exception as e:
            # Others made the files: whatever `cryptography` raises of them (UnsupportedAlgorithm,
            # InvalidVersion, …) must not end the API.
            raise ValueError(f"node's authority: cannot be used ({e}); {REMEDY}") from e

    def _complain(self, why: str) -> None:
        if why != self._said:
            self._said = why
            kept = "what was there is kept" if self._taken else "workloads get no identity"
            log.error("%s. Until then %s", why, kept)
