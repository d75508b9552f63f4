"""The network service in the booted image, on QEMU's networks."""

import time
from collections.abc import Callable

from image.machine import API_PORT, Nic
from testkit.machines import Machine

PATIENCE = 60.0
# Idle, of the 100 MB that all of auraed may take.
MEMORY = 20_000
SERVICE = "/sys/fs/cgroup/auraed/network/cgroup.procs"


def wait(what: str, true: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline, f"waited for {what}"
        time.sleep(0.5)


def test_the_card_has_what_dhcp_and_the_router_give(machine: Machine) -> None:
    see = machine.system.read
    assert "inet 10.0.2.15/24" in see("ip addr show eth0")
    assert "default via 10.0.2.2 dev eth0" in see("ip route")
    assert "nameserver 10.0.2.3\n" in see("cat /etc/resolv.conf")
    wait("IPv6", lambda: "inet6 fec0::" in see("ip addr show eth0"))
    assert "default via fe80::2 dev eth0" in see("ip -6 route")


def test_the_service_is_small(machine: Machine) -> None:
    pss = machine.system.read(f"sed -n 's/^Pss: *//p' /proc/$(cat {SERVICE})/smaps_rollup")
    assert int(pss.split()[0]) < MEMORY


def test_a_killed_service_comes_back_and_no_connection_is_lost(machine: Machine) -> None:
    see = machine.system.read
    before = see(f"cat {SERVICE}")
    lease = see("cat /run/aurae/network/eth0.json")
    see(f"kill -9 $(cat {SERVICE})")
    wait("another", lambda: see(f"cat {SERVICE}").strip() not in ("", before.strip()))
    wait("its start", lambda: "eth0: going on with 10.0.2.15/24" in machine.console.text)
    assert see("cat /run/aurae/network/eth0.json") == lease
    assert "inet 10.0.2.15/24" in see("ip addr show eth0")


def test_a_pulled_cable_is_seen_and_the_address_stays(machine: Machine) -> None:
    monitor = machine.qemu.monitor
    monitor.execute("set_link", {"name": "nic0", "up": False})
    machine.console.wait_for("eth0: no carrier", PATIENCE)
    monitor.execute("set_link", {"name": "nic0", "up": True})
    machine.console.wait_for("eth0: carrier", PATIENCE)
    assert "inet 10.0.2.15/24" in machine.system.read("ip addr show eth0")


def test_another_kind_of_card_and_a_bad_parameter(boot: Callable[..., Machine]) -> None:
    card = Nic(forwarded=API_PORT, model="e1000")
    machine = boot(nics=(card,), cmdline=("ip=eth7:bogus", "aurae.hostname=seven"))
    rule = "warning: ip=eth7:bogus: 'bogus' is not one of dhcp, on, any, auto6, off, none"
    assert rule in machine.console.text
    see = machine.system.read
    assert "inet 10.0.2.15/24" in see("ip addr show eth0")
    assert see("hostname") == "seven\n"
