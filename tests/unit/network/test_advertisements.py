"""DNS servers and search domains that routers advertise."""

import struct
from ipaddress import IPv6Address

import pytest

from initd.network.advertisements import Advice, advised, decode
from initd.network.model import Advertised, Advertisements

NAMES = b"\x03six\x07example\x00\x01a\x00"


def report(option: bytes, *, icmp: int = 134) -> bytes:
    return struct.pack("=BxHiBB6x", 10, len(option), 3, icmp, 0) + option


def rdnss(seconds: int, *servers: str) -> bytes:
    packed = b"".join(IPv6Address(server).packed for server in servers)
    return bytes((25, 1 + 2 * len(servers), 0, 0)) + seconds.to_bytes(4, "big") + packed


def dnssl(seconds: int, names: bytes) -> bytes:
    names += bytes(-len(names) % 8)
    return bytes((31, 1 + len(names) // 8, 0, 0)) + seconds.to_bytes(4, "big") + names


def test_name_servers_are_read() -> None:
    data = report(rdnss(600, "fe80::1", "2001:db8::53")) + b"trailing"
    assert decode(data) == Advice(3, 600, nameservers=("fe80::1", "2001:db8::53"))


def test_search_domains_are_read_without_their_padding() -> None:
    assert decode(report(dnssl(600, NAMES))) == Advice(3, 600, search=("six.example", "a"))


def test_what_is_about_something_else_is_nothing() -> None:
    assert decode(report(rdnss(600, "fe80::1"), icmp=137)) is None
    assert decode(report(b"\x26\x02" + bytes(14))) is None
    assert decode(report(rdnss(600, "fe80::1")[:-4])) is None


@pytest.mark.parametrize("data", [b"", bytes(16), report(dnssl(600, b"\x07a"))])
def test_what_is_cut_off_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"cut off"):
        decode(data)


def test_advice_holds_for_its_time_and_can_be_renewed_and_taken_back() -> None:
    known = advised(Advertisements(), Advice(3, 60, nameservers=("fe80::1", "fe80::2")), 100.0)
    assert known.expires == 160.0
    known = advised(known, Advice(3, 60, nameservers=("fe80::1",)), 150.0)
    assert known.nameservers == (Advertised("fe80::1", 210.0), Advertised("fe80::2", 160.0))
    assert known.at(160.0).nameservers == (Advertised("fe80::1", 210.0),)
    gone = advised(known, Advice(3, 0, nameservers=("fe80::1",)), 155.0)
    assert gone.nameservers == (Advertised("fe80::2", 160.0),)


def test_advice_may_hold_forever() -> None:
    known = advised(Advertisements(), Advice(3, 0xFFFFFFFF, search=("a.example",)), 100.0)
    assert known.expires is None
    assert known.at(1e12) == known


def test_a_router_with_many_names_does_not_fill_the_memory() -> None:
    names = tuple(f"n{number}" for number in range(100))
    assert len(advised(Advertisements(), Advice(3, 60, search=names), 0.0).search) == 8
