"""`aer netboot`: boot machines from the network, and sign what they fetch. No node is asked."""

from ipaddress import IPv4Address
from pathlib import Path
from typing import TYPE_CHECKING, Final

from aer import parse
from aer.command import Argument, Call, Command
from aer.errors import AerError

if TYPE_CHECKING:
    from runtime.remote.signature import Signer

# Where `make pxe` leaves it.
FOLDER: Final = Path("build/pxe")
PORT: Final = "8000"
# Of the node's: see docs/architecture.md.
URL: Final = "aurae.config"
KEY: Final = "aurae.config-key"


def serve(call: Call) -> int:
    from aer.netbooting import serve

    return serve(call)


def make_key(call: Call) -> int:
    from runtime.identity import store
    from runtime.remote import signature

    pem = signature.make_key()
    store.create(call["file"], pem, 0o600)
    print(f"{KEY}={signature.Signer(pem).public}")
    return 0


def sign(call: Call) -> int:
    signer = signer_of(call["key"])
    file = call["file"]
    target = file.with_name(f"{file.name}.sig")
    target.write_bytes(signer.sign(file.read_bytes()))
    print(target)
    print(f"{KEY}={signer.public}")
    return 0


def signer_of(file: Path) -> "Signer":
    """Raises AerError."""
    from runtime.remote.signature import Signer

    try:
        return Signer(file.read_bytes())
    except FileNotFoundError as e:
        raise AerError(f"{file}: does not exist", f"aer netboot config key {file}") from e
    except ValueError as e:
        raise AerError(f"{file}: {e}") from e


def _port(text: str) -> int:
    number = parse.integer(text)
    if not 0 <= number < 65536:
        raise ValueError(f"{text} is no port")
    return number


def _range(text: str) -> tuple[IPv4Address, IPv4Address]:
    first, _, last = text.partition(",")
    try:
        both = IPv4Address(first), IPv4Address(last)
    except ValueError:
        raise ValueError(f"{text!r} is no range; write FIRST,LAST, two IPv4 addresses") from None
    if both[0] > both[1]:
        raise ValueError(f"{text}: ends before it begins")
    return both


COMMANDS: Final = (
    Command(
        words=("netboot", "serve"),
        help="offer a folder of make pxe to machines that boot from the network",
        text="TFTP and DHCP by dnsmasq, HTTP by aer itself, until ctrl-c. A DHCP server that is "
        "there already stays as it is: machines have their addresses from it, and hear from here "
        "what to boot. A BIOS with iPXE in its card gets the script, one without (where Debian's "
        "package ipxe is installed) iPXE first, UEFI the EFI program by HTTP, or by TFTP where it "
        "has no HTTP boot. Needs root, but for --http-only.",
        run=serve,
        arguments=(
            Argument(
                name="folder",
                help=f"what make pxe made; default: {FOLDER}",
                parse=parse.path,
                optional=True,
                complete="directory",
            ),
            Argument(
                name="--interface",
                help="the card to serve on; default: the one with the default route",
                metavar="NAME",
            ),
            Argument(
                name="--append",
                help="arguments for the kernel, after those of the folder; may be repeated. iPXE "
                "itself replaces ${mac} and the like in them",
                metavar="ARGUMENTS",
                many=True,
            ),
            Argument(
                name="--node-config",
                help="the configuration of nodes, one FILE for all, or a folder of MAC.toml and "
                "default.toml; machines are told to fetch it as /config/MAC. Without --key, its "
                "signature lies beside each file, and --append gives the key",
                metavar="FILE|DIR",
                parse=parse.path,
                complete="file",
            ),
            Argument(
                name="--key",
                help="private key to sign each configuration with when it is fetched, PEM",
                metavar="FILE",
                parse=parse.path,
                complete="file",
            ),
            Argument(
                name="--dhcp-range",
                help="give addresses too, from FIRST to LAST: for a network without a DHCP server",
                metavar="FIRST,LAST",
                parse=_range,
            ),
            Argument(
                name="--port",
                help="of HTTP; 0: a free one",
                metavar="PORT",
                parse=_port,
                default=PORT,
            ),
            Argument(
                name="--http-only",
                help="no DHCP and no TFTP: your own DHCP server names the URLs that are printed",
                switch=True,
            ),
            Argument(
                name="--output",
                help="table for people; json for programs, a line an event",
                choices=("table", "json"),
                metavar="FORMAT",
                short="-o",
                default="table",
            ),
        ),
    ),
    Command(
        words=("netboot", "config", "key"),
        help="make a key to sign configurations of nodes with",
        text=f"An Ed25519 key. Prints {KEY}=…, the public key as the kernel command line of the "
        "nodes has it.",
        run=make_key,
        arguments=(Argument(name="file", help="the private key to be, PEM", parse=parse.path),),
    ),
    Command(
        words=("netboot", "config", "sign"),
        help="sign a configuration that nodes fetch by URL",
        text="FILE.sig is made beside FILE, and belongs at its URL with .sig at the end. "
        "The signature is over every byte of the file: sign again after any change.",
        run=sign,
        arguments=(
            Argument(name="file", help="what to sign", parse=parse.path, complete="file"),
            Argument(
                name="--key",
                help="private key to sign with, PEM",
                metavar="FILE",
                parse=parse.path,
                required=True,
                complete="file",
            ),
        ),
    ),
)
