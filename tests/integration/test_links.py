"""The network service with a document, in network namespaces of this host. Needs root, no VM.

This host's kernel may have no bonds or VLANs: these are tested in the booted image.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest

from tests.integration.broken_networks import CUT_OFF
from tests.integration.netns import Node, in_namespace, node
from tests.integration.netns_servers import dnsmasq, heard, own_server

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
    pytest.mark.skipif(not shutil.which("ip"), reason="needs iproute2"),
]

NUMBERS = count(os.getpid() * 100 + 50)

BRIDGE = '[network.links.br0]\nkind = "bridge"\nports = ["eth0"]\n'
STATIC = (
    '[network.links.eth0]\naddresses = ["10.5.0.7/24", "fd05::7/64"]\n'
    'gateway = ["10.5.0.1", "fd05::1"]\nroutes = [{to = "10.6.0.0/16", via = "10.5.0.9", metric ='
    " 7}]\n"
)

# A connection that says each line back; the peer's program, and ours.
ECHO = """
import socket
server = socket.create_server(("10.5.0.7", 7000))
print("listening", flush=True)
peer, _ = server.accept()
while data := peer.recv(100):
    peer.sendall(data)
"""
TALK = """
import socket, sys
peer = socket.create_connection(("10.5.0.7", 7000), timeout=10)
print("connected", flush=True)
for line in sys.stdin:
    peer.sendall(line.encode())
    print(peer.recv(100).decode(), end="", flush=True)
"""


@pytest.fixture
def plugged(tmp_path: Path) -> Iterator[Node]:
    """A node with one card, eth0; the service is not yet started."""
    with node(tmp_path, next(NUMBERS)) as made:
        made.plug("eth0")
        yield made


def state(machine: Node) -> list[str]:
    """Links, addresses and routes of the card, without what counts down."""
    addresses = machine.ip("-o", "addr", "show", "dev", "eth0", "scope", "global")
    routes = machine.ip("route") + machine.ip("-6", "route", "show", "default")
    links = re.findall(r"\d+: (\S+): .* (mtu \d+)", machine.ip("-o", "link"))
    return [
        *(" ".join(link) for link in links),
        *re.findall(r"(inet6? \S+ metric \d+) .*", addresses),
        *re.sub(r" expires \S+", "", routes).splitlines(),
    ]


@contextmanager
def conversation(machine: Node) -> Iterator["subprocess.Popen[str]"]:
    """A connection from the router to the node: what is written to it comes back."""
    log = machine.folder / "echo.log"
    with in_namespace(machine.name, [sys.executable, "-c", ECHO], log):
        machine.wait("the listener", lambda: "listening" in log.read_text())
        command = ["ip", "netns", "exec", machine.router, sys.executable, "-c", TALK]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, bufsize=1) as talk:
            assert talk.stdout is not None
            assert talk.stdin is not None
            assert talk.stdout.readline() == "connected\n"
            yield talk
            talk.stdin.close()


def says_back(talk: "subprocess.Popen[str]", line: str) -> bool:
    assert talk.stdout is not None
    assert talk.stdin is not None
    talk.stdin.write(f"{line}\n")
    return talk.stdout.readline() == f"{line}\n"


def test_addresses_routes_and_dns_of_a_document_are_set(plugged: Node) -> None:
    plugged.configure(
        'hostname = "web1"\n[network]\nnameservers = ["10.5.0.53"]\nsearch = ["mine.example"]\n'
        + STATIC
    )
    plugged.start()
    plugged.wait("IPv6", lambda: "default via fd05::1" in plugged.ip("-6", "route"))
    routes = plugged.ip("route")
    assert "default via 10.5.0.1 dev eth0" in routes
    assert "10.6.0.0/16 via 10.5.0.9 dev eth0 proto 97 metric 7" in routes
    plugged.wait("DNS", lambda: "nameserver 10.5.0.53\nsearch mine.exa" in plugged.resolv_conf)
    plugged.wait_for_line("hostname web1")
    assert "address 10.5.0.7/24 from the configuration" in plugged.log
    assert "DHCP" not in plugged.log
    plugged.wait("the status", lambda: len(plugged.status["eth0"]["default_routes"]) == 2)
    link = plugged.status["eth0"]
    assert {"address": "10.5.0.7/24", "origin": "config"} in link["addresses"]
    assert (link["kind"], link["carrier"], link["master"]) == ("ethernet", True, None)
    assert {route["gateway"] for route in link["default_routes"]} == {"10.5.0.1", "fd05::1"}


def test_a_live_change_touches_only_what_is_different(plugged: Node) -> None:
    plugged.router_ip("addr", "add", "10.5.0.1/24", "dev", "r-eth0")
    plugged.configure(STATIC)
    plugged.start()
    plugged.wait("the address", lambda: "10.5.0.7/24" in plugged.ip("addr"))
    plugged.wait("the route", lambda: "default via fd05::1" in plugged.ip("-6", "route"))
    monitor = plugged.folder / "monitor"
    with (
        conversation(plugged) as talk,
        in_namespace(plugged.name, ["ip", "monitor", "address", "route"], monitor),
    ):
        assert says_back(talk, "before")
        plugged.configure(
            '[network.links.eth0]\naddresses = ["10.5.0.8/24", "10.5.0.7/24", "fd05::8/64"]\n'
            'gateway = "10.5.0.1"\nmtu = 1400\n'
            '[network.links.br0]\nkind = "bridge"\naddresses = ["10.8.0.1/24"]'
        )
        plugged.wait("the new address", lambda: "10.5.0.8/24" in plugged.ip("addr"))
        plugged.wait("the bridge", lambda: "10.8.0.1/24" in plugged.ip("addr"))
        plugged.wait("the rest", lambda: "fd05::7" not in plugged.ip("addr"))
        plugged.wait("the route's end", lambda: "10.6.0.0/16" not in plugged.ip("route"))
        plugged.wait("the MTU", lambda: "mtu 1400" in plugged.ip("link", "show", "eth0"))
        assert says_back(talk, "after")
        plugged.configure(STATIC)
        plugged.wait("the bridge's end", lambda: "br0" not in plugged.ip("link"))
        plugged.wait("the first again", lambda: "fd05::7" in plugged.ip("addr"))
        plugged.wait("the MTU again", lambda: "mtu 1500" in plugged.ip("link", "show", "eth0"))
        plugged.wait("no more", lambda: "10.5.0.8" not in plugged.ip("addr"))
        assert says_back(talk, "at last")
    assert "inet 10.5.0.7" not in monitor.read_text()
    assert "Deleted default via 10.5.0.1" not in monitor.read_text()


def test_a_restart_with_the_same_document_changes_nothing(plugged: Node) -> None:
    with own_server(plugged, seconds=600) as server:
        plugged.plug("eth1")
        plugged.configure(
            BRIDGE + 'advertisements = false\n[network.links.eth1]\naddresses = ["10.9.0.7/24"]\n'
            'gateway = "10.9.0.1"'
        )
        plugged.start()
        plugged.wait_for_line("br0: default route via 10.78.0.1")
        plugged.wait("the other", lambda: "default via 10.9.0.1" in plugged.ip("route"))
        plugged.wait("the port", lambda: plugged.status["eth0"]["master"] == "br0")
        # The kernel reports its own addresses once nobody else is found to have them.
        plugged.wait("all to be settled", lambda: "tentative" not in plugged.ip("addr"))
        before = heard(server)
        monitor = plugged.folder / "monitor"
        with in_namespace(plugged.name, ["ip", "monitor", "link", "address", "route"], monitor):
            plugged.stop(kill=True)
            (plugged.folder / "log").unlink()
            plugged.start()
            plugged.wait_for_line("br0: going on with 10.78.0.50/24")
            plugged.wait_for_line("eth1: found")
            plugged.plug("eth9")
            plugged.wait_for_line("eth9: up")
            plugged.wait("the reports", lambda: "eth9" in monitor.read_text())
        text = monitor.read_text()
        assert "Deleted" not in text
        assert not re.search(r"eth1|br0|10\.78|10\.9", text), text
        assert heard(server) == before


def test_a_bridge_has_what_dhcp_and_the_router_give_and_its_port_has_it_back(
    plugged: Node,
) -> None:
    with dnsmasq(plugged):
        plugged.start()
        plugged.wait("IPv4", lambda: "inet 10.77.0." in plugged.ip("addr", "show", "eth0"))
        plugged.wait("IPv6", lambda: "inet6 fd77:" in plugged.ip("addr", "show", "eth0"))
        plugged.wait("the router", lambda: "default via fe80:" in plugged.ip("-6", "route"))
        plugged.configure(BRIDGE)
        plugged.wait("the bridge", lambda: "br0" in plugged.ip("link"))
        plugged.wait("IPv4", lambda: "inet 10.77.0." in plugged.ip("addr", "show", "br0"))
        plugged.wait("IPv6", lambda: "inet6 fd77:" in plugged.ip("addr", "show", "br0"))
        plugged.wait("MTU", lambda: "mtu 1400" in plugged.ip("link", "show", "br0"))
        plugged.wait("the router", lambda: "default via fe80:" in plugged.ip("-6", "route"))
        port = plugged.ip("addr", "show", "eth0")
        assert "10.77" not in port
        assert "fd77" not in port
        assert "dev eth0" not in plugged.ip("route")
        plugged.wait("the status", lambda: plugged.status["br0"]["kind"] == "bridge")
        plugged.configure("")
        plugged.wait("IPv4", lambda: "inet 10.77.0." in plugged.ip("addr", "show", "eth0"))
        plugged.wait("IPv6", lambda: "inet6 fd77:" in plugged.ip("addr", "show", "eth0"))
        assert "br0" not in plugged.ip("link")
        assert not (plugged.folder / "run/network/br0.json").exists()


def test_what_routers_said_goes_when_the_document_says_no(plugged: Node) -> None:
    with dnsmasq(plugged):
        plugged.start()
        plugged.wait("IPv4", lambda: "inet 10.77.0." in plugged.ip("addr", "show", "eth0"))
        plugged.wait("IPv6", lambda: "inet6 fd77:" in plugged.ip("addr", "show", "eth0"))
        plugged.wait("the router", lambda: "default via fe80:" in plugged.ip("-6", "route"))
        plugged.wait("its server", lambda: "fd77::53" in plugged.resolv_conf)
        plugged.configure("[network.links.eth0]\nadvertisements = false")
        plugged.wait("no IPv6", lambda: "fd77" not in plugged.ip("addr"))
        plugged.wait("no router", lambda: "default" not in plugged.ip("-6", "route"))
        plugged.wait("not its server", lambda: "fd77::53" not in plugged.resolv_conf)
        assert "inet 10.77.0." in plugged.ip("addr", "show", "eth0")
        plugged.configure("")
        plugged.wait("IPv6 again", lambda: "inet6 fd77:" in plugged.ip("addr", "show", "eth0"))


def test_the_command_line_goes_before_the_document(plugged: Node) -> None:
    plugged.command_line = "ip=10.4.0.7::10.4.0.1:24:node7:eth0:off nameserver=10.4.0.53"
    plugged.configure('hostname = "web1"\n[network]\nnameservers = ["10.5.0.53"]\n' + STATIC)
    plugged.start()
    plugged.wait("the route", lambda: "default via 10.4.0.1" in plugged.ip("route"))
    plugged.wait("DNS", lambda: "server 10.4.0.53\nnameserver 10.5.0.53" in plugged.resolv_conf)
    plugged.wait_for_line("hostname node7")
    plugged.configure(BRIDGE)
    plugged.wait_for_line("eth0: no port of br0: ip= is for it")
    plugged.wait("the bridge", lambda: "br0" in plugged.ip("link"))
    assert "10.5.0" not in plugged.ip("addr")
    assert "inet 10.4.0.7/24" in plugged.ip("addr", "show", "eth0")


def test_a_card_gets_the_name_that_its_address_has_in_the_document(plugged: Node) -> None:
    with own_server(plugged, seconds=600) as server:
        plugged.plug("eth1")
        # What is hardware is told by name here.
        for name in ("lan0", "eth2"):
            (plugged.folder / f"sys/class/net/{name}/device").mkdir(parents=True)
        plugged.start()
        plugged.wait_for_line("eth0: default route via 10.78.0.1")
        mac = plugged.status["eth0"]["mac"]
        asked = heard(server)
        plugged.configure(f'[network.links.lan0]\nmac = "{mac}"\nadvertisements = false')
        plugged.wait("the name", lambda: "lan0" in plugged.ip("addr"))
        plugged.wait_for_line("lan0: going on with 10.78.0.50/24")
        assert "default via 10.78.0.1 dev lan0" in plugged.ip("route")
        assert heard(server) == asked
        # Another has that name: it goes out of the way.
        plugged.configure(f'[network.links.eth1]\nmac = "{mac}"')
        plugged.wait(
            "the name", lambda: re.search(r"10\.78\.0\.50/24 .* eth1\n", plugged.ip("addr"))
        )
        plugged.wait("the other's", lambda: plugged.status.keys() == {"eth0", "eth1"})


def test_a_link_of_others_is_neither_taken_nor_removed(plugged: Node) -> None:
    plugged.ip("link", "add", "br0", "type", "bridge")
    plugged.configure(BRIDGE)
    plugged.start()
    plugged.wait_for_line("br0: bridge made: failed: File exists")
    plugged.wait_for_line("eth0: up")
    plugged.configure("")
    plugged.configure("[network.links.eth0]\nmtu = 1400")
    plugged.wait("the change", lambda: "mtu 1400" in plugged.ip("link", "show", "eth0"))
    assert "master" not in plugged.ip("link", "show", "eth0")
    assert "state DOWN" in plugged.ip("link", "show", "br0")


def test_workloads_keep_their_ports_in_a_bridge_that_changes(plugged: Node) -> None:
    plugged.configure(BRIDGE + 'addresses = ["10.5.0.7/24"]\nadvertisements = false')
    plugged.start()
    plugged.wait("the port", lambda: "master br0" in plugged.ip("link", "show", "eth0"))
    plugged.ip("link", "add", "v0", "type", "veth", "peer", "name", "v1")
    plugged.ip("link", "set", "v0", "master", "br0")
    plugged.configure(
        '[network.links.br0]\nkind = "bridge"\nstp = true\naddresses = ["10.5.0.8/24"]\n'
        "advertisements = false\n[network.links.eth0]\ndhcp = false"
    )
    plugged.wait("no port", lambda: "master" not in plugged.ip("link", "show", "eth0"))
    plugged.wait("the address", lambda: "10.5.0.8" in plugged.ip("addr"))
    plugged.wait("STP", lambda: "stp_state 1" in plugged.ip("-d", "link", "show", "br0"))
    assert "master br0" in plugged.ip("link", "show", "v0")


def test_what_the_document_dropped_while_the_service_was_away_is_removed(plugged: Node) -> None:
    plugged.configure(BRIDGE + 'addresses = ["10.5.0.7/24"]')
    plugged.start()
    plugged.wait("the address", lambda: "10.5.0.7/24" in plugged.ip("addr"))
    plugged.wait("the port", lambda: "master br0" in plugged.ip("link", "show", "eth0"))
    plugged.stop(kill=True)
    plugged.configure('[network.links.eth0]\naddresses = ["10.5.0.9/24"]')
    plugged.start()
    plugged.wait("the other", lambda: "10.5.0.9/24" in plugged.ip("addr", "show", "eth0"))
    assert "br0" not in plugged.ip("link")
    assert "10.5.0.7" not in plugged.ip("addr")


def test_a_document_that_cannot_be_used_changes_nothing_and_is_named(plugged: Node) -> None:
    plugged.configure(STATIC)
    plugged.start()
    plugged.wait("the route", lambda: "default via 10.5.0.1" in plugged.ip("route"))
    plugged.configure("[network.links.eth0]\nmtu = 5")
    plugged.wait_for_line("network.links.eth0.mtu: is 5, and must be a whole number from 68")
    (plugged.folder / "run/config.json").write_text("{")
    plugged.wait("the line", lambda: plugged.log.count("the network stays as it is") == 2)
    assert "default via 10.5.0.1" in plugged.ip("route")
    plugged.configure('[network.links.eth0]\naddresses = ["10.5.0.9/24"]')
    plugged.wait("the next", lambda: "10.5.0.9/24" in plugged.ip("addr"))
    assert "10.5.0.7" not in plugged.ip("addr")


def test_the_same_address_by_dhcp_and_by_the_document_stays(plugged: Node) -> None:
    with own_server(plugged, seconds=600):
        plugged.start()
        plugged.wait_for_line("default route via 10.78.0.1")
        monitor = plugged.folder / "monitor"
        with in_namespace(plugged.name, ["ip", "monitor", "address", "route"], monitor):
            plugged.configure(
                '[network.links.eth0]\naddresses = ["10.78.0.50/24"]\ngateway = "10.78.0.1"\n'
                "advertisements = false"
            )
            plugged.wait(
                "the document's",
                lambda: "valid_lft forever" in plugged.ip("-4", "addr", "show", "eth0"),
            )
            plugged.wait(
                "its route", lambda: "via 10.78.0.1 dev eth0 proto 97" in plugged.ip("route")
            )
            plugged.wait("one route", lambda: plugged.ip("route").count("default") == 1)
            plugged.ip("addr", "add", "10.99.0.1/24", "dev", "eth0")
            plugged.wait("the reports", lambda: "10.99.0.1" in monitor.read_text())
        assert "Deleted 2: eth0    inet 10.78.0.50" not in monitor.read_text()
        wanted = {"address": "10.78.0.50/24", "origin": "config"}
        plugged.wait("the status", lambda: wanted in plugged.status["eth0"]["addresses"])


@pytest.mark.parametrize("name", CUT_OFF)
def test_from_every_bad_document_the_way_back_leads_to_where_it_was(
    plugged: Node, name: str
) -> None:
    with own_server(plugged, seconds=600):
        plugged.start()
        plugged.wait_for_line("default route via 10.78.0.1")
        plugged.wait("rest", lambda: plugged.status["eth0"]["default_routes"])
        before = state(plugged)
        reads = plugged.log.count("configuration read")
        plugged.configure(CUT_OFF[name])
        plugged.wait("reading", lambda: plugged.log.count("configuration read") > reads)
        plugged.plug("eth5")
        plugged.wait_for_line("eth5: up")
        plugged.ip("link", "del", "eth5")
        plugged.configure("")
        plugged.wait("the old address", lambda: "10.78.0.50/24" in plugged.ip("addr"))
        plugged.wait(f"what it was: {before}", lambda: state(plugged) == before)
