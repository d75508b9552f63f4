"""What routers advertise about DNS, as the kernel hands it on (RFC 8106, RTM_NEWNDUSEROPT)."""

import struct
from dataclasses import dataclass
from ipaddress import IPv6Address
from typing import Final

from initd.network.domains import decode_domains
from initd.network.model import Advertised, Advertisements

# struct nduseroptmsg (include/uapi/linux/rtnetlink.h).
HEADER: Final = struct.Struct("=BxHiBBxxxxxx")
ROUTER_ADVERTISEMENT: Final = 134
RDNSS: Final = 25
DNSSL: Final = 31
FOREVER: Final = 0xFFFFFFFF
# A router with many names must not fill resolv.conf.
KEPT: Final = 8


@dataclass(frozen=True, slots=True)
class Advice:
    """One option: for so many seconds these hold; 0 takes them back."""

    link: int
    seconds: int
    nameservers: tuple[str, ...] = ()
    search: tuple[str, ...] = ()


def decode(data: bytes) -> Advice | None:
    """The option in a message behind its netlink header; None where it is about something else.

    Raises ValueError where it is cut off.
    """
    if len(data) < HEADER.size + 8:
        raise ValueError("ND option: cut off")
    _, length, link, icmp, _ = HEADER.unpack_from(data)
    option = data[HEADER.size : HEADER.size + length]
    if icmp != ROUTER_ADVERTISEMENT or len(option) < 8 or option[1] * 8 != len(option):
        return None
    seconds = int.from_bytes(option[4:8], "big")
    body = option[8:]
    if option[0] == RDNSS:
        packed = (body[i : i + 16] for i in range(0, len(body) - 15, 16))
        return Advice(link, seconds, nameservers=tuple(str(IPv6Address(one)) for one in packed))
    if option[0] == DNSSL:
        return Advice(link, seconds, search=decode_domains(body))
    return None


def advised(known: Advertisements, advice: Advice, now: float) -> Advertisements:
    """What is known after this advice; the newest go last, so that the order does not change."""
    expires = None if advice.seconds == FOREVER else now + advice.seconds
    known = known.at(now)
    return Advertisements(
        _merged(known.nameservers, advice.nameservers, expires, now),
        _merged(known.search, advice.search, expires, now),
    )


def _merged(
    known: tuple[Advertised, ...], values: tuple[str, ...], expires: float | None, now: float
) -> tuple[Advertised, ...]:
    entries = {entry.value: entry for entry in known}
    for value in values:
        entries[value] = Advertised(value, expires)
    return tuple(entry for entry in entries.values() if entry.holds(now))[:KEPT]
