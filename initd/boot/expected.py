"""What a new version must be found to have, written down by the one before.

It stands in the partition `aurae-attempts`, behind the count of boots: JSON in 4096 bytes. So it is
there without a data disk, which is one of the things that may be missing.
"""

import os
from typing import Final

from initd.values import NamedTuple

_PLACE: Final = 4096
_SIZE: Final = 4096


class Expected(NamedTuple):
    """`root_hash` is the new version's: what any other is found to have does not matter."""

    root_hash: str = ""
    addresses: tuple[str, ...] = ()
    """By which the API was reached."""
    port: int = 0
    """Where it listened; 0: not over TCP."""
    data: bool = False
    """Whether there was a data disk."""


def write(path: str, expected: Expected) -> None:
    """It is on the disk then. OSError."""
    import json

    text = json.dumps(expected._asdict()).encode()
    if len(text) > _SIZE:
        # More addresses than anybody needs to reach it by.
        text = json.dumps(expected._replace(addresses=expected.addresses[:32])._asdict()).encode()
    fd = os.open(path, os.O_WRONLY | os.O_DSYNC | os.O_CLOEXEC)
    try:
        os.pwrite(fd, text.ljust(_SIZE, b"\0"), _PLACE)
    finally:
        os.close(fd)


def read(path: str) -> Expected:
    """Of nothing but defaults where it is something else. OSError."""
    import json

    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        raw = os.pread(fd, _SIZE, _PLACE)
    finally:
        os.close(fd)
    try:
        found = json.loads(raw.rstrip(b"\0"))
        return Expected(
            str(found["root_hash"]),
            tuple(map(str, found["addresses"])),
            int(found["port"]),
            bool(found["data"]),
        )
    except (ValueError, KeyError, TypeError):
        return Expected()
