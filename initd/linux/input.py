"""Input devices, as far as PID 1 needs them: the power button."""

import fcntl
import os
import struct
from collections.abc import Iterator
from typing import Final

# include/uapi/linux/input-event-codes.h
_EV_KEY: Final = 1
KEY_POWER: Final = 116
# struct input_event on 64 bit: two longs of time, type, code, value
_EVENT: Final = struct.Struct("qqHHi")
_KEY_BYTES: Final = 96
# EVIOCGBIT(EV_KEY, 96) = _IOC(_IOC_READ, 'E', 0x20 + EV_KEY, 96)
_EVIOCGBIT_KEY: Final = 2 << 30 | _KEY_BYTES << 16 | ord("E") << 8 | (0x20 + _EV_KEY)


def open_device(path: str) -> int:
    """A descriptor that does not block, ours to close."""
    return os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)


def has_key(device: int, key: int) -> bool:
    keys = fcntl.ioctl(device, _EVIOCGBIT_KEY, bytes(_KEY_BYTES))
    return bool(keys[key // 8] & 1 << key % 8)


def pressed(device: int) -> Iterator[int]:
    """Keys that went down since the last call. OSError(ENODEV): the device is gone."""
    try:
        data = os.read(device, _EVENT.size * 64)
    except BlockingIOError:
        return
    for _, _, kind, code, value in _EVENT.iter_unpack(data):
        if kind == _EV_KEY and value == 1:
            yield code
