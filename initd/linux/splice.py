"""Bytes from a pipe to a file within the kernel, and holes in files."""

import ctypes
import fcntl
import os
from contextlib import suppress
from typing import Final

from initd.linux.libc import check, libc

PIPE_SIZE: Final = 256 * 1024
_SPLICE_F_MOVE: Final = 1
_SPLICE_F_NONBLOCK: Final = 2
_FALLOC_FL_KEEP_SIZE: Final = 1
_FALLOC_FL_PUNCH_HOLE: Final = 2


def splice(pipe: int, file: int, offset: int, count: int) -> int:
    """Move up to `count` bytes to `offset` of the file. 0: all write ends are closed.

    BlockingIOError: the pipe is empty."""
    flags = _SPLICE_F_MOVE | _SPLICE_F_NONBLOCK
    return os.splice(pipe, file, count, offset_dst=offset, flags=flags)


def punch(file: int, offset: int, length: int) -> None:
    """Give the memory of whole pages in this range back; they read as zeros from now on."""
    mode = _FALLOC_FL_PUNCH_HOLE | _FALLOC_FL_KEEP_SIZE
    check(
        libc.fallocate(
            ctypes.c_int(file), ctypes.c_int(mode), ctypes.c_int64(offset), ctypes.c_int64(length)
        )
    )


def make_pipe() -> tuple[int, int]:
    """(read end that does not block, write end), large enough for a burst."""
    read, write = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(read, False)
    enlarge(read)
    return read, write


def enlarge(pipe: int) -> None:
    """Give a pipe room for a burst."""
    # Past its user's soft limit, which root does not have, the pipe stays as large as it is.
    with suppress(PermissionError):
        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
