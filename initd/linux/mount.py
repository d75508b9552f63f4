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

# include/uapi/asm-generic/unistd.h: newer calls have one number everywhere.
_OPEN_TREE: Final = 428
_MOVE_MOUNT: Final = 429
_MOUNT_SETATTR: Final = 442
# include/uapi/linux/{mount,fcntl}.h
_OPEN_TREE_CLONE: Final = 0x1
_OPEN_TREE_CLOEXEC: Final = os.O_CLOEXEC
_MOVE_MOUNT_F_EMPTY_PATH: Final = 0x4
_MOUNT_ATTR_RDONLY: Final = 0x1
_AT_FDCWD: Final = -100
_AT_RECURSIVE: Final = 0x8000


def mount(source: str, target: str, fstype: str = "", flags: int = 0, options: str = "") -> None:
    """The error's filename is the target."""
    data = os.fsencode(options) if options else None
    kind = os.fsencode(fstype) if fstype else None
    result = libc.mount(os.fsencode(source), os.fsencode(target), kind, ctypes.c_ulong(flags), data)
    check(result, target)


def umount(target: str, *, detach: bool = False) -> None:
    """With `detach` it vanishes from sight at once, and ends when nobody uses it any more."""
    check(libc.umount2(os.fsencode(target), _MNT_DETACH if detach else 0), target)


def clone_tree(path: str) -> int:
    """open_tree(2): a bind mount of `path` that lies nowhere yet; a descriptor, ours to close."""
    flags = _OPEN_TREE_CLONE | _OPEN_TREE_CLOEXEC
    result = libc.syscall(
        ctypes.c_long(_OPEN_TREE), ctypes.c_int(_AT_FDCWD), os.fsencode(path), ctypes.c_uint(flags)
    )
    return check(result, path)


def place_tree(tree: int, target: str) -> None:
    """move_mount(2): put what `clone_tree` gave on `target`, a file or folder as it is one."""
    result = libc.syscall(
        ctypes.c_long(_MOVE_MOUNT),
        ctypes.c_int(tree),
        b"",
        ctypes.c_int(_AT_FDCWD),
        os.fsencode(target),
        ctypes.c_uint(_MOVE_MOUNT_F_EMPTY_PATH),
    )
    check(result, target)


class _MountAttr(ctypes.Structure):
    """struct mount_attr of include/uapi/linux/mount.h."""

    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


def make_read_only(path: str) -> None:
    """mount_setattr(2): the mount at `path` and all below it."""
    attributes = _MountAttr(attr_set=_MOUNT_ATTR_RDONLY)
    result = libc.syscall(
        ctypes.c_long(_MOUNT_SETATTR),
        ctypes.c_int(_AT_FDCWD),
        os.fsencode(path),
        ctypes.c_uint(_AT_RECURSIVE),
        ctypes.byref(attributes),
        ctypes.c_size_t(ctypes.sizeof(attributes)),
    )
    check(result, path)
