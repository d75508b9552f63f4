"""Bytes from a pipe to a file within the kernel, and holes in files."""

import ctypes
import fcntl
import os
from typing import Final

from initd.linux.libc import check, libc

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


def set_pipe_size(pipe: int, size: int) -> None:
    fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, size)
