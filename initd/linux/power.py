"""How a machine ends: reboot(2)."""

import ctypes
from enum import IntEnum
from typing import Final

from initd.linux.libc import check, libc


class Action(IntEnum):
    """LINUX_REBOOT_CMD_* of include/uapi/linux/reboot.h."""

    RESTART = 0x01234567
    HALT = 0xCDEF0123
    POWER_OFF = 0x4321FEDC
    KEXEC = 0x45584543


_CAD_OFF: Final = 0


def reboot(action: Action) -> None:
    """File systems are not written: os.sync() comes first. Returns only by raising, or on HALT."""
    check(libc.reboot(ctypes.c_uint(action.value)))


def ctrl_alt_del_sends_sigint() -> None:
    """Instead of a restart on the spot, the kernel sends SIGINT to PID 1."""
    check(libc.reboot(ctypes.c_uint(_CAD_OFF)))
