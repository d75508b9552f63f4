"""rtnetlink messages, bytes to values and back. pyroute2 knows their layout.

Only its message classes are used. `import pyroute2` would load all of it, 370 modules with sqlite3
and asyncio, 20 MB of memory; see docs/decisions/0021-netlink.md. So the package is entered by the
side door: an empty module of its name and path, below which the submodules are found.
"""

import struct
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from ipaddress import IPv4Address, IPv4Network, IPv6Network, ip_address, ip_interface, ip_network
from socket import AF_INET, AF_INET6, AF_UNSPEC
from types import ModuleType
from typing import Any, Final

from initd.network.model import Address, IPNetwork, Link, Origin, Route


def _enter_pyroute2() -> None:
    if "pyroute2" in sys.modules:
        return
    spec = find_spec("pyroute2")
    if spec is None or spec.submodule_search_locations is None:
        raise ImportError("pyroute2 is not installed: install auraed with its dependencies")
    package = ModuleType("pyroute2")
    package.__path__ = list(spec.submodule_search_locations)
    package.__spec__ = spec
    sys.modules["pyroute2"] = package


_enter_pyroute2()

from pyroute2.netlink.exceptions import NetlinkDecodeError  # noqa: E402
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg  # noqa: E402
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg  # noqa: E402
from pyroute2.netlink.rtnl.rtmsg import rtmsg  # noqa: E402

RTM_NEWLINK: Final = 16
RTM_DELLINK: Final = 17
RTM_GETLINK: Final = 18
RTM_NEWADDR: Final = 20
RTM_DELADDR: Final = 21
RTM_GETADDR: Final = 22
RTM_NEWROUTE: Final = 24
RTM_DELROUTE: Final = 25
RTM_GETROUTE: Final = 26
RTM_NEWNDUSEROPT: Final = 68
REQUEST: Final = 0x1
ACK: Final = 0x4
REPLACE: Final = 0x100
EXCL: Final = 0x200
DUMP: Final = 0x300
CREATE: Final = 0x400
HEADER: Final = 16
IFF_UP: Final = 0x1
ARPHRD_ETHER: Final = 1
RT_TABLE_MAIN: Final = 254
RTN_UNICAST: Final = 1
RT_SCOPE_UNIVERSE: Final = 0
RT_SCOPE_LINK: Final = 253
RTNH_F_ONLINK: Final = 4
IFA_F_TENTATIVE: Final = 0x40
FOREVER: Final = 0xFFFFFFFF
# The group of the links that we make ("aura"). The kernel sets it together with making the link,
# which it would not do with an alias.
OURS: Final = 0x61757261
# RTPROT_RA; as an address has it, it is Origin.ADVERTISED.
RTPROT_RA: Final = 9

# Of each kind of link that we make, its options as the document and the kernel call them.
OPTIONS: Final = {
    "vlan": {"id": "IFLA_VLAN_ID"},
    "bond": {
        # The mode first: which of the others there are depends on it.
        "mode": "IFLA_BOND_MODE",
        "miimon": "IFLA_BOND_MIIMON",
        "lacp-rate": "IFLA_BOND_AD_LACP_RATE",
        "hash-policy": "IFLA_BOND_XMIT_HASH_POLICY",
        "primary": "IFLA_BOND_PRIMARY",
    },
    "bridge": {"stp": "IFLA_BR_STP_STATE"},
}


@dataclass(frozen=True, slots=True)
class AnyLink:
    """A link of any kind. `master` is the bridge or bond whose port it is, else 0; `parent` what a
    VLAN lies on, else 0; `permanent` is the hardware's address, empty where there is none."""

    link: Link
    kind: str | None
    ethernet: bool
    master: int
    parent: int = 0
    group: int = 0
    permanent: bytes = b""
    options: tuple[tuple[str, int], ...] = ()
    physical: bool = False

    @property
    def hardware(self) -> bytes:
        """A card's own address: as a port of a bond it has another for as long."""
        return self.permanent or self.link.mac

    @property
    def ours(self) -> bool:
        """Whether we made it."""
        return self.group == OURS and self.kind in OPTIONS


def decode_link(data: bytes) -> AnyLink:
    """Of RTM_NEWLINK and RTM_DELLINK, with their netlink header."""
    message = _decoded(ifinfmsg, data)
    up = bool(message["flags"] & IFF_UP)
    info = message.get_attr("IFLA_LINKINFO")
    return AnyLink(
        link=Link(
            index=message["index"],
            name=message.get_attr("IFLA_IFNAME") or "",
            mac=bytes.fromhex((message.get_attr("IFLA_ADDRESS") or "").replace(":", "")),
            mtu=message.get_attr("IFLA_MTU") or 0,
            up=up,
            # Of a link that is down, drivers say what they like.
            carrier=up and bool(message.get_attr("IFLA_CARRIER")),
        ),
        kind=info.get_attr("IFLA_INFO_KIND") if info is not None else None,
        ethernet=message["ifi_type"] == ARPHRD_ETHER,
        master=message.get_attr("IFLA_MASTER") or 0,
        parent=message.get_attr("IFLA_LINK") or 0,
        group=message.get_attr("IFLA_GROUP") or 0,
        permanent=_bytes(message.get_attr("IFLA_PERM_ADDRESS")),
        options=_options(info) if info is not None else (),
    )


def _bytes(text: str | None) -> bytes:
    return bytes.fromhex((text or "").replace(":", ""))


def _options(info: Any) -> tuple[tuple[str, int], ...]:
    data = info.get_attr("IFLA_INFO_DATA")
    names = OPTIONS.get(info.get_attr("IFLA_INFO_KIND"))
    if data is None or names is None:
        return ()
    values = ((name, data.get_attr(attribute)) for name, attribute in names.items())
    return tuple((name, int(value)) for name, value in values if value is not None)


def decode_address(data: bytes, now: float) -> Address | None:
    """None for what the kernel makes by itself, or others gave, or is not yet usable."""
    message = _decoded(ifaddrmsg, data)
    try:
        origin = Origin(message.get_attr("IFA_PROTO") or 0)
    except ValueError:
        return None
    # An IPv6 address is tentative until nobody else is found to have it.
    if origin is Origin.ADVERTISED and message["flags"] & IFA_F_TENTATIVE:
        return None
    text = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
    cache = message.get_attr("IFA_CACHEINFO")
    valid = FOREVER if cache is None else cache["ifa_valid"]
    return Address(
        link=message["index"],
        interface=ip_interface(f"{text}/{message['prefixlen']}"),
        origin=origin,
        metric=message.get_attr("IFA_RT_PRIORITY") or 0,
        expires=None if valid == FOREVER else now + valid,
    )


def decode_route(data: bytes) -> Route | None:
    """None for routes of others, and in other tables than main."""
    message = _decoded(rtmsg, data)
    link = message.get_attr("RTA_OIF")
    origin = ORIGINS.get(message["proto"])
    if (
        origin is None
        or message["table"] != RT_TABLE_MAIN
        or message["type"] != RTN_UNICAST
        or link is None
    ):
        return None
    everywhere = "0.0.0.0" if message["family"] == AF_INET else "::"
    destination = message.get_attr("RTA_DST") or everywhere
    gateway, source = message.get_attr("RTA_GATEWAY"), message.get_attr("RTA_PREFSRC")
    return Route(
        link=link,
        destination=_network(f"{destination}/{message['dst_len']}"),
        gateway=None if gateway is None else ip_address(gateway),
        origin=origin,
        metric=message.get_attr("RTA_PRIORITY") or 0,
        source=None if source is None or ":" in source else IPv4Address(source),
        onlink=bool(message["flags"] & RTNH_F_ONLINK),
    )


# Whose routes are looked at, by the kernel's number.
ORIGINS: Final = {
    int(Origin.STATIC): Origin.STATIC,
    int(Origin.DHCP): Origin.DHCP,
    int(Origin.DOCUMENT): Origin.DOCUMENT,
    RTPROT_RA: Origin.ADVERTISED,
}
_PROTOCOLS: Final = {origin: number for number, origin in ORIGINS.items()}


def dump_links() -> bytes:
    return _encoded(ifinfmsg, RTM_GETLINK, DUMP, {})


def dump_addresses(link: int) -> bytes:
    return _encoded(ifaddrmsg, RTM_GETADDR, DUMP, {"family": AF_UNSPEC, "index": link})


def dump_routes(origin: Origin, version: int) -> bytes:
    fields = {"family": _family(version), "proto": _PROTOCOLS[origin], "table": RT_TABLE_MAIN}
    return _encoded(rtmsg, RTM_GETROUTE, DUMP, fields)


def set_link(link: int, *, up: bool | None, mtu: int | None, mac: bytes | None) -> bytes:
    fields = {"index": link}
    if up is not None:
        fields |= {"flags": IFF_UP if up else 0, "change": IFF_UP}
    attributes: list[tuple[str, object]] = []
    if mac is not None:
        attributes.append(("IFLA_ADDRESS", mac.hex(":")))
    if mtu is not None:
        attributes.append(("IFLA_MTU", mtu))
    return _encoded(ifinfmsg, RTM_NEWLINK, ACK, fields, attributes)


def create_link(
    name: str,
    kind: str,
    options: Iterable[tuple[str, int]],
    *,
    parent: int | None,
    mac: bytes | None,
) -> bytes:
    """Marked as ours. The kernel loads the module of that kind if need be."""
    attributes: list[tuple[str, object]] = [("IFLA_IFNAME", name), ("IFLA_GROUP", OURS)]
    if parent is not None:
        attributes.append(("IFLA_LINK", parent))
    if mac is not None:
        attributes.append(("IFLA_ADDRESS", mac.hex(":")))
    attributes.append(_link_info(kind, options))
    return _encoded(ifinfmsg, RTM_NEWLINK, ACK | CREATE | EXCL, {}, attributes)


def remove_link(link: int) -> bytes:
    return _encoded(ifinfmsg, RTM_DELLINK, ACK, {"index": link})


def rename_link(link: int, name: str) -> bytes:
    return _encoded(ifinfmsg, RTM_NEWLINK, ACK, {"index": link}, [("IFLA_IFNAME", name)])


def set_master(link: int, master: int) -> bytes:
    return _encoded(ifinfmsg, RTM_NEWLINK, ACK, {"index": link}, [("IFLA_MASTER", master)])


def set_options(link: int, kind: str, options: Iterable[tuple[str, int]]) -> bytes:
    return _encoded(ifinfmsg, RTM_NEWLINK, ACK, {"index": link}, [_link_info(kind, options)])


def _link_info(kind: str, options: Iterable[tuple[str, int]]) -> tuple[str, object]:
    names = OPTIONS[kind]
    data = {"attrs": [(names[name], value) for name, value in options]}
    return ("IFLA_LINKINFO", {"attrs": [("IFLA_INFO_KIND", kind), ("IFLA_INFO_DATA", data)]})


def add_address(address: Address, now: float) -> bytes:
    """It also changes the lifetimes of one that is there."""
    seconds = FOREVER if address.expires is None else max(1, round(address.expires - now))
    attributes = [
        *_address_attributes(address),
        ("IFA_CACHEINFO", {"ifa_preferred": seconds, "ifa_valid": seconds}),
        ("IFA_RT_PRIORITY", address.metric),
        ("IFA_PROTO", int(address.origin)),
    ]
    interface = address.interface
    if interface.version == 4 and interface.network.prefixlen < 31:
        attributes.append(("IFA_BROADCAST", str(interface.network.broadcast_address)))
    fields = _address_fields(address)
    return _encoded(ifaddrmsg, RTM_NEWADDR, ACK | CREATE | REPLACE, fields, attributes)


def remove_address(address: Address) -> bytes:
    fields, attributes = _address_fields(address), _address_attributes(address)
    return _encoded(ifaddrmsg, RTM_DELADDR, ACK, fields, attributes)


def add_route(route: Route) -> bytes:
    return _route(RTM_NEWROUTE, ACK | CREATE | REPLACE, route)


def remove_route(route: Route) -> bytes:
    return _route(RTM_DELROUTE, ACK, route)


def _route(kind: int, flags: int, route: Route) -> bytes:
    direct_v4 = route.gateway is None and route.destination.version == 4
    fields = {
        "family": _family(route.destination.version),
        "dst_len": route.destination.prefixlen,
        "table": RT_TABLE_MAIN,
        "proto": _PROTOCOLS[route.origin],
        "scope": RT_SCOPE_LINK if direct_v4 else RT_SCOPE_UNIVERSE,
        "type": RTN_UNICAST,
        "flags": RTNH_F_ONLINK if route.onlink else 0,
    }
    attributes: list[tuple[str, object]] = [
        ("RTA_OIF", route.link),
        ("RTA_PRIORITY", route.metric),
    ]
    if route.destination.prefixlen:
        attributes.append(("RTA_DST", str(route.destination.network_address)))
    if route.gateway is not None:
        attributes.append(("RTA_GATEWAY", str(route.gateway)))
    if route.source is not None:
        attributes.append(("RTA_PREFSRC", str(route.source)))
    return _encoded(rtmsg, kind, flags, fields, attributes)


def _address_fields(address: Address) -> dict[str, int]:
    interface = address.interface
    return {
        "family": _family(interface.version),
        "prefixlen": interface.network.prefixlen,
        "index": address.link,
    }


def _address_attributes(address: Address) -> list[tuple[str, object]]:
    text = str(address.interface.ip)
    return [("IFA_LOCAL", text), ("IFA_ADDRESS", text)]


def _family(version: int) -> int:
    return AF_INET if version == 4 else AF_INET6


def _network(text: str) -> IPNetwork:
    network: IPv4Network | IPv6Network = ip_network(text)
    return network


def _decoded(message_class: Any, data: bytes) -> Any:
    """Raises ValueError where the bytes are no such message."""
    message = message_class(data)
    try:
        message.decode()
    except (NetlinkDecodeError, struct.error) as e:
        raise ValueError(f"netlink message of {len(data)} bytes: {e}") from e
    return message


def _encoded(
    message_class: Any,
    kind: int,
    flags: int,
    fields: dict[str, int],
    attributes: Iterable[tuple[str, object]] = (),
) -> bytes:
    """A request; its sequence number is 0, for the socket to set."""
    message = message_class()
    message["header"]["type"] = kind
    message["header"]["flags"] = REQUEST | flags
    for name, value in fields.items():
        message[name] = value
    message["attrs"] = list(attributes)
    message.encode()
    return bytes(message.data)


def split(data: bytes) -> Iterator[bytes]:
    """The messages in what one read gave."""
    offset = 0
    while offset + HEADER <= len(data):
        length = int.from_bytes(data[offset : offset + 4], sys.byteorder)
        if length < HEADER or offset + length > len(data):
            return
        yield data[offset : offset + length]
        offset += (length + 3) & ~3


def kind_of(message: bytes) -> int:
    return int.from_bytes(message[4:6], sys.byteorder)


def link_of_address(message: bytes) -> int:
    """Without decoding all of it."""
    return int.from_bytes(message[HEADER + 4 : HEADER + 8], sys.byteorder)


def origin_of_route(message: bytes) -> int:
    """Without decoding all of it."""
    return message[HEADER + 5]
