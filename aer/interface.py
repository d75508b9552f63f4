"""This host's network cards, as far as netboot must know them."""

import fcntl
import socket
import struct
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path
from typing import Final

from aer.errors import AerError

# netdevice(7)
_SIOCGIFADDR: Final = 0x8915
_SIOCGIFNETMASK: Final = 0x891B
_REQUEST: Final = struct.Struct("16s24s")
_ROUTES: Final = Path("/proc/net/route")


def by_default() -> str:
    """The card that the default route leads out of. Raises AerError."""
    lines = _ROUTES.read_text().splitlines()[1:]
    found = [fields for line in lines if (fields := line.split())[1] == "00000000"]
    if not found:
        raise AerError("no card has a default route here", "name the card by --interface")
    return min(found, key=lambda fields: int(fields[6]))[0]


def address(name: str) -> IPv4Interface:
    """Its first IPv4 address. Raises AerError."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            ours = _ask(sock, name, _SIOCGIFADDR)
            mask = _ask(sock, name, _SIOCGIFNETMASK)
        except OSError as e:
            raise AerError(
                f"{name}: has no IPv4 address: {e.strerror}", f"ip addr add ADDRESS/24 dev {name}"
            ) from e
    return IPv4Interface(f"{ours}/{mask}")


def _ask(sock: socket.socket, name: str, request: int) -> IPv4Address:
    answer = fcntl.ioctl(sock, request, _REQUEST.pack(name.encode()[:15], b""))
    # struct ifreq: the name, then a struct sockaddr_in: family, port, address.
    return IPv4Address(answer[20:24])
