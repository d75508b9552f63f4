"""Disks of the node, and what is asked for one of them."""

from enum import StrEnum

from initd.values import NamedTuple


class Part(NamedTuple):
    """A partition. `size` is in bytes."""

    path: str
    label: str
    size: int
    content: str
    used_by: tuple[str, ...]


class Disk(NamedTuple):
    """`size` and `sector` are in bytes; `used_by` tells of its parts as well."""

    path: str
    sequence: int
    size: int
    sector: int
    model: str
    serial: str
    removable: bool
    read_only: bool
    content: str
    used_by: tuple[str, ...]
    parts: tuple[Part, ...]


class Asked(NamedTuple):
    """An installation. `sequence`, `size` and `sha256` may be unknown: 0, 0, nothing."""

    disk: str
    sequence: int = 0
    size: int = 0
    sha256: bytes = b""


class Phase(StrEnum):
    WRITING = "writing"
    VERIFYING = "verifying"
    DONE = "done"


class Progress(NamedTuple):
    """Bytes of the image."""

    phase: Phase
    done: int
    total: int
