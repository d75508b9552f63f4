"""The table `[network]`: what is refused and how it is said, and what the rest means."""

import tomllib
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_interface

import pytest

from initd.network.document import check, settings
from initd.network.model import LinkSettings, Origin, Settings, StaticRoute
from tests.integration.broken_networks import CUT_OFF, REFUSED


def network(text: str) -> dict[str, object]:
    table: dict[str, object] = tomllib.loads(text)["network"]
    return table


def meaning(text: str) -> Settings:
    table = network(text)
    assert check(table) == ()
    return settings(table)


def link(text: str, name: str = "eth0") -> LinkSettings:
    (found,) = (link for link in meaning(text).links if link.device == name)
    return found


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_is_refused_with_its_place_and_a_remedy(name: str) -> None:
    text, message = REFUSED[name]
    assert [str(problem) for problem in check(network(text))] == [message]


@pytest.mark.parametrize("name", CUT_OFF)
def test_what_is_only_unwise_is_allowed(name: str) -> None:
    assert meaning(CUT_OFF[name]).links


def test_all_problems_are_named_at_once() -> None:
    text = "[network.links.a]\nmtu = 1\n[network.links.b]\nmtu = 2\n[network.links.c]\nx = 1"
    paths = [problem.path for problem in check(network(text))]
    assert paths == ["network.links.a.mtu", "network.links.b.mtu", "network.links.c.x"]


@pytest.mark.parametrize(
    ("text", "dhcp", "advertisements"),
    [
        ("", True, True),
        ('addresses = ["10.0.0.2/24"]', False, True),
        ('addresses = ["fd00::2/64"]', True, False),
        ('addresses = ["10.0.0.2/24", "fd00::2/64"]', False, False),
        ('addresses = ["10.0.0.2/24"]\ndhcp = true', True, True),
        ("dhcp = false\nadvertisements = false", False, False),
    ],
)
def test_a_family_with_addresses_of_its_own_asks_for_no_other(
    text: str, dhcp: bool, advertisements: bool
) -> None:
    found = link(f"[network.links.eth0]\n{text}")
    assert (found.dhcp, found.advertisements) == (dhcp, advertisements)


def test_addresses_gateways_and_routes_are_read() -> None:
    found = link(
        '[network.links.eth0]\naddresses = ["10.0.0.2/24", "fd00::2/64"]\nmtu = 9000\n'
        'gateway = ["10.0.0.1", "fe80::1"]\n'
        'routes = [{to = "10.1.0.0/16", via = "10.0.0.9", metric = 7}, {to = "10.2.0.0/16"},'
        ' {to = "default", via = "fd00::9", metric = 9}]'
    )
    assert found.addresses == (ip_interface("10.0.0.2/24"), ip_interface("fd00::2/64"))
    assert found.gateways == (ip_address("10.0.0.1"), ip_address("fe80::1"))
    assert found.routes == (
        StaticRoute(IPv4Network("10.1.0.0/16"), ip_address("10.0.0.9"), 7),
        StaticRoute(IPv4Network("10.2.0.0/16")),
        StaticRoute(IPv6Network("::/0"), ip_address("fd00::9"), 9),
    )
    assert (found.mtu, found.origin, found.virtual) == (9000, Origin.DOCUMENT, None)


def test_a_mac_is_what_a_card_is_found_by_and_what_others_get() -> None:
    mac = bytes.fromhex("525400000001")
    card = link('[network.links.eth0]\nmac = "52:54:00:00:00:01"')
    assert (card.match, card.mac) == (mac, None)
    bridge = link('[network.links.b]\nkind = "bridge"\nmac = "52:54:00:00:00:01"', "b")
    assert (bridge.match, bridge.mac) == (None, mac)


def test_options_have_the_numbers_of_the_kernel() -> None:
    bond = link(
        '[network.links.b]\nkind = "bond"\nports = ["eth0", "eth1"]\nmode = "802.3ad"\n'
        'lacp-rate = "fast"\nhash-policy = "layer3+4"\nmiimon = 50',
        "b",
    ).virtual
    assert bond is not None
    assert bond.options == (("mode", 4), ("miimon", 50), ("lacp-rate", 1), ("hash-policy", 1))
    assert (bond.ports, bond.below) == (("eth0", "eth1"), ("eth0", "eth1"))
    vlan = link('[network.links.v]\nkind = "vlan"\nparent = "eth0"\nid = 4094', "v").virtual
    assert vlan is not None
    assert (vlan.options, vlan.below) == ((("id", 4094),), ("eth0",))


def test_a_bond_looks_at_its_ports_and_prefers_none_unless_told() -> None:
    bond = link('[network.links.b]\nkind = "bond"\nports = ["eth0"]\nprimary = "eth0"', "b").virtual
    assert bond is not None
    assert (bond.options, bond.primary) == ((("mode", 1), ("miimon", 100)), "eth0")


def test_default_routes_of_two_metrics_or_families_are_fine() -> None:
    text = (
        '[network.links.eth0]\naddresses = ["10.0.0.2/24"]\ngateway = "10.0.0.1"\n'
        '[network.links.eth1]\naddresses = ["10.1.0.2/24", "fd00::2/64"]\ngateway = "fd00::1"\n'
        'routes = [{to = "default", via = "10.1.0.1", metric = 2000}]'
    )
    assert len(meaning(text).links) == 2


def test_dns_is_read() -> None:
    found = meaning('[network]\nnameservers = ["10.0.0.53", "fd00::53"]\nsearch = ["a.example."]')
    assert found.nameservers == (ip_address("10.0.0.53"), ip_address("fd00::53"))
    assert found.search == ("a.example",)
    assert settings({}, "web1").hostname == "web1"


def test_time_servers_are_names_or_addresses() -> None:
    time = {"servers": ["ntp1.example.com", "10.0.0.1", "2001:DB8::1"]}
    assert check({}, time) == ()
    found = settings({}, None, time).timeservers
    assert found == ("ntp1.example.com", "10.0.0.1", "2001:db8::1")


@pytest.mark.parametrize(
    "server",
    ["", "a b", "a\nNTP=b", "10.0.0.256", "127.0.0.1", "ntp.example.com:123", "fe80::1%eth0"],
)
def test_what_no_time_server_can_be_called_is_refused(server: str) -> None:
    (problem,) = check({}, {"servers": [server]})
    assert problem.path == "time.servers[0]"
    assert "write a name or an address" in problem.message
