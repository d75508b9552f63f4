"""What the service knows of a link, kept on file so that a restart leaves no gap.

The files are in /run: they end with the boot, and so does the clock that their times are in.
"""

import json
from contextlib import suppress
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path
from typing import Any

from initd.network.model import Advertised, Advertisements, Lease


@dataclass(frozen=True, slots=True)
class Known:
    """`mac` is the link's when the lease was given: the server knows us by it. `usual_mtu` is the
    one that the link had before we gave it another."""

    mac: bytes
    lease: Lease | None = None
    advertisements: Advertisements = field(default_factory=Advertisements)
    usual_mtu: int | None = None


class Store:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._folder.mkdir(mode=0o755, parents=True, exist_ok=True)

    def load(self, name: str, mac: bytes) -> Known:
        """Nothing known where the file is missing, broken, or of another device of that name."""
        try:
            known = decode((self._folder / f"{name}.json").read_bytes())
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return Known(mac)
        return known if known.mac == mac else Known(mac)

    def save(self, name: str, known: Known) -> None:
        write_atomically(self._folder / f"{name}.json", encode(known))

    def rename(self, name: str, new: str) -> None:
        with suppress(FileNotFoundError):
            (self._folder / f"{name}.json").replace(self._folder / f"{new}.json")

    def remove(self, name: str) -> None:
        (self._folder / f"{name}.json").unlink(missing_ok=True)


def write_atomically(path: Path, content: bytes) -> None:
    """A reader sees the old content or the new, never a part; does nothing where it is the same."""
    if path.is_file() and path.read_bytes() == content:
        return
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.new")
    new.write_bytes(content)
    new.replace(path)


def encode(known: Known) -> bytes:
    value = {
        "mac": known.mac.hex(":"),
        "lease": None if known.lease is None else _lease_object(known.lease),
        "nameservers": [[entry.value, entry.expires] for entry in known.advertisements.nameservers],
        "search": [[entry.value, entry.expires] for entry in known.advertisements.search],
        "usual_mtu": known.usual_mtu,
    }
    return json.dumps(value, indent=1).encode() + b"\n"


def decode(data: bytes) -> Known:
    value = json.loads(data)
    return Known(
        mac=bytes.fromhex(value["mac"].replace(":", "")),
        lease=None if value["lease"] is None else _lease(value["lease"]),
        advertisements=Advertisements(
            _advertised(value["nameservers"]), _advertised(value["search"])
        ),
        usual_mtu=value.get("usual_mtu"),
    )


def _advertised(entries: list[tuple[str, float | None]]) -> tuple[Advertised, ...]:
    return tuple(Advertised(value, expires) for value, expires in entries)


def _lease_object(lease: Lease) -> dict[str, Any]:
    plain = {name: getattr(lease, name) for name in Lease.__dataclass_fields__}
    return plain | {
        "address": str(lease.address),
        "server": str(lease.server),
        "routes": [[str(net), None if via is None else str(via)] for net, via in lease.routes],
        "nameservers": [str(server) for server in lease.nameservers],
        "timeservers": [str(server) for server in lease.timeservers],
    }


def _lease(value: dict[str, Any]) -> Lease:
    lease = Lease(**value)
    return replace(
        lease,
        address=IPv4Interface(value["address"]),
        server=IPv4Address(value["server"]),
        routes=tuple(
            (IPv4Network(net), None if via is None else IPv4Address(via))
            for net, via in value["routes"]
        ),
        nameservers=tuple(IPv4Address(server) for server in value["nameservers"]),
        timeservers=tuple(IPv4Address(server) for server in value["timeservers"]),
        search=tuple(value["search"]),
    )
