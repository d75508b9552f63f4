"""What the kernel should have, and the changes that make it so. Nothing here does anything."""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from typing import Final, TypeAlias

from initd.network.model import (
    Address,
    IPAddress,
    IPNetwork,
    Lease,
    Link,
    LinkSettings,
    Origin,
    Route,
)

# A link's own index is added, so that two links never have the same metric and the first is
# preferred. Static routes go before those by DHCP.
STATIC_METRIC: Final = 512
DHCP_METRIC: Final = 1024
# The kernel counts in whole seconds from when it was told.
LIFETIME_TOLERANCE: Final = 10.0
EVERYWHERE_4: Final = IPv4Network("0.0.0.0/0")
EVERYWHERE_6: Final = IPv6Network("::/0")


@dataclass(frozen=True, slots=True)
class SetLink:
    """None leaves as is. A MAC is set while the link is down: many drivers demand it."""

    link: int
    up: bool | None = None
    mtu: int | None = None
    mac: bytes | None = None


@dataclass(frozen=True, slots=True)
class AddAddress:
    """Or give the one that is there new lifetimes."""

    address: Address


@dataclass(frozen=True, slots=True)
class RemoveAddress:
    address: Address


@dataclass(frozen=True, slots=True)
class AddRoute:
    """In place of one to the same destination with the same metric."""

    route: Route


@dataclass(frozen=True, slots=True)
class RemoveRoute:
    route: Route


@dataclass(frozen=True, slots=True)
class CreateLink:
    """`parent` is the index of what a VLAN lies on."""

    name: str
    kind: str
    options: tuple[tuple[str, int], ...]
    parent: int | None = None
    mac: bytes | None = None


@dataclass(frozen=True, slots=True)
class RemoveLink:
    link: int


@dataclass(frozen=True, slots=True)
class RenameLink:
    link: int
    name: str


@dataclass(frozen=True, slots=True)
class SetMaster:
    """Make it a port of `master`, for which it is set down: a bond takes no other, and addresses
    of IPv6 and all routes go with that. 0 lets it go."""

    link: int
    master: int


@dataclass(frozen=True, slots=True)
class SetOptions:
    link: int
    kind: str
    options: tuple[tuple[str, int], ...]


Change: TypeAlias = (
    SetLink
    | AddAddress
    | RemoveAddress
    | AddRoute
    | RemoveRoute
    | CreateLink
    | RemoveLink
    | RenameLink
    | SetMaster
    | SetOptions
)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What one link is to have."""

    addresses: tuple[Address, ...]
    routes: tuple[Route, ...]
    mtu: int | None
    mac: bytes | None
    advertisements: bool = True


def wanted(
    link: Link, settings: LinkSettings, lease: Lease | None, usual_mtu: int | None = None
) -> Wanted:
    """`usual_mtu` is what the link has when nobody asks for another; None leaves it as it is."""
    addresses = list(_static_addresses(link, settings))
    routes = list(_static_routes(link, settings))
    if lease is not None:
        metric = DHCP_METRIC + link.index
        addresses.append(Address(link.index, lease.address, Origin.DHCP, metric, lease.expires))
        routes += _lease_routes(link, lease, metric)
    mtu = settings.mtu or (lease.mtu if lease else None) or usual_mtu
    return Wanted(tuple(addresses), tuple(routes), mtu, settings.mac, settings.advertisements)


def _static_addresses(link: Link, settings: LinkSettings) -> Iterator[Address]:
    for interface in dict.fromkeys(settings.addresses):
        yield Address(link.index, interface, settings.origin, STATIC_METRIC + link.index)


def _static_routes(link: Link, settings: LinkSettings) -> Iterator[Route]:
    """Those on the link first, as of a lease."""
    metric = STATIC_METRIC + link.index
    networks = [interface.network for interface in settings.addresses]
    for route in sorted(settings.routes, key=lambda route: route.gateway is not None):
        yield Route(
            link.index,
            route.destination,
            route.gateway,
            settings.origin,
            metric if route.metric is None else route.metric,
            onlink=route.onlink,
        )
    for gateway in settings.gateways:
        everywhere = EVERYWHERE_4 if gateway.version == 4 else EVERYWHERE_6
        # On the command line there is no word for it: what cannot be reached otherwise is.
        guessed = settings.origin is Origin.STATIC and not _reachable(gateway, networks)
        onlink = settings.onlink or guessed
        yield Route(link.index, everywhere, gateway, settings.origin, metric, onlink=onlink)


def _lease_routes(link: Link, lease: Lease, metric: int) -> Iterator[Route]:
    """Those on the link first: the kernel takes a gateway only where a route leads to it."""
    source = lease.address.ip
    direct = [lease.address.network]
    direct += (destination for destination, gateway in lease.routes if gateway is None)
    for destination, gateway in sorted(lease.routes, key=lambda route: route[1] is not None):
        # The kernel makes this one together with the address.
        if gateway is None and destination == lease.address.network:
            continue
        onlink = gateway is not None and not _reachable(gateway, direct)
        yield Route(link.index, destination, gateway, Origin.DHCP, metric, source, onlink)


def _reachable(gateway: IPAddress, networks: Iterable[IPNetwork]) -> bool:
    return gateway.is_link_local or any(gateway in network for network in networks)


def changes(
    link: Link,
    want: Wanted,
    addresses: Collection[Address],
    routes: Collection[Route],
) -> tuple[Change, ...]:
    """In an order that leaves no gap: the new before the old goes.

    `addresses` and `routes` are those that the kernel has on this link, of any origin. Only those
    by DHCP and of the document are removed, and those that routers advertise where they are not
    wanted: the command line does not change, and others are not ours.
    """
    goes = {Origin.DHCP, Origin.DOCUMENT}
    if not want.advertisements:
        goes.add(Origin.ADVERTISED)
    keep = {address.interface for address in want.addresses}
    unwanted = [a for a in addresses if a.origin in goes and a.interface not in keep]
    # With another prefix length it is the same address to IPv6, and cannot be there twice.
    same_ip = {interface.ip for interface in keep if interface.version == 6}
    early = [address for address in unwanted if address.interface.ip in same_ip]
    found: list[Change] = list(_link_changes(link, want))
    found += map(RemoveAddress, early)
    have = {address.interface: address for address in addresses}
    found += (AddAddress(a) for a in want.addresses if not _same(have.get(a.interface), a))
    wanted_routes = set(want.routes)
    for route in routes:
        if route.origin in goes and route not in wanted_routes:
            replaced = any(_in_place_of(route, other) for other in want.routes)
            found += () if replaced else (RemoveRoute(route),)
    found += (AddRoute(route) for route in want.routes if route not in routes)
    found += (RemoveAddress(address) for address in unwanted if address not in early)
    return tuple(found)


def _link_changes(link: Link, want: Wanted) -> Iterator[Change]:
    if want.mac and want.mac != link.mac:
        yield SetLink(link.index, up=False, mac=want.mac)
        yield SetLink(link.index, up=True, mtu=want.mtu)
        return
    mtu = want.mtu if want.mtu != link.mtu else None
    if mtu or not link.up:
        yield SetLink(link.index, up=None if link.up else True, mtu=mtu)


def _same(have: Address | None, want: Address) -> bool:
    if have is None or (have.origin, have.metric) != (want.origin, want.metric):
        return False
    if have.expires is None or want.expires is None:
        return have.expires == want.expires
    return abs(have.expires - want.expires) <= LIFETIME_TOLERANCE


def _in_place_of(old: Route, new: Route) -> bool:
    return (old.destination, old.metric) == (new.destination, new.metric)
