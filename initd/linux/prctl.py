"""prctl(2)."""

import ctypes
from typing import Final

from initd.linux.libc import check, libc

# include/uapi/linux/prctl.h
_PR_SET_NAME: Final = 15
_PR_SET_CHILD_SUBREAPER: Final = 36


def set_child_subreaper() -> None:
    """Orphans below this process become its children, as they do for PID 1."""
    check(libc.prctl(_PR_SET_CHILD_SUBREAPER, ctypes.c_ulong(1)))


def set_name(name: str) -> None:
    """What `ps` and /proc/self/comm show, cut at 15 bytes."""
    check(libc.prctl(_PR_SET_NAME, ctypes.c_char_p(name.encode())))
