"""Mounted file systems: their ioctl(2)s."""

import fcntl
import os
from typing import Final

# include/uapi/linux/fs.h: FS_IOC_SETFSLABEL, FIFREEZE, FITHAW.
_SET_LABEL: Final = 0x41009432
_LABEL_ROOM: Final = 256
_FREEZE: Final = 0xC0045877
_THAW: Final = 0xC0045878
# include/uapi/linux/btrfs.h: BTRFS_IOC_RESIZE, whose argument is a struct btrfs_ioctl_vol_args of
# 4096 bytes: a descriptor, and a text.
_BTRFS_RESIZE: Final = 0x50009403
_BTRFS_ROOM: Final = 4096


def set_label(folder: str, label: str) -> None:
    """Name the file system that is mounted there. OSError."""
    _control(folder, _SET_LABEL, label.encode().ljust(_LABEL_ROOM, b"\0"))


def fill_with_btrfs(folder: str) -> None:
    """Let the btrfs that is mounted there fill the first of its devices. OSError."""
    # Device 1, the text, and what is left of the structure.
    _control(folder, _BTRFS_RESIZE, (bytes(8) + b"1:max").ljust(_BTRFS_ROOM, b"\0"))


def settle(folder: str) -> None:
    """Write what the file system that is mounted there has in its journal to its place. Nobody else
    may use it meanwhile. OSError."""
    _control(folder, _FREEZE, bytes(4))
    _control(folder, _THAW, bytes(4))


def _control(path: str, request: int, argument: bytes) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.ioctl(fd, request, bytearray(argument))
    except OSError as e:
        raise OSError(e.errno, e.strerror, path) from e
    finally:
        os.close(fd)
