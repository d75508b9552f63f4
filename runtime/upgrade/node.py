"""What this node is, as far as an upgrade must know."""

import json
import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import Final

from initd.boot import attempts, booted, disks, esp, expected, verity
from initd.boot.booted import Booted
from initd.boot.expected import Expected
from initd.boot.verity import Slot
from initd.errors import FailedPrecondition
from initd.release import Place, Unusable, parse
from initd.values import NamedTuple
from runtime.durable import put
from runtime.upgrade.model import Written

_NETWORK: Final = "/proc/net"


class Found(NamedTuple):
    """Whether this boot is a good one, and why not; empty: nobody looks. The version is that of the
    boot entry."""

    state: str = ""
    reason: str = ""
    version: str = ""


class Node(NamedTuple):
    """Where things are; the defaults are those of a machine."""

    version: str
    state: Path
    """A folder that outlives a boot, where there is a data disk."""
    keeps: bool = False
    """Whether it is on one."""
    port: int = 0
    """Where the API is reached; 0: not over TCP."""
    architecture: str = os.uname().machine
    keys: tuple[Path, ...] = (
        Path("/etc/aurae/upgrade-keys"),
        Path("/run/credentials/@system/aurae.upgrade-keys.pem"),
    )
    """Files of keys, and folders of such: in the image, and given at boot."""
    booted: str = booted.PLACE
    block: str = "/sys/class/block"
    devices: str = "/dev"
    health: Path = Path("/run/aurae/health.json")
    network: str = _NETWORK

    @property
    def file(self) -> Path:
        """What is written of an upgrade."""
        return self.state / "upgrade.json"

    def origin(self) -> Booted:
        return booted.read(self.booted)

    def found(self) -> Found:
        """What PID 1 has found of this boot."""
        try:
            said = json.loads(self.health.read_text())
            return Found(*(str(said[field]) for field in Found._fields))
        except (OSError, ValueError, KeyError, TypeError):
            return Found()

    def check_healthy(self) -> None:
        """Raises FailedPrecondition: the running version may be given up at its next boot."""
        found = self.found()
        if found.state != "healthy":
            raise FailedPrecondition(
                "node: this boot is not found healthy yet "
                f"({found.reason or 'nobody has looked'}); wait for that"
            )

    def slots(self) -> tuple[Booted, Slot]:
        """What runs, and the slot for another. Raises FailedPrecondition."""
        origin = self.origin()
        if not origin.slot:
            raise FailedPrecondition(
                "node: was not booted from a slot of its disk, so it has no other one; install it "
                "on a disk first"
            )
        found = [
            slot
            for slot in verity.slots(disks.block_devices(self.block))
            if slot.disk == origin.disk and slot.name != origin.slot
        ]
        if len(found) != 1:
            raise FailedPrecondition(f"disk {origin.disk}: has no second slot; write it anew")
        return origin, found[0]

    def device(self, name: str) -> str:
        return f"{self.devices}/{name}"

    def esp(self, origin: Booted) -> str:
        """Raises FailedPrecondition."""
        try:
            found = esp.find_device(origin.disk, self.block)
        except OSError as e:
            raise FailedPrecondition(f"disk {origin.disk}: {e.strerror}; write it anew") from e
        return self.device(found.rpartition("/")[2])

    # What outlives a cut

    def written(self) -> Written | None:
        try:
            found = json.loads(self.file.read_text())
            place = Place(*(int(number) for number in found["place"]))
            manifest = str(found["manifest"]).encode()
            parse(manifest)
            return Written(manifest, str(found["slot"]), place)
        except (OSError, ValueError, KeyError, TypeError, Unusable):
            return None

    def keep(self, written: Written) -> None:
        value = {
            "manifest": written.manifest.decode(),
            "slot": written.slot,
            "place": list(written.place),
        }
        put(self.file, json.dumps(value).encode())

    def forget(self) -> None:
        with suppress(FileNotFoundError):
            self.file.unlink()

    def expect(self, root_hash: str) -> None:
        """Write down what the version with this root must be found to have: what this one has."""
        device = attempts.find_device(self.origin().disk, self.block)
        if device is not None:
            has = Expected(root_hash, tuple(addresses(self.network)), self.port, self.keeps)
            expected.write(self.device(device.rpartition("/")[2]), has)


def addresses(network: str = _NETWORK) -> list[str]:
    """The addresses by which others reach this node, of what the kernel shows in /proc/net."""
    found = []
    with suppress(OSError):
        before = ""
        for line in Path(network, "fib_trie").read_text().splitlines():
            words = line.split()
            # A leaf is `|-- ADDRESS`, and what it is stands on the next line.
            if "host LOCAL" in line and not before.startswith("127.") and before not in found:
                found.append(before)
            before = words[1] if len(words) == 2 else before
    with suppress(OSError):
        for line in Path(network, "if_inet6").read_text().splitlines():
            raw, _, _, scope, *_ = line.split()
            # 00: of global scope (RTNL and include/net/ipv6.h).
            if scope == "00":
                found.append(socket.inet_ntop(socket.AF_INET6, bytes.fromhex(raw)))
    return found
