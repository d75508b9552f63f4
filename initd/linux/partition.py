"""Partitions as the kernel has them: ioctl(2) BLKPG, of include/uapi/linux/blkpg.h."""

import ctypes
import fcntl
import os
from typing import Final

_BLKPG: Final = 0x1269
_ADD: Final = 1
_RESIZE: Final = 3


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


def add(disk: str, number: int, start: int, length: int) -> None:
    """Tell the kernel of a partition that is in the table, in bytes. The kernel does not know its
    name then. OSError."""
    _tell(disk, _ADD, number, start, length)


def resize(disk: str, number: int, start: int, length: int) -> None:
    """As `add`, of one that the kernel knows by other bounds."""
    _tell(disk, _RESIZE, number, start, length)


def _tell(disk: str, operation: int, number: int, start: int, length: int) -> None:
    partition = _Partition(start=start, length=length, number=number)
    argument = _Argument(
        operation=operation, length=ctypes.sizeof(partition), data=ctypes.addressof(partition)
    )
    fd = os.open(disk, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.ioctl(fd, _BLKPG, bytes(argument))
    except OSError as e:
        raise OSError(e.errno, e.strerror, disk) from e
    finally:
        os.close(fd)
