"""Block devices and the file systems on them: their ioctl(2)s."""

import ctypes
import fcntl
import os
from typing import Final

# include/uapi/linux/blkpg.h
_BLKPG: Final = 0x1269
_ADD_PARTITION: Final = 1
_RESIZE_PARTITION: Final = 3
# include/uapi/linux/fs.h: FS_IOC_SETFSLABEL; include/uapi/linux/btrfs.h: BTRFS_IOC_RESIZE, whose
# argument is a struct btrfs_ioctl_vol_args of 4096 bytes: a descriptor, and a text.
_SET_LABEL: Final = 0x41009432
_LABEL_ROOM: Final = 256
_BTRFS_RESIZE: Final = 0x50009403
_BTRFS_ROOM: Final = 4096
# include/uapi/linux/fs.h: FIFREEZE, FITHAW
_FREEZE: Final = 0xC0045877
_THAW: Final = 0xC0045878


class _Partition(ctypes.Structure):
    """struct blkpg_partition; lengths are bytes."""

    _fields_ = (
        ("start", ctypes.c_longlong),
        ("length", ctypes.c_longlong),
        ("number", ctypes.c_int),
        ("device_name", ctypes.c_char * 64),
        ("volume_name", ctypes.c_char * 64),
    )


class _Argument(ctypes.Structure):
    """struct blkpg_ioctl_arg."""

    _fields_ = (
        ("operation", ctypes.c_int),
        ("flags", ctypes.c_int),
        ("length", ctypes.c_int),
        ("data", ctypes.c_void_p),
    )


def add_partition(disk: str, number: int, start: int, length: int) -> None:
    """Tell the kernel of a partition that is in the table, in bytes. The kernel does not know its
    name then. OSError."""
    _tell(disk, _ADD_PARTITION, number, start, length)


def resize_partition(disk: str, number: int, start: int, length: int) -> None:
    """As `add_partition`, of one that the kernel knows by other bounds."""
    _tell(disk, _RESIZE_PARTITION, number, start, length)


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


def _tell(disk: str, operation: int, number: int, start: int, length: int) -> None:
    partition = _Partition(start=start, length=length, number=number)
    argument = _Argument(
        operation=operation, length=ctypes.sizeof(partition), data=ctypes.addressof(partition)
    )
    _control(disk, _BLKPG, bytes(argument))


def _control(path: str, request: int, argument: bytes) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.ioctl(fd, request, bytearray(argument))
    except OSError as e:
        raise OSError(e.errno, e.strerror, path) from e
    finally:
        os.close(fd)
