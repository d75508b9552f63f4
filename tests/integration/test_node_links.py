"""Bonds, VLANs and bridges of the booted image, as its configuration asks for them."""

import json
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

import pytest
from aurae.node.v0 import config_pb2

from image.machine import API_PORT, Drive, Nic
from testkit.machines import Machine, Machines
from tests.integration.test_configuration import DISK, data_disk

PATIENCE: Final = 90.0
# With what a document needs, of the 100 MB that all of auraed may take.
MEMORY: Final = 22_000
SERVICE: Final = "/sys/fs/cgroup/auraed/network/cgroup.procs"

_OFF: Final = "dhcp = false\nadvertisements = false\n"

# eth1 to eth3 are on one cable; eth3 becomes the peer's, in a network namespace of its own.
DOCUMENT: Final = f"""
hostname = "linked"
[network.links.bond0]
kind = "bond"
ports = ["eth1", "eth2"]
primary = "eth1"
{_OFF}
[network.links.v5]
kind = "vlan"
parent = "bond0"
id = 5
mtu = 1400
addresses = ["10.5.0.1/24"]
[network.links.v6]
kind = "vlan"
parent = "bond0"
id = 6
[network.links.br0]
kind = "bridge"
ports = ["v6"]
advertisements = false
[network.links.eth3]
{_OFF}
"""
WITHOUT_BRIDGE: Final = f"""
[network.links.bond0]
kind = "bond"
ports = ["eth1", "eth2"]
mode = "balance-rr"
{_OFF}
[network.links.v5]
kind = "vlan"
parent = "bond0"
id = 5
addresses = ["10.5.0.1/24", "10.5.0.3/24"]
"""

# Two VLANs on the cable, with a DHCP server on the one.
PEER: Final = """
echo $$ > /run/peer.pid
until ip link show eth3 > /dev/null 2>&1; do sleep 0.1; done
ip link set eth3 up
for id in 5 6; do
    ip link add link eth3 name e$id type vlan id $id
    ip addr add 10.$id.0.2/24 dev e$id
    ip link set e$id up
done
cat > /run/peer.conf << END
interface e6
start 10.6.0.50
end 10.6.0.60
option subnet 255.255.255.0
lease_file /run/peer.leases
pidfile /run/peer.udhcpd
END
touch /run/peer.leases
exec udhcpd -f -S /run/peer.conf
"""


@pytest.fixture(scope="module")
def linked(machines: Machines, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A machine with four cards, whose network is that of the document on its data disk."""
    machine = machines.start(
        cmdline=(DISK,),
        nics=(Nic(forwarded=API_PORT), Nic(hub=1), Nic(hub=1), Nic(hub=1)),
        drives=(Drive(file=data_disk(tmp_path_factory.mktemp("disk"), DOCUMENT)),),
    )
    wait("the bridge", lambda: link(machine, "br0")["up"])
    machine.system.start("peer", f"exec unshare -n sh -c '{PEER}'")
    wait("the peer", lambda: machine.system.read("cat /run/peer.pid 2>/dev/null || true"))
    machine.system.read("ip link set eth3 netns $(cat /run/peer.pid)")
    yield machine
    machine.system.stop("peer")
    machine.check()
    machine.poweroff()
    machines.close(machine)


def wait(what: str, true: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline, f"waited for {what}"
        time.sleep(0.5)


def status(machine: Machine) -> dict[str, Any]:
    text = machine.system.read("cat /run/aurae/network/status.json 2>/dev/null || echo '{}'")
    return {link["name"]: link for link in json.loads(text).get("links", ())}


def link(machine: Machine, name: str) -> dict[str, Any]:
    absent = {"up": False, "addresses": (), "master": None}
    found: dict[str, Any] = status(machine).get(name, absent)
    return found


def addresses(machine: Machine, name: str) -> set[str]:
    return {address["address"] for address in link(machine, name)["addresses"]}


def configure(machine: Machine, text: str) -> None:
    machine.api.config.Apply(config_pb2.ConfigServiceApplyRequest(document=text))


def reaches(machine: Machine, address: str) -> bool:
    return machine.system.run(f"ping -c 1 -W 2 {address}").exit_code == 0


def test_the_links_of_the_document_are_there_at_boot(linked: Machine) -> None:
    see = linked.system.read
    bond = see("cat /proc/net/bonding/bond0")
    assert "Bonding Mode: fault-tolerance (active-backup)" in bond
    assert "Primary Slave: eth1 (primary_reselect always)" in bond
    assert "MII Polling Interval (ms): 100" in bond
    assert "Slave Interface: eth1" in bond
    assert "Slave Interface: eth2" in bond
    vlans = see("cat /proc/net/vlan/config")
    assert "v5             | 5  | bond0" in vlans
    assert "v6             | 6  | bond0" in vlans
    assert "mtu 1400" in see("ip link show v5")
    assert "inet 10.5.0.1/24" in see("ip addr show v5")
    assert see("hostname") == "linked\n"
    found = status(linked)
    kinds = {name: one["kind"] for name, one in found.items() if name != "eth3"}
    assert kinds == {
        **dict.fromkeys(("eth0", "eth1", "eth2"), "ethernet"),
        "bond0": "bond",
        "v5": "vlan",
        "v6": "vlan",
        "br0": "bridge",
    }
    masters = {name: one["master"] for name, one in found.items() if one["master"]}
    assert masters == {"eth1": "bond0", "eth2": "bond0", "v6": "br0"}
    assert "10.0.2.15/24" in addresses(linked, "eth0")


def test_a_vlan_on_a_bond_reaches_its_peer_over_either_card(linked: Machine) -> None:
    wait("the peer on the VLAN", lambda: reaches(linked, "10.5.0.2"))
    active = "cat /sys/class/net/bond0/bonding/active_slave"
    assert linked.system.read(active) == "eth1\n"
    linked.qemu.monitor.execute("set_link", {"name": "nic1", "up": False})
    wait("the other card", lambda: linked.system.read(active) == "eth2\n")
    wait("the peer by it", lambda: reaches(linked, "10.5.0.2"))
    linked.qemu.monitor.execute("set_link", {"name": "nic1", "up": True})
    wait("the preferred card", lambda: linked.system.read(active) == "eth1\n")


def test_a_bridge_on_a_vlan_on_a_bond_gets_its_address_by_dhcp(linked: Machine) -> None:
    wait("its address", lambda: any(a.startswith("10.6.0.") for a in addresses(linked, "br0")))
    assert reaches(linked, "10.6.0.2")


def test_the_service_is_small_with_a_document_too(linked: Machine) -> None:
    pss = linked.system.read(f"sed -n 's/^Pss: *//p' /proc/$(cat {SERVICE})/smaps_rollup")
    assert int(pss.split()[0]) < MEMORY


def test_a_killed_service_takes_nothing_of_it_along(linked: Machine) -> None:
    see = linked.system.read
    look = "ip -o link | sed 's/: <.*//'; ip -4 -o addr | sed 's/ scope.*//'; ip route"
    links, before = see(look), see(f"cat {SERVICE}")
    see(f"kill -9 $(cat {SERVICE})")
    wait("another", lambda: see(f"cat {SERVICE}").strip() not in ("", before.strip()))
    wait("its start", lambda: "br0: going on with 10.6.0." in linked.console.text)
    assert see(look) == links


def test_a_live_change_makes_a_bond_anew_and_removes_what_is_not_named(linked: Machine) -> None:
    configure(linked, WITHOUT_BRIDGE)
    wait("the address", lambda: addresses(linked, "v5") == {"10.5.0.1/24", "10.5.0.3/24"})
    assert "round-robin" in linked.system.read("cat /proc/net/bonding/bond0")
    wait("the peer", lambda: reaches(linked, "10.5.0.2"))
    assert status(linked).keys() == {"eth0", "eth1", "eth2", "bond0", "v5"}
    configure(linked, "")
    wait("their end", lambda: status(linked).keys() == {"eth0", "eth1", "eth2"})
    wait("the cards", lambda: link(linked, "eth1")["up"] and not link(linked, "eth1")["master"])
    assert linked.system.read("ls /sys/class/net | grep -E 'bond0|v5' || true") == ""
    assert "10.0.2.15/24" in addresses(linked, "eth0")
