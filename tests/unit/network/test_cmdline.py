"""`ip=` and `nameserver=`: what they mean, and what is said where they mean nothing."""

from ipaddress import ip_address, ip_interface

import pytest

from initd.network.cmdline import parse
from initd.network.model import LinkSettings, Settings
from initd.network.topology import settings_of


def test_without_ip_every_link_has_dhcp_and_advertisements() -> None:
    parsed = parse("root=PARTLABEL=a quiet")
    assert parsed.problems == ()
    assert settings_of(parsed.settings, Settings(), ["eth0"]) == {"eth0": LinkSettings()}


def test_a_static_address_has_everything_in_its_place() -> None:
    parsed = parse(
        "ip=192.0.2.5::192.0.2.1:255.255.255.0:web-1:eth1:off:192.0.2.53:192.0.2.54:192.0.2.123"
    )
    assert parsed.problems == ()
    assert parsed.settings.links == (
        LinkSettings(
            device="eth1",
            addresses=(ip_interface("192.0.2.5/24"),),
            gateways=(ip_address("192.0.2.1"),),
            dhcp=False,
            advertisements=False,
        ),
    )
    assert parsed.settings.hostname == "web-1"
    assert [str(s) for s in parsed.settings.nameservers] == ["192.0.2.53", "192.0.2.54"]


def test_ipv6_is_in_brackets_with_a_prefix_length() -> None:
    parsed = parse("ip=[2001:db8::5]::[fe80::1]:64::eth0:none nameserver=[2001:db8::53]")
    (link,) = parsed.settings.links
    assert link.addresses == (ip_interface("2001:db8::5/64"),)
    assert link.gateways == (ip_address("fe80::1"),)
    assert parsed.settings.nameservers == (ip_address("2001:db8::53"),)


def test_the_device_form_takes_mtu_and_mac() -> None:
    (link,) = parse("ip=eth0:dhcp:9000:02:00:00:00:00:07").settings.links
    assert (link.device, link.dhcp, link.mtu) == ("eth0", True, 9000)
    assert link.mac == bytes.fromhex("020000000007")


def test_the_full_form_takes_mtu_and_mac_in_place_of_dns() -> None:
    (link,) = parse("ip=192.0.2.5:::24::eth0:off:1400:02:00:00:00:00:07").settings.links
    assert (link.mtu, link.mac) == (1400, bytes.fromhex("020000000007"))


@pytest.mark.parametrize(
    ("word", "dhcp", "advertisements"),
    [("dhcp", True, True), ("on", True, True), ("auto6", False, True), ("off", False, False)],
)
def test_a_single_word_is_for_links_without_settings(
    word: str, dhcp: bool, advertisements: bool
) -> None:
    default = parse(f"ip={word}").settings.default
    assert (default.dhcp, default.advertisements) == (dhcp, advertisements)


def test_a_static_address_switches_dhcp_off_unless_a_word_says_otherwise() -> None:
    assert not parse("ip=192.0.2.5:::24::eth0").settings.links[0].dhcp
    assert parse("ip=192.0.2.5:::24::eth0:dhcp").settings.links[0].dhcp


def test_several_for_one_device_add_up() -> None:
    parsed = parse(
        "ip=192.0.2.5::192.0.2.1:24::eth0:off ip=[2001:db8::5]::[2001:db8::1]:64::eth0:off"
    )
    link = settings_of(parsed.settings, Settings(), ["eth0"])["eth0"]
    assert len(link.addresses) == len(link.gateways) == 2
    assert not link.dhcp


def test_without_a_device_it_is_for_the_first_link_that_has_none_of_its_own() -> None:
    settings = parse("ip=192.0.2.5:::24 ip=eth0:auto6").settings
    found = settings_of(settings, Settings(), ["eth0", "eth1", "eth2"])
    assert not found["eth0"].addresses
    assert found["eth1"].addresses == (ip_interface("192.0.2.5/24"),)
    assert found["eth2"] == LinkSettings()


def test_fields_without_address_and_device_are_for_every_link() -> None:
    settings = parse("ip=::::node-7::dhcp").settings
    assert settings.hostname == "node-7"
    assert settings.links == ()


def test_aurae_hostname_goes_before_that_of_ip() -> None:
    assert parse("aurae.hostname=a ip=::::b::dhcp").settings.hostname == "a"


def test_what_another_program_reads_from_quotes_is_not_ours() -> None:
    assert parse('foo="bar ip=off" ip=dhcp').settings.default.dhcp


@pytest.mark.parametrize(
    ("parameter", "rule"),
    [
        ("ip=", "nothing is given"),
        ("ip=:::::::", "nothing is given"),
        ("ip=bogus", "neither an address nor one of dhcp"),
        ("ip=eth0:bogus", "'bogus' is not one of dhcp"),
        ("ip=eth0:dhcp6", "'dhcp6' is not one of"),
        ("ip=eth0:dhcp:67", "MTU '67' is not in 68 to 65535"),
        ("ip=eth0:dhcp:1500:01:00:00:00:00:00", "no MAC address of one device"),
        ("ip=eth0:dhcp::zz", "no MAC address"),
        ("ip=10.0.2.300:::24", "address '10.0.2.300' is no IP address"),
        ("ip=10.0.2.5", "the netmask is missing"),
        ("ip=10.0.2.5:::33", "'33' is no netmask or prefix length"),
        ("ip=10.0.2.5:::255.0.255.0", "no netmask"),
        ("ip=10.0.2.5:::0.0.0.255", "no netmask"),
        ("ip=10.0.2.5:::24::a/b", "no name of a device"),
        ("ip=10.0.2.5:::24::this-name-is-long", "no name of a device"),
        ("ip=10.0.2.5:::24:-bad-", "no host name"),
        ("ip=10.0.2.5::10.0.2.x:24", "gateway '10.0.2.x' is no IP address"),
        ("ip=10.0.2.5::[fe80::1]:24", "not of one family"),
        ("ip=224.0.0.1:::24", "no address of one host"),
        ("ip=:::24", "a netmask without an address"),
        ("ip=::10.0.2.2", "a gateway without an address"),
        ("ip=10.0.2.5:::24:::off:1.1.1.1:1.0.0.1:9.9.9.9:x", "too many fields"),
        ("ip=10.0.2.5:::24:::off:dns", "DNS server 'dns' is no IP address"),
        ("ip=[fd00::5:::64", "brackets do not match"),
        ("nameserver=", "nameserver '' is no IP address"),
        ("nameserver=one.one.one.one", "is no IP address"),
        ("aurae.hostname=a_b", "no host name"),
    ],
)
def test_a_bad_value_is_named_with_its_rule_and_the_rest_counts(parameter: str, rule: str) -> None:
    parsed = parse(f"{parameter} nameserver=192.0.2.53")
    (problem,) = parsed.problems
    assert problem.startswith(f"{parameter}: ")
    assert rule in problem
    assert parsed.settings.links == ()
    assert [str(server) for server in parsed.settings.nameservers] == ["192.0.2.53"]
