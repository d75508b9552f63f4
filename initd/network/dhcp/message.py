"""DHCP messages, bytes to values and back (RFC 2131 section 2, RFC 2132, 3396, 3442)."""

import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import Final

from initd.network.domains import decode_domains, is_domain, is_hostname
from initd.network.model import Lease

HEADER: Final = struct.Struct("!BBBBIHH4s4s4s4s16s64s128s4s")
COOKIE: Final = b"\x63\x82\x53\x63"
BOOTREQUEST: Final = 1
BOOTREPLY: Final = 2
ETHERNET: Final = 1
UNSPECIFIED: Final = IPv4Address(0)
FOREVER: Final = 0xFFFFFFFF
# From here on nothing is an address of one host (RFC 1112, section 4).
LAST: Final = IPv4Address("240.0.0.0")
EVERYWHERE: Final = IPv4Network("0.0.0.0/0")
# Below this, a server's MTU is a mistake: RFC 791 demands that every host takes 576 bytes.
MTU_MIN: Final = 576
# Old relays drop what is shorter than a BOOTP message (RFC 1542, section 2.1).
SHORTEST: Final = 300


class Kind(IntEnum):
    DISCOVER = 1
    OFFER = 2
    REQUEST = 3
    DECLINE = 4
    ACK = 5
    NAK = 6
    RELEASE = 7
    INFORM = 8


class Option(IntEnum):
    PAD = 0
    MASK = 1
    ROUTER = 3
    DNS = 6
    HOSTNAME = 12
    DOMAIN = 15
    MTU = 26
    NTP = 42
    ADDRESS = 50
    SECONDS = 51
    OVERLOAD = 52
    KIND = 53
    SERVER = 54
    WANTED = 55
    TEXT = 56
    SIZE = 57
    RENEW = 58
    REBIND = 59
    CLIENT = 61
    SEARCH = 119
    ROUTES = 121
    END = 255


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """`client` is ciaddr, the address the client has; `yours` is yiaddr, the one it gets."""

    kind: Kind
    xid: int
    mac: bytes
    seconds: int = 0
    reply: bool = False
    client: IPv4Address = UNSPECIFIED
    yours: IPv4Address = UNSPECIFIED
    options: Mapping[int, bytes] = field(default_factory=dict)


def encode(message: Message) -> bytes:
    operation = BOOTREPLY if message.reply else BOOTREQUEST
    none = UNSPECIFIED.packed
    header = HEADER.pack(
        *(operation, ETHERNET, len(message.mac), 0),
        *(message.xid, min(message.seconds, 0xFFFF), 0),
        *(message.client.packed, message.yours.packed, none, none),
        *(message.mac, b"", b"", COOKIE),
    )
    options = bytearray((Option.KIND, 1, message.kind))
    for code, value in message.options.items():
        # RFC 3396: what is longer than one option holds goes on in the next of the same code.
        for start in range(0, max(len(value), 1), 255):
            part = value[start : start + 255]
            options += bytes((code, len(part))) + part
    options.append(Option.END)
    return (header + options).ljust(SHORTEST, b"\0")


def decode(data: bytes) -> Message:
    """Raises ValueError where this is no DHCP message for Ethernet."""
    if len(data) < HEADER.size:
        raise ValueError(f"{len(data)} bytes are too few")
    fields = HEADER.unpack_from(data)
    operation, hardware, length, _, xid, seconds, _, client, yours, _, _, mac = fields[:12]
    server_name, file, cookie = fields[12:]
    if (hardware, length) != (ETHERNET, 6) or operation not in (BOOTREQUEST, BOOTREPLY):
        raise ValueError("not for Ethernet")
    if cookie != COOKIE:
        raise ValueError("BOOTP, not DHCP")
    options = _options(data[HEADER.size :], {})
    overload = options.get(Option.OVERLOAD, b"\0")
    if overload in (b"\1", b"\3"):
        options = _options(file, options)
    if overload in (b"\2", b"\3"):
        options = _options(server_name, options)
    kind = options.pop(Option.KIND, b"")
    if len(kind) != 1 or kind[0] not in Kind.__members__.values():
        raise ValueError(f"message type {kind.hex() or 'missing'}")
    return Message(
        kind=Kind(kind[0]),
        xid=xid,
        mac=mac[:6],
        seconds=seconds,
        reply=operation == BOOTREPLY,
        client=IPv4Address(client),
        yours=IPv4Address(yours),
        options=options,
    )


def _options(data: bytes, found: Mapping[int, bytes]) -> dict[int, bytes]:
    options = dict(found)
    offset = 0
    while offset < len(data) and data[offset] != Option.END:
        code = data[offset]
        offset += 1
        if code == Option.PAD:
            continue
        if offset >= len(data) or offset + 1 + data[offset] > len(data):
            raise ValueError(f"option {code}: cut off")
        length = data[offset]
        options[code] = options.get(code, b"") + data[offset + 1 : offset + 1 + length]
        offset += 1 + length
    return options


def server_of(message: Message) -> IPv4Address:
    """Raises ValueError where the server does not name itself."""
    return _one_address(message, Option.SERVER)


def lease_of(message: Message, requested: float) -> Lease:
    """The lease that an OFFER or ACK grants, counted from when it was requested (section 4.4.1).

    Only what makes the lease useless raises ValueError; other options are dropped where wrong.
    """
    address = message.yours
    if address.is_unspecified or address.is_multicast or address.is_loopback or address >= LAST:
        raise ValueError(f"{address} is no address for a host")
    seconds = _number(message, Option.SECONDS)
    if seconds is None:
        raise ValueError("lease time missing")
    # A lease of no time at all would be a busy loop.
    seconds = None if seconds == FOREVER else max(seconds, 2)
    renew, rebind = _times(message, seconds)
    return Lease(
        address=IPv4Interface((address, _prefix_length(message))),
        server=server_of(message),
        obtained=requested,
        seconds=seconds,
        renew=None if renew is None else requested + renew,
        rebind=None if rebind is None else requested + rebind,
        routes=_routes(message),
        nameservers=_addresses(message, Option.DNS),
        timeservers=_addresses(message, Option.NTP),
        search=_search(message),
        mtu=_mtu(message),
        hostname=_text(message, Option.HOSTNAME, is_hostname),
    )


def _times(message: Message, seconds: int | None) -> tuple[float | None, float | None]:
    """T1 and T2; the defaults of section 4.4.5 where the server's make no sense."""
    if seconds is None:
        return None, None
    renew = _number(message, Option.RENEW) or seconds * 0.5
    rebind = _number(message, Option.REBIND) or seconds * 0.875
    if not 0 < renew < rebind < seconds:
        return seconds * 0.5, seconds * 0.875
    return renew, rebind


def _prefix_length(message: Message) -> int:
    mask = message.options.get(Option.MASK)
    if mask is None or len(mask) != 4:
        # The classes are what a server means that says nothing.
        first = message.yours.packed[0]
        return 8 if first < 128 else 16 if first < 192 else 24
    return IPv4Network((UNSPECIFIED, str(IPv4Address(mask)))).prefixlen


def _routes(message: Message) -> tuple[tuple[IPv4Network, IPv4Address | None], ...]:
    """Where classless routes are given, the router option counts for nothing (RFC 3442)."""
    try:
        routes = tuple(_classless(message.options.get(Option.ROUTES, b"")))
    except ValueError:
        routes = ()
    if routes:
        return routes
    routers = _addresses(message, Option.ROUTER)
    return tuple((EVERYWHERE, router) for router in routers[:1] if not router.is_unspecified)


def _classless(data: bytes) -> Iterator[tuple[IPv4Network, IPv4Address | None]]:
    offset = 0
    while offset < len(data):
        length = data[offset]
        octets = (length + 7) // 8
        route = data[offset + 1 : offset + 5 + octets]
        if length > 32 or len(route) < octets + 4:
            raise ValueError("classless route: cut off")
        network = IPv4Network((route[:octets].ljust(4, b"\0"), length), strict=False)
        gateway = IPv4Address(route[octets:])
        yield network, None if gateway.is_unspecified else gateway
        offset += 5 + octets


def _search(message: Message) -> tuple[str, ...]:
    try:
        names = decode_domains(message.options.get(Option.SEARCH, b""))
    except ValueError:
        names = ()
    if names:
        return names
    domain = _text(message, Option.DOMAIN, is_domain)
    return () if domain is None else (domain,)


def _mtu(message: Message) -> int | None:
    value = message.options.get(Option.MTU, b"")
    mtu = int.from_bytes(value, "big") if len(value) == 2 else 0
    return mtu if mtu >= MTU_MIN else None


def _text(message: Message, option: Option, valid: Callable[[str], bool]) -> str | None:
    text = message.options.get(option, b"").rstrip(b"\0").decode("ascii", "replace")
    return text if valid(text) else None


def _number(message: Message, option: Option) -> int | None:
    value = message.options.get(option, b"")
    return int.from_bytes(value, "big") if len(value) == 4 else None


def _addresses(message: Message, option: Option) -> tuple[IPv4Address, ...]:
    value = message.options.get(option, b"")
    return tuple(IPv4Address(value[i : i + 4]) for i in range(0, len(value) - len(value) % 4, 4))


def _one_address(message: Message, option: Option) -> IPv4Address:
    value = message.options.get(option, b"")
    if len(value) != 4:
        raise ValueError(f"option {int(option)}: {len(value)} bytes, not 4")
    return IPv4Address(value)
