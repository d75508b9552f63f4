"""The system clock and the battery-backed one."""

import fcntl
import os
import struct
import time
from typing import Final

# include/uapi/linux/rtc.h: struct rtc_time is nine ints, RTC_RD_TIME is _IOR("p", 9, of it).
_RTC_TIME: Final = struct.Struct("9i")
_RTC_RD_TIME: Final = 0x80247009


def read_rtc(path: str = "/dev/rtc0") -> tuple[int, int, int, int, int, int]:
    """(year, month, day, hour, minute, second) as the hardware has it, UTC by our convention."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = fcntl.ioctl(fd, _RTC_RD_TIME, bytes(_RTC_TIME.size))
    finally:
        os.close(fd)
    second, minute, hour, day, month, year, *_ = _RTC_TIME.unpack(data)
    return year + 1900, month + 1, day, hour, minute, second


def set_system(seconds: float) -> None:
    """Seconds since the epoch."""
    time.clock_settime(time.CLOCK_REALTIME, seconds)
