"""What is executed for a Spawn, checked beforehand so that a mistake has a clear name."""

import os
import stat
from pathlib import Path
from typing import Final

from initd.errors import InvalidArgument, NotFound
from initd.processes.model import Spawn

DEFAULT_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_SETPRIV: Final = "/usr/bin/setpriv"


def resolve(spawn: Spawn) -> tuple[str, tuple[str, ...]]:
    """(file to execute, its argv). NotFound and InvalidArgument say what is wrong.

    posix_spawn(3) cannot change user, and a fork of PID 1 would cost as much as PID 1 is large:
    setpriv does it, by one more exec."""
    _check_folder(spawn.cwd)
    path = _executable(spawn)
    if not spawn.uid and not spawn.gid:
        return path, spawn.argv
    identity = (f"--reuid={spawn.uid}", f"--regid={spawn.gid}", "--clear-groups")
    return _SETPRIV, (_SETPRIV, *identity, "--", path, *spawn.argv[1:])


def _executable(spawn: Spawn) -> str:
    name = spawn.argv[0]
    if "/" in name:
        path = os.path.normpath(Path(spawn.cwd, name))
        if not Path(path).exists():
            raise NotFound(f"command {name}: no such file")
        if not _can_execute(path):
            raise InvalidArgument(f"command {name}: not an executable file: chmod +x it")
        return path
    search = spawn.env.get("PATH") or DEFAULT_PATH
    for folder in search.split(":"):
        path = str(Path(spawn.cwd, folder, name))
        if _can_execute(path):
            return path
    raise NotFound(f"command {name}: not found in PATH ({search})")


def _can_execute(path: str) -> bool:
    try:
        mode = Path(path).stat().st_mode
    except OSError:
        return False
    return stat.S_ISREG(mode) and bool(mode & 0o111)


def _check_folder(path: str) -> None:
    try:
        mode = Path(path).stat().st_mode
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFound(f"cwd {path}: no such folder") from error
    if not stat.S_ISDIR(mode):
        raise InvalidArgument(f"cwd {path}: not a folder")
