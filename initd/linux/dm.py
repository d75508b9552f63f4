"""The device mapper's control node: include/uapi/linux/dm-ioctl.h of the kernel."""

import fcntl
import os
import struct
from typing import Final

CONTROL: Final = "/dev/mapper/control"
SECTOR: Final = 512
"""Bytes that lengths of targets count in, whatever sectors a disk has."""

_VERSION: Final = (4, 0, 0)
# struct dm_ioctl: version, data_size, data_start, target_count, open_count, flags, event_nr,
# padding, dev, name, uuid, and 7 bytes that end it.
_HEADER: Final = struct.Struct("=3I4I3IQ128s129s7x")
# struct dm_target_spec: sector_start, length, status, next, target_type. Parameters follow.
_TARGET: Final = struct.Struct("=2QiI16s")
_ALIGNMENT: Final = 8

_READ_ONLY: Final = 1 << 0
# _IOWR(0xfd, number, struct dm_ioctl)
_IOWR: Final = 3 << 30 | _HEADER.size << 16 | 0xFD << 8
_CREATE: Final = _IOWR | 3
_REMOVE: Final = _IOWR | 4
_SUSPEND: Final = _IOWR | 6
_LOAD: Final = _IOWR | 9


def open_control(path: str = CONTROL) -> int:
    """Ours to close. The other functions take it."""
    return os.open(path, os.O_RDWR | os.O_CLOEXEC)


def create(control: int, name: str) -> int:
    """A device without a table; returns its number, as in `os.major`."""
    answer = _call(control, _CREATE, name)
    number: int = _HEADER.unpack_from(answer)[10]
    return number


def load(control: int, name: str, sectors: int, target: str, parameters: str) -> None:
    """Give it a table of one target, read-only, for its next `resume`."""
    text = parameters.encode() + b"\0"
    text += b"\0" * (-len(text) % _ALIGNMENT)
    spec = _TARGET.pack(0, sectors, 0, _TARGET.size + len(text), target.encode())
    _call(control, _LOAD, name, flags=_READ_ONLY, targets=1, data=spec + text)


def resume(control: int, name: str) -> None:
    """It has its table from now on, and its block device its size."""
    _call(control, _SUSPEND, name)


def remove(control: int, name: str) -> None:
    """OSError(EBUSY): it is in use."""
    _call(control, _REMOVE, name)


def _call(
    control: int, request: int, name: str, *, flags: int = 0, targets: int = 0, data: bytes = b""
) -> bytearray:
    size = _HEADER.size + len(data)
    start = _HEADER.size
    header = _HEADER.pack(*_VERSION, size, start, targets, 0, flags, 0, 0, 0, name.encode(), b"")
    buffer = bytearray(header + data)
    fcntl.ioctl(control, request, buffer)
    return buffer
