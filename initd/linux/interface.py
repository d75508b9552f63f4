"""Network interfaces, as far as PID 1 needs them: the loopback."""

import fcntl
import socket
import struct
from typing import Final

# struct ifreq: name and flags; include/uapi/linux/{sockios,if}.h
_IFREQ: Final = struct.Struct("16sh22x")
_SIOCGIFFLAGS: Final = 0x8913
_SIOCSIFFLAGS: Final = 0x8914
_IFF_UP: Final = 0x1


def up(name: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = _IFREQ.pack(name.encode(), 0)
        _, flags = _IFREQ.unpack(fcntl.ioctl(control, _SIOCGIFFLAGS, request))
        fcntl.ioctl(control, _SIOCSIFFLAGS, _IFREQ.pack(name.encode(), flags | _IFF_UP))
