"""What there is to say about upgrades."""

from enum import StrEnum

from initd.release import Manifest, Place
from initd.values import NamedTuple


class Stage(StrEnum):
    """How far an upgrade is."""

    WRITING = "writing"
    VERIFYING = "verifying"
    DONE = "done"


class Progress(NamedTuple):
    stage: Stage
    version: str
    offset: int
    """Bytes of the bundle after its manifest that are written."""
    size: int
    slot: str


class Installed(NamedTuple):
    """A version that the boot loader knows. `left` is None of one that was found healthy."""

    version: str
    left: int | None
    running: bool


class Status(NamedTuple):
    version: str
    slot: str
    health: str
    reason: str
    versions: tuple[Installed, ...]
    active: bool
    upgrade: Progress | None


class Written(NamedTuple):
    """What is on the disk of an upgrade that is not done: the state file."""

    manifest: bytes
    slot: str
    place: Place


class Wanted(NamedTuple):
    """An upgrade that may begin."""

    manifest: Manifest
    encoded: bytes
