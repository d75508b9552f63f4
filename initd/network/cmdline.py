"""The network's part of the kernel command line: `ip=`, `nameserver=`, `aurae.hostname=`.

The syntax is the kernel's (Documentation/admin-guide/nfs/nfsroot.rst) with what dracut adds to it:
`ip=DEVICE:WORD[:MTU[:MAC]]`, IPv6 in brackets, and a prefix length for the netmask.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Network, ip_address, ip_interface
from typing import Final

from initd.errors import InvalidArgument
from initd.network.domains import is_hostname
from initd.network.model import IPAddress, IPInterface, LinkSettings, Settings

PARAMETER: Final = re.compile(r'(?:"[^"]*"|\S)+')
FIELD: Final = re.compile(r"(\[[^\]]*\]|[^:\[\]]*)(?::|$)")
MAC: Final = re.compile(r"[0-9a-fA-F]{2}(?::[0-9a-fA-F]{2}){5}")
DEVICE: Final = re.compile(r"[^\s/:]{1,15}")
MTU: Final = range(68, 65536)

# What each word switches on: DHCPv4, router advertisements.
WORDS: Final = {
    "dhcp": (True, True),
    "on": (True, True),
    "any": (True, True),
    "auto6": (False, True),
    "off": (False, False),
    "none": (False, False),
}


@dataclass(frozen=True, slots=True)
class Parsed:
    """What could be used, and a line for each parameter that could not."""

    settings: Settings
    problems: tuple[str, ...] = ()


def parse(command_line: str) -> Parsed:
    settings = Settings()
    problems: list[str] = []
    hostname = None
    for parameter in PARAMETER.findall(command_line):
        key, _, value = parameter.replace('"', "").partition("=")
        try:
            match key:
                case "ip":
                    settings = _with_ip(settings, value)
                case "nameserver":
                    server = _address(value, "nameserver")
                    settings = replace(settings, nameservers=(*settings.nameservers, server))
                case "aurae.hostname":
                    hostname = _hostname(value, "name")
        except InvalidArgument as e:
            problems.append(f"{key}={value}: {e}")
    return Parsed(replace(settings, hostname=hostname or settings.hostname), tuple(problems))


def _with_ip(settings: Settings, value: str) -> Settings:
    fields = _fields(value)
    if not any(fields):
        raise InvalidArgument(f"nothing is given: write an address, or one of {', '.join(WORDS)}")
    if len(fields) == 1 and fields[0] in WORDS:
        return replace(settings, default=_switched(settings.default, fields[0]))
    if fields[0] and not _is_address(fields[0]):
        link = _device_form(value)
        return replace(settings, links=(*settings.links, link))
    link, nameservers, hostname = _full_form(fields)
    if not link.device and not link.addresses:
        # Nothing that is for one link: it is how links are set up unless told otherwise.
        settings = replace(settings, default=replace(link, device=None))
    else:
        settings = replace(settings, links=(*settings.links, link))
    return replace(
        settings,
        nameservers=(*settings.nameservers, *nameservers),
        hostname=settings.hostname or hostname,
    )


def _fields(value: str) -> list[str]:
    fields = []
    offset = 0
    while offset <= len(value):
        match = FIELD.match(value, offset)
        if not match:
            raise InvalidArgument("brackets do not match: write IPv6 as [fd00::5]")
        fields.append(match[1])
        if not match[0].endswith(":"):
            break
        offset = match.end()
    return fields


def _device_form(value: str) -> LinkSettings:
    """`DEVICE:WORD[:MTU[:MAC]]`; the MAC has colons of its own."""
    device, _, rest = value.partition(":")
    word, _, rest = rest.partition(":")
    mtu, _, mac = rest.partition(":")
    if not (word or rest):
        raise InvalidArgument(f"neither an address nor one of {', '.join(WORDS)}")
    return _switched(LinkSettings(device=_device(device), mtu=_mtu(mtu), mac=_mac(mac)), word)


def _full_form(
    given: Sequence[str],
) -> tuple[LinkSettings, tuple[IPAddress, ...], str | None]:
    """`CLIENT:SERVER:GATEWAY:NETMASK:HOSTNAME:DEVICE:WORD`, then `DNS0:DNS1:NTP` or `MTU:MAC`."""
    fields = [*given, *("" for _ in range(7 - len(given)))]
    client, _, gateway, netmask, hostname, device, word = fields[:7]
    rest = fields[7:]
    addresses: tuple[IPInterface, ...] = (_interface(client, netmask),) if client else ()
    if netmask and not client:
        raise InvalidArgument("a netmask without an address: give both")
    gateways: tuple[IPAddress, ...] = (_address(gateway, "gateway"),) if gateway else ()
    if gateways and not addresses:
        raise InvalidArgument("a gateway without an address: give both")
    if gateways and gateways[0].version != addresses[0].version:
        raise InvalidArgument("address and gateway are not of one family")
    nameservers: tuple[IPAddress, ...] = ()
    mtu, mac = None, None
    if rest and rest[0].isdecimal():
        mtu, mac = _mtu(rest[0]), _mac(":".join(rest[1:]))
    elif len(rest) > 3:
        raise InvalidArgument("too many fields: after the word come DNS0:DNS1:NTP or MTU:MAC")
    else:
        nameservers = tuple(_address(server, "DNS server") for server in rest[:2] if server)
        # Nothing of ours sets the clock by it, yet a typing error should be seen.
        _ = [_address(server, "NTP server") for server in rest[2:] if server]
    link = LinkSettings(
        device=_device(device) if device else None,
        addresses=addresses,
        gateways=gateways,
        mtu=mtu,
        mac=mac,
    )
    link = _switched(link, word or ("off" if addresses else "on"))
    return link, nameservers, _hostname(hostname, "hostname") if hostname else None


def _switched(link: LinkSettings, word: str) -> LinkSettings:
    if word not in WORDS:
        raise InvalidArgument(f"{word or 'nothing'!r} is not one of {', '.join(WORDS)}")
    dhcp, advertisements = WORDS[word]
    return replace(link, dhcp=dhcp, advertisements=advertisements)


def _is_address(text: str) -> bool:
    try:
        _address(text, "")
    except InvalidArgument:
        # 10.0.2.300 is an address with a fault, not the name of a device.
        return text.startswith("[") or bool(re.fullmatch(r"[0-9.]+", text))
    return True


def _address(text: str, what: str) -> IPAddress:
    try:
        address = ip_address(text.removeprefix("[").removesuffix("]"))
    except ValueError:
        raise InvalidArgument(f"{what} {text!r} is no IP address") from None
    if address.is_multicast or address.is_unspecified:
        raise InvalidArgument(f"{what} {text} is no address of one host")
    return address


def _interface(client: str, netmask: str) -> IPInterface:
    address = _address(client, "address")
    if not netmask:
        raise InvalidArgument("the netmask is missing: give one, or a prefix length")
    try:
        return ip_interface(f"{address}/{_prefix_length(netmask)}")
    except ValueError:
        raise InvalidArgument(f"{netmask!r} is no netmask or prefix length") from None


def _prefix_length(netmask: str) -> int:
    if netmask.isdecimal():
        return int(netmask)
    # ip_network takes host masks (0.0.0.255) too; the kernel does not.
    bits = int(IPv4Address(netmask))
    length = IPv4Network(f"0.0.0.0/{netmask}").prefixlen
    if bits != (0xFFFFFFFF << (32 - length)) & 0xFFFFFFFF:
        raise ValueError(netmask)
    return length


def _device(text: str) -> str:
    if not DEVICE.fullmatch(text) or text in (".", ".."):
        raise InvalidArgument(f"{text!r} is no name of a device: 1 to 15 characters, no '/' or ':'")
    return text


def _hostname(text: str, what: str) -> str:
    if not is_hostname(text):
        raise InvalidArgument(
            f"{what} {text!r} is no host name: labels of a-z A-Z 0-9 -, at most 64 characters"
        )
    return text


def _mtu(text: str) -> int | None:
    if not text:
        return None
    if not text.isdecimal() or int(text) not in MTU:
        raise InvalidArgument(f"MTU {text!r} is not in {MTU.start} to {MTU.stop - 1}")
    return int(text)


def _mac(text: str) -> bytes | None:
    if not text:
        return None
    if not MAC.fullmatch(text):
        raise InvalidArgument(f"{text!r} is no MAC address")
    mac = bytes.fromhex(text.replace(":", ""))
    if mac[0] & 1 or not any(mac):
        raise InvalidArgument(f"{text} is no MAC address of one device")
    return mac


def explicit_settings(
    settings: Settings, names: Sequence[str], candidates: Sequence[str]
) -> dict[str, LinkSettings]:
    """What an `ip=` gives each of these links; `names` in the order of their appearance.

    Settings without a device go to the first of `candidates` that has none by name. Several for one
    add up.
    """
    by_name: dict[str, LinkSettings] = {}
    for link in settings.links:
        if link.device is not None and link.device in names:
            by_name[link.device] = _sum(by_name.get(link.device), link)
    first = next((name for name in candidates if name not in by_name), None)
    for link in settings.links:
        if link.device is None and first is not None:
            by_name[first] = _sum(by_name.get(first), link)
    return by_name


def _sum(one: LinkSettings | None, other: LinkSettings) -> LinkSettings:
    if one is None:
        return other
    return LinkSettings(
        device=one.device,
        addresses=(*one.addresses, *other.addresses),
        gateways=(*one.gateways, *other.gateways),
        dhcp=one.dhcp or other.dhcp,
        advertisements=one.advertisements or other.advertisements,
        mtu=one.mtu or other.mtu,
        mac=one.mac or other.mac,
    )
