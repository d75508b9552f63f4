"""dnsmasq as TFTP and DHCP server of netboot: its command line, and what its log tells."""

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path
from typing import Final

from aer.errors import AerError

# Where Debian's package ipxe has what a card's own PXE starts on a machine with a BIOS.
BIOS_PROGRAM: Final = Path("/usr/lib/ipxe/undionly.kpxe")

# Client architectures (RFC 4578 and IANA's "Processor Architecture Types").
_BIOS: Final = 0
_UEFI: Final = 7
# UEFI too, by an erratum of that RFC.
_UEFI_BC: Final = 9
_UEFI_HTTP: Final = 16

_TITLE: Final = "Aurae"


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What which kind of machine is told to fetch, and on which network.

    Names are of files that TFTP serves; `url` is the EFI program's for UEFI HTTP boot. Without
    `bios`, nothing is offered to a BIOS that does not have iPXE in its card."""

    interface: str
    address: IPv4Interface
    script: str
    uefi: str
    url: str
    bios: str = ""
    range: tuple[IPv4Address, IPv4Address] | None = None
    """The addresses to give; None: another server does that, and this one tells what to boot."""


def find() -> str:
    """The program. Raises AerError."""
    # Debian keeps it where only root looks.
    program = shutil.which("dnsmasq") or shutil.which("dnsmasq", path="/usr/sbin:/usr/local/sbin")
    if program is None:
        raise AerError("dnsmasq: not on this host", "apt install dnsmasq-base")
    return program


def command(program: str, offer: Offer, tftp: Path) -> list[str]:
    """`tftp` is the folder that is served by TFTP, to everybody."""
    return [
        program,
        # Nothing of the host's own dnsmasq: its configuration, its leases, its file of its pid.
        *("--conf-file=/dev/null", "--leasefile-ro", "--pid-file", "--port=0"),
        *("--no-hosts", "--no-resolv", "--no-ping"),
        *("--keep-in-foreground", "--log-facility=-"),
        *(f"--interface={offer.interface}", "--except-interface=lo", "--bind-interfaces"),
        *("--enable-tftp", f"--tftp-root={tftp}"),
        "--dhcp-match=set:ipxe,175",
        *(_proxy(offer) if offer.range is None else _full(offer, offer.range)),
    ]


def _proxy(offer: Offer) -> Iterator[str]:
    """Beside another DHCP server: the answer has no address."""
    network = offer.address.network
    yield f"--dhcp-range={network.network_address},proxy,{network.netmask}"
    yield "--dhcp-pxe-vendor=PXEClient,HTTPClient"
    # A single service that fits is started without a menu.
    for architecture, name in ((_BIOS, offer.bios), (_UEFI, offer.uefi), (_UEFI_BC, offer.uefi)):
        if name:
            yield f"--pxe-service=tag:!ipxe,{architecture},{_TITLE},{name}"
        yield f"--pxe-service=tag:ipxe,{architecture},{_TITLE},{offer.script}"
    # UEFI HTTP boot looks for no boot server, as PXE does: what it boots must be in the offer.
    # There dnsmasq puts the file of dhcp-boot for an architecture that no service is for.
    yield f"--dhcp-match=set:http,option:client-arch,{_UEFI_HTTP}"
    yield f"--dhcp-boot=tag:http,{offer.url}"


def _full(offer: Offer, between: tuple[IPv4Address, IPv4Address]) -> Iterator[str]:
    first, last = between
    yield f"--dhcp-range={first},{last},{offer.address.network.netmask},1h"
    # This host is no router.
    yield "--dhcp-option=option:router"
    for tag, architecture in (
        ("bios", _BIOS),
        ("uefi", _UEFI),
        ("uefi", _UEFI_BC),
        ("http", _UEFI_HTTP),
    ):
        yield f"--dhcp-match=set:{tag},option:client-arch,{architecture}"
    if offer.bios:
        yield f"--dhcp-boot=tag:bios,tag:!ipxe,{offer.bios}"
    yield f"--dhcp-boot=tag:uefi,tag:!ipxe,{offer.uefi}"
    yield f"--dhcp-boot=tag:ipxe,{offer.script}"
    yield f"--dhcp-boot=tag:http,{offer.url}"
    # UEFI takes an answer for one about HTTP boot by this.
    yield "--dhcp-option-force=tag:http,option:vendor-class,HTTPClient"


@dataclass(frozen=True, slots=True)
class Sent:
    """A file by TFTP; `failed` says why it was not sent whole."""

    client: str
    name: str
    failed: str = ""


@dataclass(frozen=True, slots=True)
class Told:
    """A machine asked by DHCP, and was told this: an address, a file to boot."""

    mac: str
    what: str


_LOG: Final = (
    re.compile(r"dnsmasq-tftp\S*: sent (?P<name>.+) to (?P<client>\S+)$"),
    re.compile(r"dnsmasq-tftp\S*: failed sending (?P<name>.+) to (?P<client>\S+)$"),
    re.compile(r"dnsmasq-tftp\S*: file (?P<name>.+) (?P<failed>not found) for (?P<client>\S+)$"),
    re.compile(r"dnsmasq-tftp\S*: error \d+ (?P<failed>.+) received from (?P<client>\S+)$"),
)
_DHCP: Final = re.compile(
    r"dnsmasq-dhcp\S*: (?:\d+ )?(?P<kind>PXE|DHCPACK)\(\S+\) (?:(?P<address>[\d.]+) )?"
    r"(?P<mac>[0-9a-f:]{17})(?: (?P<what>.+))?$"
)


def read(line: str) -> Sent | Told | None:
    """What a line of its log tells; None where that is nothing for people."""
    for pattern in _LOG:
        if found := pattern.search(line):
            parts = found.groupdict()
            failed = parts.get("failed") or ("given up" if "failed sending" in line else "")
            name = Path(parts["name"]).name if parts.get("name") else ""
            return Sent(parts["client"], name, failed)
    if found := _DHCP.search(line):
        what = (found["what"] or "").strip()
        if found["kind"] == "DHCPACK":
            return Told(found["mac"], f"has the address {found['address']}")
        return Told(found["mac"], f"told to boot {what}") if what and what != "proxy" else None
    return None
