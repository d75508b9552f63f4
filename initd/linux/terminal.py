"""Virtual terminals: console_ioctl(4) and ioctl_tty(2)."""

import fcntl
import struct
import termios
from typing import Final

_TIOCLINUX: Final = 0x541C
_SET_KERNEL_MESSAGES: Final = 11
_SIZE: Final = struct.Struct("HHHH")


def size(terminal: int) -> tuple[int, int]:
    """Rows and columns; 0 where it does not know."""
    rows, columns, _, _ = _SIZE.unpack(fcntl.ioctl(terminal, termios.TIOCGWINSZ, bytes(_SIZE.size)))
    return rows, columns


def send_kernel_messages(terminal: int, number: int) -> None:
    """To the virtual terminal `number`, if it was opened once, instead of to the one that is seen.
    `terminal` is any."""
    fcntl.ioctl(terminal, _TIOCLINUX, bytes((_SET_KERNEL_MESSAGES, number)))
