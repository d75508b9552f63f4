"""Starts the machine again when a version that nobody has found healthy yet hangs.

`initd.health` would do so, but what hangs may be PID 1, before or after it loops. So the initramfs
leaves a process behind that sleeps, and that PID 1 ends once it has decided about this boot. It
looks after nothing on a boot of a version that was found healthy the last time.
"""

import os
import signal
import time
from contextlib import suppress
from typing import Final

# More seconds than those in which a new version is to be found healthy.
MORE: Final = 30
_VARIABLE: Final = "AURAE_GUARD"
_HEALTH: Final = "aurae.health="
_DEFAULT: Final = 120
_SYSRQ: Final = "/proc/sysrq-trigger"
# Descriptors that the process has of its parent are below this.
_DESCRIPTORS: Final = 256


def seconds(cmdline: str) -> int:
    """How long it sleeps, by the kernel's command line."""
    given = [word.removeprefix(_HEALTH) for word in cmdline.split() if word.startswith(_HEALTH)]
    known = given and given[-1].isascii() and given[-1].isdigit()
    return (int(given[-1]) if known else _DEFAULT) + MORE


def start(sysrq: str = _SYSRQ) -> None:
    """In the initramfs. OSError."""
    with open("/proc/cmdline", encoding="utf-8", errors="replace") as file:
        limit = seconds(file.read())
    pid = os.fork()  # noqa: TID251
    if pid == 0:
        _sleep(limit, sysrq)
    os.environ[_VARIABLE] = str(pid)


def end() -> None:
    """In PID 1: this boot is decided about. Once more does no harm."""
    pid = os.environ.pop(_VARIABLE, "")
    if pid.isdigit():
        with suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)


def _sleep(limit: int, sysrq: str) -> None:
    """In the copy: never returns."""
    try:
        trigger = os.open(sysrq, os.O_WRONLY)
        os.dup2(trigger, 3)
        os.closerange(4, _DESCRIPTORS)
        time.sleep(limit)
        os.write(3, b"b")
    finally:
        os._exit(1)
