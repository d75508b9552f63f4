"""Programs of others that a copy of PID 1 runs at boot, and waits for."""

import os
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from initd.boot.disks import NotThere
from initd.linux import memfd, spawn

_FOLDERS: Final = ("/usr/bin", "/usr/sbin")
_ENVIRONMENT: Final = {
    "PATH": ":".join(_FOLDERS),
    "LANG": "C.UTF-8",
    # There is no udev that would make device nodes and say so.
    "DM_DISABLE_UDEV": "1",
}
# Of what a program has said, as much as a message may hold.
_SAID: Final = 300
# The first descriptor of a program that is a secret's.
_SECRETS: Final = 3
_NONE: Final[Mapping[str, bytes]] = MappingProxyType({})


class Failed(NotThere):
    """How the program ended, and what it has said last."""

    def __init__(self, name: str, code: int, said: str) -> None:
        last = said.strip().rpartition("\n")[2].strip()[-_SAID:]
        super().__init__(f"{name}: {last or f'ended with {code}'}")
        self.code = code
        self.said = said


def run(name: str, *arguments: str, text: str = "", secrets: Mapping[str, bytes] = _NONE) -> str:
    """Run a program to its end, and return what it has said. Raises Failed; OSError.

    It reads `text`. Where an argument has `{KEY}` for a key of `secrets`, the program finds the
    name of a file in memory with that content."""
    path = find(name)
    given = [memfd.write(key, content) for key, content in secrets.items()]
    stdin = memfd.write("text", text.encode())
    os.lseek(stdin, 0, os.SEEK_SET)
    output, end = os.pipe2(os.O_CLOEXEC)
    try:
        places = {key: f"/proc/self/fd/{_SECRETS + at}" for at, key in enumerate(secrets)}
        fds = {0: stdin, 1: end, 2: end, **{_SECRETS + at: fd for at, fd in enumerate(given)}}
        argv = [name, *(argument.format_map(places) for argument in arguments)]
        pid = spawn.best()(path, argv, _ENVIRONMENT, cwd="/", fds=fds, cgroup=None)
    except BaseException:
        os.close(output)
        raise
    finally:
        for fd in (stdin, end, *given):
            os.close(fd)
    with open(output, "rb") as file:
        said = file.read().decode(errors="replace")
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code:
        raise Failed(name, code, said)
    return said


def find(name: str) -> str:
    """Where a program is. FileNotFoundError."""
    for folder in _FOLDERS:
        if os.access(f"{folder}/{name}", os.X_OK):
            return f"{folder}/{name}"
    raise FileNotFoundError(2, "not in this image", name)
