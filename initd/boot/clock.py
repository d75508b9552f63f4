"""The time of day, from the battery-backed clock where the kernel has not read it."""

import time
from pathlib import Path
from typing import Final

from initd.linux import clock

# A file of the image: it is never later than its image.
_BUILT: Final = Path("/usr/lib/os-release")
_RTC: Final = Path("/dev/rtc0")


def set_clock() -> str:
    """Raises OSError. Returns what was done."""
    floor = _BUILT.stat().st_mtime if _BUILT.exists() else 0.0
    if time.time() > floor and Path("/sys/class/rtc/rtc0/hctosys").exists():
        return "set by the kernel"
    if _RTC.exists():
        # Seldom needed, and larger than all the rest here.
        from datetime import UTC, datetime

        seconds = datetime(*clock.read_rtc(str(_RTC)), tzinfo=UTC).timestamp()
        if seconds > max(floor, time.time()):
            clock.set_system(seconds)
            return "set from rtc0"
    if time.time() < floor:
        # Certificates of this node were made after its image.
        clock.set_system(floor)
        return "no clock that runs: set to the image's date"
    return "as it was"
