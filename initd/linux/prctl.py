"""prctl(2)."""

import ctypes
from typing import Final

from initd.linux.libc import check, libc

# include/uapi/linux/prctl.h
_PR_SET_DUMPABLE: Final = 4
_PR_SET_NAME: Final = 15
_PR_CAPBSET_DROP: Final = 24
_PR_SET_CHILD_SUBREAPER: Final = 36
_PR_SET_NO_NEW_PRIVS: Final = 38


def set_child_subreaper() -> None:
    """Orphans below this process become its children, as they do for PID 1."""
    check(libc.prctl(_PR_SET_CHILD_SUBREAPER, ctypes.c_ulong(1)))


def set_name(name: str) -> None:
    """What `ps` and /proc/self/comm show, cut at 15 bytes."""
    check(libc.prctl(_PR_SET_NAME, ctypes.c_char_p(name.encode())))


def set_undumpable() -> None:
    """Nobody of our user ID may trace us or read our memory."""
    check(libc.prctl(_PR_SET_DUMPABLE, ctypes.c_ulong(0)))


def set_no_new_privileges() -> None:
    """No execve(2) gives this process and its children more than they have. Cannot be undone."""
    zero = ctypes.c_ulong(0)
    check(libc.prctl(_PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1), zero, zero, zero))


def drop_from_bounding_set(capability: int) -> None:
    """No execve(2) gives it any more. OSError(EINVAL): the kernel has none of that number."""
    check(libc.prctl(_PR_CAPBSET_DROP, ctypes.c_ulong(capability)))
