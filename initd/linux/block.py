"""Block devices: ioctls of include/uapi/linux/fs.h."""

import fcntl
import os
import struct
from typing import Final

_BLKRRPART: Final = 0x125F
_BLKFLSBUF: Final = 0x1261
_BLKSSZGET: Final = 0x1268
_BLKDISCARD: Final = 0x1277
_BLKZEROOUT: Final = 0x127F
# _IOR(0x12, 114, size_t)
_BLKGETSIZE64: Final = 0x80081272

_SIZE: Final = struct.Struct("Q")
_RANGE: Final = struct.Struct("QQ")
_INT: Final = struct.Struct("i")


def open_alone(path: str) -> int:
    """OSError(EBUSY): it or a part of it is mounted, swapped to, or some other device's ground.
    Nobody can begin that until it is closed."""
    return os.open(path, os.O_RDWR | os.O_EXCL | os.O_CLOEXEC)


def size(device: int) -> int:
    """Bytes."""
    data = fcntl.ioctl(device, _BLKGETSIZE64, bytes(_SIZE.size))
    return int(_SIZE.unpack(data)[0])


def sector_size(device: int) -> int:
    """Bytes of a logical sector, which a partition table counts in."""
    return int(_INT.unpack(fcntl.ioctl(device, _BLKSSZGET, bytes(_INT.size)))[0])


def discard(device: int, at: int, length: int) -> None:
    """What lies there is of no more use, and may read as anything. OSError(EOPNOTSUPP)."""
    fcntl.ioctl(device, _BLKDISCARD, _RANGE.pack(at, length))


def zero_out(device: int, at: int, length: int) -> None:
    """By the device itself if it can, else the kernel writes zeros."""
    fcntl.ioctl(device, _BLKZEROOUT, _RANGE.pack(at, length))


def drop_cache(device: int) -> None:
    """Write what is cached and forget it: what is read next comes from the device."""
    fcntl.ioctl(device, _BLKFLSBUF)


def read_partitions(device: int) -> None:
    """Have the kernel look at the partition table again. OSError(EINVAL): it has none there."""
    fcntl.ioctl(device, _BLKRRPART)
