"""Namespaces: setns(2), unshare(2), and the files in /proc that show them."""

import ctypes
import os
from enum import IntFlag

from initd.linux.libc import check, libc


class Namespace(IntFlag):
    """Values from include/uapi/linux/sched.h."""

    MOUNT = 0x00020000
    CGROUP = 0x02000000
    UTS = 0x04000000
    IPC = 0x08000000
    USER = 0x10000000
    PID = 0x20000000
    NETWORK = 0x40000000


def enter(fd: int, kinds: int) -> None:
    """`fd` is a pidfd, or a file of /proc/PID/ns. PID and those below it: children only.

    OSError(ESRCH): the process has ended. OSError(EINVAL): USER is our own already."""
    check(libc.setns(ctypes.c_int(fd), ctypes.c_int(kinds)))


def unshare(kinds: int) -> None:
    """New ones for this process; of PID for its children only."""
    check(libc.unshare(ctypes.c_int(kinds)))


def number(pid: int, kind: str) -> int:
    """What tells namespaces apart; `kind` is a name in /proc/PID/ns."""
    return os.stat(f"/proc/{pid}/ns/{kind}").st_ino
