"""resolv.conf: which name servers and search domains, from all that is known."""

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final

from initd.network.model import Advertisements, IPAddress, Lease

# MAXNS of the C libraries: they read no more.
NAMESERVERS: Final = 3
HEADING: Final = (
    "# Written by auraed from the kernel command line, the configuration, DHCP and router "
    "advertisements."
)
# As much as older C libraries take.
SEARCH: Final = 6


@dataclass(frozen=True, slots=True)
class Source:
    """What one link has to say."""

    name: str
    lease: Lease | None
    advertisements: Advertisements


@dataclass(frozen=True, slots=True)
class Resolver:
    """As the C libraries take it."""

    nameservers: tuple[str, ...]
    search: tuple[str, ...]

    @property
    def text(self) -> str:
        lines = [HEADING]
        lines += (f"nameserver {server}" for server in self.nameservers)
        if self.search:
            lines.append(f"search {' '.join(self.search)}")
        return "\n".join(lines) + "\n"


def resolver(
    given: Iterable[IPAddress], search: Iterable[str], sources: Iterable[Source]
) -> Resolver:
    """Those given first (command line, then document), then those by DHCP, then those that routers
    advertise."""
    sources = tuple(sources)
    servers = [str(server) for server in given]
    domains = list(search)
    for source in sources:
        if source.lease:
            servers += map(str, source.lease.nameservers)
            domains += source.lease.search
    for source in sources:
        servers += (_scoped(e.value, source.name) for e in source.advertisements.nameservers)
        domains += (entry.value for entry in source.advertisements.search)
    return Resolver(
        tuple(dict.fromkeys(servers))[:NAMESERVERS], tuple(dict.fromkeys(domains))[:SEARCH]
    )


def _scoped(server: str, link: str) -> str:
    """fe80:: addresses mean nothing without their link."""
    return f"{server}%{link}" if ip_address(server).is_link_local else server
