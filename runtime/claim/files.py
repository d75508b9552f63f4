"""What a node keeps of its claiming, on a disk: keys before, and then who it is.

| in the folder of state | |
|---|---|
| `claim/` | `node.key`, `node-ca.key`: nothing is certified for them yet |
| `identity/` | `node.crt`, `node.key`, `ca.crt`, perhaps `node-ca.crt`, `node-ca.key`; at once |
| `policy.json` | what the node was given with them |
"""

import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from initd.errors import AlreadyExists
from runtime.durable import put, sync, write

_FOLDER: Final = 0o700
_FILE: Final = 0o600
# Of an identity that is being written. What lies there after a crash is removed by the next.
_PARTIAL: Final = ".identity."


def keep(path: Path, make: Callable[[], bytes]) -> bytes:
    """The content of `path`, which is made where it is not there: whole, and on the disk when this
    returns. OSError."""
    with suppress(FileNotFoundError):
        return path.read_bytes()
    content = make()
    put(path, content)
    return content


def make_folder(path: Path) -> None:
    """For us alone, whatever it was. OSError."""
    path.mkdir(mode=_FOLDER, parents=True, exist_ok=True)
    path.chmod(_FOLDER)


def become(state: Path, identity: Mapping[str, bytes], policy: bytes) -> None:
    """Put down who the node is: all of it and for good, or nothing. OSError.

    The policy goes first: it means nothing as long as there is no identity. Raises AlreadyExists
    where there is one. `state` is there.
    """
    for old in state.glob(f"{_PARTIAL}*"):
        shutil.rmtree(old)
    fresh = Path(tempfile.mkdtemp(dir=state, prefix=_PARTIAL))
    try:
        for name, content in identity.items():
            write(fresh / name, content)
        sync(fresh)
        if _is_claimed(state):
            # Whose policy is that of who was first.
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY))
        if policy:
            put(state / "policy.json", policy)
        else:
            (state / "policy.json").unlink(missing_ok=True)
        # A folder takes the place of an empty one, and of no other: rename(2).
        placed = fresh.rename(state / "identity")
        try:
            sync(state)
        except OSError:
            # It may be gone with the next power cut: then it had better not be here now.
            placed.rename(fresh)
            raise
    except OSError as e:
        shutil.rmtree(fresh, ignore_errors=True)
        if e.errno in (errno.ENOTEMPTY, errno.EEXIST):
            raise AlreadyExists("node: is claimed already; call it as who may use its API") from e
        raise


def _is_claimed(state: Path) -> bool:
    with suppress(FileNotFoundError):
        return any((state / "identity").iterdir())
    return False
