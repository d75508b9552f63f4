"""rtnetlink messages: what is asked of the kernel, and what it reports."""

import struct
import subprocess
import sys
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Network, ip_address, ip_interface

import pytest

from initd.network import codec
from initd.network.model import Address, IPNetwork, Link, Origin, Route


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def link_report(*attributes: bytes, flags: int = 0x11043, hardware: int = 1) -> bytes:
    body = struct.pack("=BxHiII", 0, hardware, 7, flags, 0) + b"".join(attributes)
    return struct.pack("=IHHII", 16 + len(body), codec.RTM_NEWLINK, 0, 0, 0) + body


NAME = attribute(3, b"eth0\0")
MAC = attribute(1, bytes.fromhex("525400123456"))
MTU = attribute(4, struct.pack("=I", 1500))
CARRIER = attribute(33, b"\x01")


def test_a_link_is_read() -> None:
    one = codec.decode_link(link_report(NAME, MAC, MTU, CARRIER))
    assert one.link == Link(7, "eth0", bytes.fromhex("525400123456"), 1500, up=True, carrier=True)
    assert (one.ethernet, one.master) == (True, 0)


def test_a_link_that_is_down_has_no_carrier_whatever_it_says() -> None:
    assert not codec.decode_link(link_report(NAME, MAC, MTU, CARRIER, flags=0)).link.carrier


def test_loopback_is_no_ethernet_and_a_port_has_a_master() -> None:
    assert not codec.decode_link(link_report(NAME, hardware=772)).ethernet
    master = attribute(10, struct.pack("=I", 9))
    assert codec.decode_link(link_report(NAME, MAC, master)).master == 9


@pytest.mark.parametrize(
    ("text", "expires"), [("192.0.2.5/24", None), ("192.0.2.5/32", 700.0), ("2001:db8::5/64", None)]
)
def test_an_address_asked_for_is_the_one_reported(text: str, expires: float | None) -> None:
    address = Address(7, ip_interface(text), Origin.DHCP, 1031, expires)
    assert codec.decode_address(codec.add_address(address, 100.0), 100.0) == address


def test_addresses_of_others_are_not_looked_at() -> None:
    request = codec.remove_address(Address(7, ip_interface("192.0.2.5/24"), Origin.DHCP, 0))
    assert codec.decode_address(request, 0.0) is None


@pytest.mark.parametrize(
    ("destination", "gateway", "source"),
    [
        (IPv4Network("0.0.0.0/0"), "192.0.2.1", IPv4Address("192.0.2.5")),
        (IPv4Network("198.51.100.0/24"), None, None),
        (IPv6Network("::/0"), "fe80::1", None),
    ],
)
def test_a_route_asked_for_is_the_one_reported(
    destination: IPNetwork, gateway: str | None, source: IPv4Address | None
) -> None:
    via = None if gateway is None else ip_address(gateway)
    route = Route(7, destination, via, Origin.STATIC, 519, source, onlink=via is not None)
    request = codec.add_route(route)
    assert codec.decode_route(request) == route
    assert codec.origin_of_route(request) == Origin.STATIC


def test_an_address_tells_its_link_without_being_decoded() -> None:
    request = codec.add_address(Address(7, ip_interface("192.0.2.5/24"), Origin.DHCP, 0), 0.0)
    assert codec.link_of_address(request) == 7


def test_setting_a_link_up_leaves_its_other_flags() -> None:
    request = codec.set_link(7, up=True, mtu=1400, mac=None)
    assert struct.unpack_from("=iII", request, 20) == (7, 1, 1)
    assert request[32:] == attribute(4, struct.pack("=I", 1400))
    assert struct.unpack_from("=II", codec.set_link(7, up=None, mtu=1400, mac=None), 24) == (0, 0)


@pytest.mark.parametrize("length", [0, 15, 16, 30, 34])
def test_a_message_that_is_cut_off_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match="netlink message"):
        codec.decode_link(link_report(NAME, MAC)[:length])


def test_what_one_read_gave_is_split_into_messages() -> None:
    one, other = codec.dump_links(), codec.dump_addresses(7)
    assert list(codec.split(one + other)) == [one, other]
    assert list(codec.split(one + other[:-1])) == [one]
    assert list(codec.split(one + bytes(16))) == [one]


def test_most_of_pyroute2_stays_out_of_memory() -> None:
    program = (
        "import sys, initd.network.codec as c; c.decode_link(c.dump_links()); c.dump_routes(4, 4);"
        "print(*({'sqlite3', 'asyncio', 'pyroute2.ndb', 'pyroute2.iproute'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, check=True, text=True)
    assert done.stdout.strip() == ""


def test_a_link_asked_for_is_the_one_reported_and_known_for_ours() -> None:
    options = (("mode", 4), ("miimon", 100), ("lacp-rate", 1), ("hash-policy", 1))
    request = codec.create_link("bond0", "bond", options, parent=None, mac=b"\x02" * 6)
    one = codec.decode_link(request)
    assert (one.link.name, one.kind, one.link.mac) == ("bond0", "bond", b"\x02" * 6)
    assert one.options == options
    vlan = codec.decode_link(codec.create_link("v5", "vlan", (("id", 5),), parent=7, mac=None))
    assert (vlan.parent, vlan.options) == (7, (("id", 5),))
    bridge = codec.decode_link(
        codec.create_link("br0", "bridge", (("stp", 1),), parent=None, mac=None)
    )
    assert bridge.options == (("stp", 1),)
    assert one.ours
    assert vlan.ours
    assert bridge.ours


def test_links_of_others_and_of_other_kinds_are_not_ours() -> None:
    request = codec.create_link("br0", "bridge", (), parent=None, mac=None)
    one = codec.decode_link(request)
    assert not replace(one, group=0).ours
    assert not replace(one, kind="veth").ours
    assert not codec.decode_link(link_report(NAME, MAC)).ours


def test_a_card_is_known_by_its_own_address_even_as_a_port() -> None:
    permanent = attribute(54, bytes.fromhex("525400999999"))
    assert codec.decode_link(link_report(NAME, MAC, permanent)).hardware.hex() == "525400999999"
    assert codec.decode_link(link_report(NAME, MAC)).hardware.hex() == "525400123456"


def test_a_master_is_set_and_taken_away() -> None:
    assert codec.decode_link(codec.set_master(7, 9)).master == 9
    request = codec.set_master(7, 0)
    assert request[32:] == attribute(10, bytes(4))
    assert codec.decode_link(codec.rename_link(7, "lan0")).link.name == "lan0"


def test_routes_of_the_document_have_a_number_of_their_own() -> None:
    route = Route(7, IPv4Network("10.0.0.0/8"), None, Origin.DOCUMENT, 5)
    request = codec.add_route(route)
    assert codec.decode_route(request) == route
    assert codec.origin_of_route(request) == 97
