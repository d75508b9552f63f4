"""What the network has come to, for whoever shows it: `status.json`."""

import json
from collections.abc import Iterable
from dataclasses import dataclass

from initd.network.model import Address, Link, Origin, Route
from initd.network.resolver import Resolver

NAME = "status.json"


@dataclass(frozen=True, slots=True)
class LinkStatus:
    """`master` is the bond or bridge whose port it is, which has the addresses then."""

    link: Link
    kind: str
    master: str | None = None
    addresses: tuple[Address, ...] = ()
    routes: tuple[Route, ...] = ()


def encode(links: Iterable[LinkStatus], resolver: Resolver, problems: Iterable[str]) -> bytes:
    value = {
        "links": [_link(one) for one in links],
        "nameservers": resolver.nameservers,
        "search": resolver.search,
        "problems": sorted(problems),
    }
    return json.dumps(value, indent=1).encode() + b"\n"


def _link(one: LinkStatus) -> dict[str, object]:
    return {
        "name": one.link.name,
        "kind": one.kind,
        "master": one.master,
        "mac": one.link.mac.hex(":"),
        "up": one.link.up,
        "carrier": one.link.carrier,
        "mtu": one.link.mtu,
        "addresses": [
            {"address": str(address.interface), "origin": _said(address.origin)}
            for address in one.addresses
        ],
        "default_routes": [
            {
                "gateway": None if route.gateway is None else str(route.gateway),
                "metric": route.metric,
                "origin": _said(route.origin),
            }
            for route in one.routes
            if not route.destination.prefixlen
        ],
    }


def _said(origin: Origin) -> str:
    """Without lifetimes: the file is to change when the network does."""
    return {
        Origin.STATIC: "cmdline",
        Origin.DOCUMENT: "config",
        Origin.DHCP: "dhcp",
        Origin.ADVERTISED: "router",
    }[origin]
