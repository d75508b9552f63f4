"""Files without a name, in memory: memfd_create(2)."""

import fcntl
import os
from typing import Final

# include/uapi/linux/fcntl.h
_SEALED: Final = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


def write(name: str, data: bytes) -> int:
    """A sealed file with `data`: nobody can change it any more. Ours to close."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        with open(fd, "wb", closefd=False) as file:
            file.write(data)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALED)
    except BaseException:
        os.close(fd)
        raise
    return fd


def is_sealed(fd: int) -> bool:
    """Whether it is an open file of `write`."""
    try:
        return fcntl.fcntl(fd, fcntl.F_GET_SEALS) == _SEALED
    except OSError:
        return False


def read(fd: int) -> bytes:
    """All of it."""
    with open(fd, "rb", closefd=False) as file:
        file.seek(0)
        return file.read()
