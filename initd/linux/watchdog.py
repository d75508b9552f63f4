"""Watchdog devices: Documentation/watchdog/watchdog-api.rst of the kernel."""

import fcntl
import os
import struct
from typing import Final

# include/uapi/linux/watchdog.h: _IOR('W', 5, int) and _IOWR('W', 6, int)
_WDIOC_KEEPALIVE: Final = 0x80045705
_WDIOC_SETTIMEOUT: Final = 0xC0045706
_INT: Final = struct.Struct("i")


def open_device(path: str) -> int:
    """From now on it must be fed. OSError(EBUSY): somebody else has it."""
    return os.open(path, os.O_WRONLY | os.O_CLOEXEC)


def set_timeout(device: int, seconds: int) -> int:
    """After how long without `feed` it resets the machine; returns what it took."""
    data = fcntl.ioctl(device, _WDIOC_SETTIMEOUT, _INT.pack(seconds))
    taken: int = _INT.unpack(data)[0]
    return taken


def feed(device: int) -> None:
    fcntl.ioctl(device, _WDIOC_KEEPALIVE, _INT.pack(0))


def disarm(device: int) -> None:
    """Close it such that it stops, where its driver can stop it at all."""
    try:
        os.write(device, b"V")
    finally:
        os.close(device)
