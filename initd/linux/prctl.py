"""prctl(2)."""

import ctypes
from contextlib import suppress
from typing import Any, Final

from initd.linux.libc import check, libc

# include/uapi/linux/prctl.h
_PR_SET_DUMPABLE: Final = 4
_PR_SET_NAME: Final = 15
_PR_CAPBSET_DROP: Final = 24
_PR_SET_MM: Final = 35
_PR_SET_CHILD_SUBREAPER: Final = 36
_PR_SET_NO_NEW_PRIVS: Final = 38
_PR_SET_MM_ARG_START: Final = 8
_PR_SET_MM_ARG_END: Final = 9

# Where the kernel reads the command line of this process.
_title: Any = None


def set_child_subreaper() -> None:
    """Orphans below this process become its children, as they do for PID 1."""
    check(libc.prctl(_PR_SET_CHILD_SUBREAPER, ctypes.c_ulong(1)))


def set_name(name: str) -> None:
    """What /proc/self/comm shows, cut at 15 bytes, and where we may /proc/self/cmdline: what `ps`
    shows."""
    check(libc.prctl(_PR_SET_NAME, ctypes.c_char_p(name.encode())))
    with suppress(PermissionError):
        _set_command_line(name.encode())


def _set_command_line(text: bytes) -> None:
    global _title
    title = ctypes.create_string_buffer(text)
    start = ctypes.addressof(title)
    ends = [(_PR_SET_MM_ARG_START, start), (_PR_SET_MM_ARG_END, start + ctypes.sizeof(title))]
    # Its start is never behind its end, not even between these two.
    if _title is not None and start > ctypes.addressof(_title):
        ends.reverse()
    zero = ctypes.c_ulong(0)
    for what, address in ends:
        check(libc.prctl(_PR_SET_MM, ctypes.c_ulong(what), ctypes.c_ulong(address), zero, zero))
    _title = title


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
