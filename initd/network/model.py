"""What the network is made of. Times are seconds of CLOCK_BOOTTIME, which nobody sets."""

from dataclasses import dataclass
from enum import IntEnum
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
)
from typing import Self, TypeAlias

IPAddress: TypeAlias = IPv4Address | IPv6Address
IPInterface: TypeAlias = IPv4Interface | IPv6Interface
IPNetwork: TypeAlias = IPv4Network | IPv6Network


class Origin(IntEnum):
    """Who gave an address or a route: the kernel's RTPROT_ numbers, or IFA_PROTO_RA.

    ``DOCUMENT`` is a number that nobody else has (iproute2's etc/rt_protos), so that what the
    document gave is known for ours, and removed when the document no longer names it.
    """

    ADVERTISED = 2
    STATIC = 4
    DHCP = 16
    DOCUMENT = 97


@dataclass(frozen=True, slots=True)
class Link:
    """A link of ours: a physical Ethernet device, or one that the document has us make."""

    index: int
    name: str
    mac: bytes
    mtu: int
    up: bool
    carrier: bool


@dataclass(frozen=True, slots=True)
class Address:
    link: int
    interface: IPInterface
    origin: Origin
    metric: int
    expires: float | None = None


@dataclass(frozen=True, slots=True)
class Route:
    """Without a gateway the destination is on the link itself."""

    link: int
    destination: IPNetwork
    gateway: IPAddress | None
    origin: Origin
    metric: int
    source: IPv4Address | None = None
    onlink: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """What a DHCP server granted. `renew` and `rebind` are T1 and T2, None where it never ends."""

    address: IPv4Interface
    server: IPv4Address
    obtained: float
    seconds: int | None
    renew: float | None
    rebind: float | None
    routes: tuple[tuple[IPv4Network, IPv4Address | None], ...] = ()
    nameservers: tuple[IPv4Address, ...] = ()
    timeservers: tuple[IPv4Address, ...] = ()
    search: tuple[str, ...] = ()
    mtu: int | None = None
    hostname: str | None = None

    @property
    def expires(self) -> float | None:
        return None if self.seconds is None else self.obtained + self.seconds


@dataclass(frozen=True, slots=True)
class Advertised:
    """A name server or search domain that a router advertised, good until `expires`."""

    value: str
    expires: float | None

    def holds(self, now: float) -> bool:
        return self.expires is None or now < self.expires


@dataclass(frozen=True, slots=True)
class Advertisements:
    """What the routers of one link say about DNS (RFC 8106)."""

    nameservers: tuple[Advertised, ...] = ()
    search: tuple[Advertised, ...] = ()

    def at(self, now: float) -> Self:
        """Those which still hold."""
        return type(self)(
            tuple(entry for entry in self.nameservers if entry.holds(now)),
            tuple(entry for entry in self.search if entry.holds(now)),
        )

    @property
    def expires(self) -> float | None:
        """When the first of them ends."""
        times = (entry.expires for entry in (*self.nameservers, *self.search))
        return min((time for time in times if time is not None), default=None)


@dataclass(frozen=True, slots=True)
class StaticRoute:
    """Without a metric it has that of its link."""

    destination: IPNetwork
    gateway: IPAddress | None = None
    metric: int | None = None
    onlink: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Virtual:
    """A link that is made of others. `options` have the document's names and the kernel's numbers;
    `parent` is what a VLAN lies on, `ports` are those of a bond or bridge."""

    kind: str
    parent: str | None = None
    ports: tuple[str, ...] = ()
    options: tuple[tuple[str, int], ...] = ()
    primary: str | None = None

    @property
    def below(self) -> tuple[str, ...]:
        """The links that it lies on."""
        return self.ports if self.parent is None else (self.parent,)


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkSettings:
    """One `ip=`, or one link of the document.

    Without a device it is for the first link that has none of its own. `mac` is to be set; `match`
    is the hardware address of the card that is to have the name `device`. With `onlink`, gateways
    need not be in a network of the link.
    """

    device: str | None = None
    addresses: tuple[IPInterface, ...] = ()
    gateways: tuple[IPAddress, ...] = ()
    dhcp: bool = True
    advertisements: bool = True
    mtu: int | None = None
    mac: bytes | None = None
    match: bytes | None = None
    routes: tuple[StaticRoute, ...] = ()
    onlink: bool = False
    virtual: Virtual | None = None
    origin: Origin = Origin.STATIC


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the kernel command line asks for, or the document. `default` is for links that neither
    is about."""

    links: tuple[LinkSettings, ...] = ()
    default: LinkSettings = LinkSettings()
    nameservers: tuple[IPAddress, ...] = ()
    timeservers: tuple[str, ...] = ()
    search: tuple[str, ...] = ()
    hostname: str | None = None
