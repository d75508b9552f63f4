"""What the node is known by just now: one place, which tells whoever must know of a change."""

from collections.abc import Callable
from typing import Protocol

from runtime.observe.wakeups import Wakeups
from runtime.trust.material import Material

Listener = Callable[[Material | None], None]


class Trust:
    """Changed on the event loop only; any thread may read."""

    def __init__(self, current: Material | None = None) -> None:
        self.current = current
        self.generation = 0
        """Counts the changes of bundles and revocation lists: what was verified before is to be
        verified again."""
        self._listeners: list[Listener] = []

    def domain(self) -> str | None:
        """The node's own trust domain; None where it has no identity."""
        return None if self.current is None else self.current.identity.trust_domain

    def listen(self, listener: Listener) -> None:
        """Call `listener` after each change, on the event loop."""
        self._listeners.append(listener)

    def update(self, material: Material | None) -> bool:
        """Whether that is a change. None: the node has nothing usable."""
        before = self.current
        if material == before:
            return False
        self.current = material
        if _believed(material) != _believed(before):
            self.generation += 1
        for listener in self._listeners:
            listener(material)
        return True


def _believed(material: Material | None) -> object:
    return material and (material.identity.trust_domain, material.bundles, material.crls)


class Source(Protocol):
    """Where the node's identity comes from."""

    def read(self) -> Material:
        """What the API begins with, with little effort. Raises Unusable."""

    async def run(self, trust: Trust, wakeups: Wakeups, /) -> None:
        """Have `trust` follow, from when the API answers until this is cancelled."""
