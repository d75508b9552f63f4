"""Files that are on the disk when a call returns, also over a power cut. All for us alone."""

import itertools
import os
from pathlib import Path
from typing import Final

# Ends the name of what is not whole yet.
PARTIAL: Final = ".partial"

_FOLDER: Final = 0o700
_FILE: Final = 0o600
_numbers: Final = itertools.count()


def put(path: Path, content: bytes) -> None:
    """Replace a file, or make it and its folder: at any moment it has its old or its new content.
    OSError, and then the old."""
    path.parent.mkdir(mode=_FOLDER, parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{os.getpid()}-{next(_numbers)}{PARTIAL}")
    try:
        write(fresh, content)
        fresh.rename(path)
    except OSError:
        fresh.unlink(missing_ok=True)
        raise
    sync(path.parent)


def write(path: Path, content: bytes) -> None:
    """Its content, not its name: that is the folder's, see `sync`. OSError."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
    with os.fdopen(os.open(path, flags, _FILE), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def sync(folder: Path) -> None:
    """What is in a folder, by name. OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
