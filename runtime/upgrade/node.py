"""What this node is, as far as an upgrade must know."""

import json
import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import Final

from initd.boot import booted, disks, esp, verity
from initd.boot.booted import Booted
from initd.boot.verity import Slot
from initd.errors import FailedPrecondition
from initd.release import Place, Unusable, parse
from initd.values import NamedTuple
from runtime.upgrade.model import Written

_NETWORK: Final = "/proc/net"


class Node(NamedTuple):
    """Where things are; the defaults are those of a machine."""

    version: str
    state: Path
    """A folder that outlives a boot, where there is a data disk."""
    port: int = 0
    """Where the API is reached; 0: not over TCP."""
    architecture: str = os.uname().machine
    keys: Path = Path("/etc/aurae/upgrade-keys")
    booted: str = booted.PLACE
    block: str = "/sys/class/block"
    devices: str = "/dev"
    efivars: str = esp.EFIVARS
    health: Path = Path("/run/aurae/health.json")
    network: str = _NETWORK

    @property
    def file(self) -> Path:
        """What is written of an upgrade."""
        return self.state / "upgrade.json"

    @property
    def expected(self) -> Path:
        """What the next version must be found to have: see initd.health."""
        return self.state / "upgrade-expects.json"

    def origin(self) -> Booted:
        return booted.read(self.booted)

    def decided(self) -> tuple[str, str]:
        """Whether this boot was found healthy, and why not; empty: nobody looks."""
        try:
            found = json.loads(self.health.read_text())
            return str(found["state"]), str(found.get("reason", ""))
        except (OSError, ValueError, KeyError, TypeError):
            return "", ""

    def check_healthy(self) -> None:
        """Raises FailedPrecondition: the running version may be given up at its next boot."""
        state, reason = self.decided()
        if state in ("waiting", "unhealthy"):
            raise FailedPrecondition(
                f"node: this boot is not found healthy yet ({reason or state}); wait for that"
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
        _replace(self.file, json.dumps(value))

    def forget(self) -> None:
        with suppress(FileNotFoundError):
            self.file.unlink()

    def expect(self) -> None:
        """Write down by what the node is reached now."""
        value = {
            "addresses": addresses(self.network),
            "port": self.port,
            "data": os.path.ismount("/var") and not str(self.state).startswith("/run/"),
        }
        _replace(self.expected, json.dumps(value))


def _replace(path: Path, text: str) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    aside = path.with_name(f"{path.name}.new")
    with aside.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    aside.rename(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


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
