"""resolv.conf: which name servers and search domains, from all that is known."""

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final

from initd.network.model import Advertisements, IPAddress, Lease

# MAXNS of the C libraries: they read no more.
NAMESERVERS: Final = 3
# As much as older C libraries take.
SEARCH: Final = 6


@dataclass(frozen=True, slots=True)
class Source:
    """What one link has to say."""

    name: str
    lease: Lease | None
    advertisements: Advertisements


def resolv_conf(given: Iterable[IPAddress], sources: Iterable[Source]) -> str:
    """Those of the command line first, then those by DHCP, then those that routers advertise."""
    sources = tuple(sources)
    servers = [str(server) for server in given]
    search: list[str] = []
    for source in sources:
        if source.lease:
            servers += map(str, source.lease.nameservers)
            search += source.lease.search
    for source in sources:
        servers += (_scoped(e.value, source.name) for e in source.advertisements.nameservers)
        search += (entry.value for entry in source.advertisements.search)
    lines = ["# Written by auraed from the kernel command line, DHCP and router advertisements."]
    lines += (f"nameserver {server}" for server in tuple(dict.fromkeys(servers))[:NAMESERVERS])
    if search:
        lines.append(f"search {' '.join(tuple(dict.fromkeys(search))[:SEARCH])}")
    return "\n".join(lines) + "\n"


def _scoped(server: str, link: str) -> str:
    """fe80:: addresses mean nothing without their link."""
    return f"{server}%{link}" if ip_address(server).is_link_local else server
