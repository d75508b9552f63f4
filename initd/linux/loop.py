"""Loop devices."""

import fcntl
import os
import struct
from typing import Final

# include/uapi/linux/loop.h
_LOOP_CONFIGURE: Final = 0x4C0A
_LOOP_CTL_GET_FREE: Final = 0x4C82
_READ_ONLY: Final = 1

# struct loop_config: descriptor, block size, struct loop_info64 (its flags at 52), reserved.
_CONFIG: Final = struct.Struct("<II52xI176x64x")


def attach(path: str) -> str:
    """Serve a file, read-only, as the block device whose path is returned.

    It holds the file until it is told to let go. The `loop` module must be loaded.
    """
    control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
    try:
        device = f"/dev/loop{fcntl.ioctl(control, _LOOP_CTL_GET_FREE)}"
    finally:
        os.close(control)
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        loop = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.ioctl(loop, _LOOP_CONFIGURE, _CONFIG.pack(file, 4096, _READ_ONLY))
        finally:
            os.close(loop)
    finally:
        os.close(file)
    return device
