"""mount(2) and umount2(2)."""

import ctypes
import os
from enum import IntFlag
from typing import Final

from initd.linux.libc import check, libc


class MountFlag(IntFlag):
    """Values from include/uapi/linux/mount.h."""

    RDONLY = 0x1
    NOSUID = 0x2
    NODEV = 0x4
    NOEXEC = 0x8
    REMOUNT = 0x20
    BIND = 0x1000
    MOVE = 0x2000
    REC = 0x4000
    PRIVATE = 0x40000
    SHARED = 0x100000
    RELATIME = 0x200000
    STRICTATIME = 0x1000000


_MNT_DETACH: Final = 0x2


def mount(source: str, target: str, fstype: str = "", flags: int = 0, options: str = "") -> None:
    """The error's filename is the target."""
    data = os.fsencode(options) if options else None
    kind = os.fsencode(fstype) if fstype else None
    result = libc.mount(os.fsencode(source), os.fsencode(target), kind, ctypes.c_ulong(flags), data)
    check(result, target)


def umount(target: str, *, detach: bool = False) -> None:
    """With `detach` it vanishes from sight at once, and ends when nobody uses it any more."""
    check(libc.umount2(os.fsencode(target), _MNT_DETACH if detach else 0), target)
