"""The network service against real servers, in network namespaces of this host. Needs root, no VM.

What the booted image does with QEMU's networks is tested with the other tests of the image.
"""

import os
import shutil
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from tests.integration.netns import Node, in_namespace, node, run
from tests.integration.netns_servers import behave, dnsmasq, heard, own_server

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
    pytest.mark.skipif(not shutil.which("ip"), reason="needs iproute2"),
]

NUMBERS = count(os.getpid() * 100)


@pytest.fixture
def plugged(tmp_path: Path) -> Iterator[Node]:
    """A node with one card, eth0; the service is not yet started."""
    with node(tmp_path, next(NUMBERS)) as made:
        made.plug("eth0")
        yield made


def test_a_link_gets_all_that_dhcp_and_the_router_give(plugged: Node) -> None:
    with dnsmasq(plugged):
        plugged.start()
        plugged.wait("IPv4 and IPv6", lambda: "inet6 fd77:" in plugged.ip("addr"))
        plugged.wait("the route", lambda: "192.168.9.0/24" in plugged.ip("route"))
        address = plugged.ip("-4", "addr", "show", "eth0")
        assert "inet 10.77.0." in address
        assert "mtu 1400" in address
        assert "valid_lft forever" not in address
        assert "default via 10.77.0.1 dev eth0 proto dhcp" in plugged.ip("route")
        plugged.wait("the router", lambda: "default via fe80:" in plugged.ip("-6", "route"))
        plugged.wait("the name servers", lambda: "fd77::53" in plugged.resolv_conf)
        assert "nameserver 10.77.0.1\n" in plugged.resolv_conf
        assert "search a.example b.example six.example\n" in plugged.resolv_conf
        assert "by DHCP from 10.77.0.1, lease 120 s\n" in plugged.log
        plugged.wait_for_line("by router advertisement\n")


def test_a_restart_keeps_every_address_and_asks_for_nothing(plugged: Node) -> None:
    with own_server(plugged, seconds=600) as server:
        plugged.start()
        plugged.wait_for_line("default route via 10.78.0.1")
        plugged.ip("addr", "add", "10.99.0.1/24", "dev", "eth0")
        before = heard(server)
        monitor = plugged.folder / "monitor"
        with in_namespace(plugged.name, ["ip", "monitor", "address", "route"], monitor):
            plugged.stop(kill=True)
            (plugged.folder / "log").unlink()
            plugged.start()
            plugged.wait_for_line("eth0: found")
            plugged.ip("addr", "add", "10.99.0.2/24", "dev", "eth0")
            plugged.wait("the reports", lambda: "10.99.0.2" in monitor.read_text())
            plugged.wait("the service", lambda: "nothing new" in _settled(plugged))
        assert "10.78.0.50" not in monitor.read_text()
        assert "Deleted" not in monitor.read_text()
        assert heard(server) == before
        assert "10.99.0.1/24" in plugged.ip("addr")
        plugged.stop()
        assert "10.78.0.50/24" in plugged.ip("addr")


def _settled(machine: Node) -> str:
    """A fresh hostname file would do; a new link is what the service surely answers to."""
    if "eth9: up" not in machine.log:
        if "eth9" not in machine.ip("link"):
            machine.plug("eth9")
        return ""
    return "nothing new"


def test_a_lease_is_renewed_at_its_server_before_it_ends(plugged: Node) -> None:
    with own_server(plugged, seconds=8) as server:
        plugged.start()
        plugged.wait_for_line("address 10.78.0.50/24 by DHCP from 10.78.0.1, lease 8 s")
        # The first one may be lost while the link comes up; there must be no further one.
        sought = heard(server).count("DISCOVER from 0.0.0.0")
        renewals = "REQUEST from 10.78.0.50"
        plugged.wait("two renewals", lambda: heard(server).count(renewals) >= 2)
        assert heard(server).count("DISCOVER from 0.0.0.0") == sought
        assert "10.78.0.50/24" in plugged.ip("addr")
        assert "has ended" not in plugged.log


def test_without_its_server_an_address_is_gone_when_its_lease_ends(plugged: Node) -> None:
    with own_server(plugged, seconds=4) as server:
        plugged.start()
        plugged.wait("the address", lambda: "10.78.0.50/24" in plugged.ip("addr"))
        behave(server, answer="nothing")
        plugged.wait_for_line("lease of 10.78.0.50/24 has ended, address removed")
        plugged.wait("no address", lambda: "10.78.0.50/24" not in plugged.ip("addr"))
        assert "default" not in plugged.ip("route")
        behave(server, address="10.78.0.51")
        plugged.wait("another", lambda: "10.78.0.51/24" in plugged.ip("addr"))


def test_a_refused_lease_is_replaced_by_another(plugged: Node) -> None:
    with own_server(plugged, seconds=6) as server:
        plugged.start()
        plugged.wait("the address", lambda: "10.78.0.50/24" in plugged.ip("addr"))
        behave(server, answer="nak")
        plugged.wait_for_line("DHCP server 10.78.0.1 refused 10.78.0.50")
        plugged.wait("no address", lambda: "10.78.0.50/24" not in plugged.ip("addr"))
        behave(server, address="10.78.0.60")
        plugged.wait("another", lambda: "10.78.0.60/24" in plugged.ip("addr"))
        assert "default via 10.78.0.1" in plugged.ip("route")


def test_an_address_that_another_host_has_is_declined(plugged: Node) -> None:
    plugged.router_ip("addr", "add", "10.78.0.50/32", "dev", "r-eth0")
    with own_server(plugged, seconds=600) as server:
        plugged.start()
        plugged.wait("the refusal", lambda: "DECLINE from 0.0.0.0" in heard(server))
        assert "10.78.0.50 is in use by" in plugged.log
        assert "10.78.0.50" not in plugged.ip("addr")


def test_with_the_cable_back_the_lease_is_confirmed(plugged: Node) -> None:
    with own_server(plugged, seconds=600) as server:
        plugged.start()
        plugged.wait_for_line("default route via 10.78.0.1")
        sought = heard(server).count("DISCOVER from 0.0.0.0")
        asked = heard(server).count("REQUEST from 0.0.0.0")
        plugged.router_ip("link", "set", "r-eth0", "down")
        plugged.wait_for_line("eth0: no carrier")
        assert "10.78.0.50/24" in plugged.ip("addr")
        plugged.router_ip("link", "set", "r-eth0", "up")
        plugged.wait("a request", lambda: heard(server).count("REQUEST from 0.0.0.0") > asked)
        assert heard(server).count("DISCOVER from 0.0.0.0") == sought
        assert "10.78.0.50/24" in plugged.ip("addr")


def test_a_second_card_is_found_while_running_and_gone_when_pulled(plugged: Node) -> None:
    with own_server(plugged, seconds=600):
        plugged.start()
        plugged.wait("the address", lambda: "10.78.0.50/24" in plugged.ip("addr"))
        plugged.plug("eth1")
        with own_server(plugged, seconds=600, link="r-eth1", net="10.79.0"):
            plugged.wait("its address", lambda: "10.79.0.50/24" in plugged.ip("addr"))
            plugged.wait("its route", lambda: plugged.ip("route").count("default") == 2)
            assert plugged.ip("route").startswith("default via 10.78.0.1")
            plugged.wait("its file", (plugged.folder / "run/network/eth1.json").exists)
            plugged.ip("link", "del", "eth1")
            plugged.wait_for_line("eth1: gone")
    assert "default via 10.78.0.1" in plugged.ip("route")
    assert not (plugged.folder / "run/network/eth1.json").exists()


def test_what_workloads_make_is_left_alone(plugged: Node) -> None:
    plugged.start()
    plugged.wait_for_line("eth0: up")
    for arguments in (("br0", "type", "bridge"), ("v0", "type", "veth", "peer", "name", "v1")):
        plugged.ip("link", "add", *arguments)
    plugged.plug("eth1")
    plugged.wait_for_line("eth1: up")
    for name in ("br0", "v0", "v1"):
        assert "state DOWN" in plugged.ip("link", "show", name)
        assert f"{name}:" not in plugged.log


def test_a_card_that_becomes_a_port_of_a_bridge_is_let_go(plugged: Node) -> None:
    with own_server(plugged, seconds=600):
        plugged.start()
        plugged.wait("the address", lambda: "10.78.0.50/24" in plugged.ip("addr"))
        plugged.ip("link", "add", "br0", "type", "bridge")
        plugged.ip("link", "set", "eth0", "master", "br0")
        plugged.wait_for_line("eth0: left alone: it is a port of another link now")


def test_static_addresses_are_set_and_a_bad_one_is_named(plugged: Node) -> None:
    plugged.command_line = (
        "ip=10.5.0.7::10.5.0.1:255.255.255.0::eth0:off ip=[fd05::7]::[fd05::1]:64::eth0:off"
        " ip=10.5.0.300::::: nameserver=10.5.0.53 nameserver=[fd05::53]"
    )
    plugged.start()
    plugged.wait("IPv6", lambda: "default via fd05::1" in plugged.ip("-6", "route"))
    assert "default via 10.5.0.1 dev eth0 proto static metric" in plugged.ip("route")
    assert "inet6 fd05::7/64" in plugged.ip("addr")
    plugged.wait("resolv.conf", lambda: "nameserver 10.5.0.53\n" in plugged.resolv_conf)
    assert "ip=10.5.0.300:::::: address '10.5.0.300' is no IP address\n" in plugged.log
    accept = run("ip", "netns", "exec", plugged.name, "sysctl", "net.ipv6.conf.eth0.accept_ra")
    assert accept.strip().endswith("= 0")


def test_mac_and_mtu_of_the_command_line_are_set(plugged: Node) -> None:
    plugged.command_line = "ip=eth0:off:1300:02:00:00:00:00:77"
    plugged.start()
    plugged.wait("the MAC", lambda: "02:00:00:00:00:77" in plugged.ip("link", "show", "eth0"))
    plugged.wait("the MTU", lambda: "mtu 1300" in plugged.ip("link", "show", "eth0"))
    plugged.wait("up again", lambda: "LOWER_UP" in plugged.ip("link", "show", "eth0"))


def test_what_somebody_else_takes_away_comes_back(plugged: Node) -> None:
    plugged.command_line = "ip=10.5.0.7::10.5.0.1:24::eth0:off"
    plugged.start()
    plugged.wait("the route", lambda: "default via 10.5.0.1" in plugged.ip("route"))
    plugged.ip("addr", "flush", "dev", "eth0")
    plugged.wait("the route again", lambda: "default via 10.5.0.1" in plugged.ip("route"))
    plugged.ip("link", "set", "eth0", "down")
    plugged.wait("all again", lambda: "default via 10.5.0.1" in plugged.ip("route"))


def test_more_reports_than_the_kernel_keeps_lose_nothing(plugged: Node) -> None:
    plugged.start()
    plugged.wait_for_line("eth0: up")
    assert plugged.process is not None
    stopped = run("ip", "netns", "pids", plugged.name).split()
    run("kill", "-STOP", *stopped)
    plugged.ip("link", "add", "v0", "type", "veth", "peer", "name", "v1")
    batch = plugged.folder / "batch"
    batch.write_text("".join(f"link set v0 mtu {1000 + n % 2}\n" for n in range(5000)))
    plugged.ip("-batch", str(batch))
    plugged.plug("eth1")
    run("kill", "-CONT", *stopped)
    plugged.wait_for_line("looking at all links anew", patience=60)
    plugged.wait_for_line("eth1: up", patience=60)
