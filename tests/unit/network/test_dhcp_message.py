"""DHCP messages as bytes, and the leases that they grant."""

import struct
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

import pytest

from initd.network.dhcp.message import COOKIE, Kind, Message, Option, decode, encode, lease_of

MAC = bytes.fromhex("525400123456")
SERVER = IPv4Address("192.0.2.1")


def answer(
    *options: tuple[int, bytes], kind: Kind = Kind.ACK, yours: str = "192.0.2.50"
) -> Message:
    given: dict[int, bytes] = {
        Option.SERVER: SERVER.packed,
        Option.SECONDS: (3600).to_bytes(4, "big"),
    }
    return Message(
        kind=kind,
        xid=7,
        mac=MAC,
        reply=True,
        yours=IPv4Address(yours),
        options={**given, **dict(options)},
    )


def raw(options: bytes, *, file: bytes = b"", name: bytes = b"", cookie: bytes = COOKIE) -> bytes:
    fixed = struct.pack("!BBBBIHH16s16s64s128s", 2, 1, 6, 0, 7, 0, 0, b"", MAC, name, file)
    return fixed + cookie + options


def test_a_discover_is_the_bytes_of_the_standard() -> None:
    message = Message(
        kind=Kind.DISCOVER,
        xid=0x01020304,
        mac=MAC,
        seconds=3,
        options={Option.CLIENT: b"\x01" + MAC},
    )
    expected = (
        bytes.fromhex("010106000102030400030000")
        + bytes(16)
        + MAC
        + bytes(10 + 64 + 128)
        + bytes.fromhex("63825363" + "350101" + "3d0701525400123456" + "ff")
    )
    assert encode(message) == expected.ljust(300, b"\0")


def test_what_is_encoded_is_decoded_again() -> None:
    message = answer((Option.DNS, SERVER.packed), (Option.SEARCH, b"\x01" * 600))
    assert decode(encode(message)) == message


def test_options_go_on_in_file_and_server_name() -> None:
    data = raw(
        b"\x35\x01\x05\x34\x01\x03\xff",
        file=b"\x03\x04\x0a\x00\x00\x01\xff",
        name=b"\x06\x04\x0a\x00\x00\x02\xff",
    )
    options = decode(data).options
    assert options[Option.ROUTER] == bytes((10, 0, 0, 1))
    assert options[Option.DNS] == bytes((10, 0, 0, 2))


def test_an_option_in_two_parts_is_one() -> None:
    data = raw(b"\x35\x01\x05" + b"\x77\x02\x01a" + b"\x00" + b"\x77\x01\x00" + b"\xff")
    assert decode(data).options[Option.SEARCH] == b"\x01a\x00"


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (b"", "too few"),
        (raw(b"")[:239], "too few"),
        (raw(b"", cookie=b"abcd"), "BOOTP"),
        (raw(b"\xff"), "message type missing"),
        (raw(b"\x35\x01\x63\xff"), "message type 63"),
        (raw(b"\x35\x02\x05\x05\xff"), "message type 0505"),
        (raw(b"\x35\x01\x05\x03"), "option 3: cut off"),
        (raw(b"\x35\x01\x05\x03\x04\x0a"), "option 3: cut off"),
        (b"\x02\x06" + raw(b"\x35\x01\x05\xff")[2:], "not for Ethernet"),
        (b"\x07" + raw(b"\x35\x01\x05\xff")[1:], "not for Ethernet"),
    ],
)
def test_malformed_bytes_are_refused(data: bytes, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        decode(data)


def test_every_cut_of_a_message_is_refused_or_understood() -> None:
    whole = encode(answer((Option.ROUTES, b"\x00\x0a\x00\x00\x01"), (Option.SEARCH, b"\x01a\x00")))
    for length in range(len(whole)):
        try:
            decode(whole[:length])
        except ValueError:
            continue


def test_a_lease_has_all_that_the_server_says() -> None:
    lease = lease_of(
        answer(
            (Option.MASK, bytes((255, 255, 255, 0))),
            (Option.ROUTER, SERVER.packed + bytes((192, 0, 2, 2))),
            (Option.DNS, bytes((192, 0, 2, 53, 192, 0, 2, 54))),
            (Option.NTP, bytes((192, 0, 2, 123))),
            (Option.MTU, (1400).to_bytes(2, "big")),
            (Option.HOSTNAME, b"node-7\0"),
            (Option.DOMAIN, b"example.org"),
            (Option.RENEW, (600).to_bytes(4, "big")),
            (Option.REBIND, (1200).to_bytes(4, "big")),
        ),
        requested=1000.0,
    )
    assert lease.address == IPv4Interface("192.0.2.50/24")
    assert lease.server == SERVER
    assert (lease.renew, lease.rebind, lease.expires) == (1600.0, 2200.0, 4600.0)
    assert lease.routes == ((IPv4Network("0.0.0.0/0"), SERVER),)
    assert [str(server) for server in lease.nameservers] == ["192.0.2.53", "192.0.2.54"]
    assert [str(server) for server in lease.timeservers] == ["192.0.2.123"]
    assert (lease.mtu, lease.hostname, lease.search) == (1400, "node-7", ("example.org",))


def test_classless_routes_replace_the_router() -> None:
    routes = bytes.fromhex("00 0a000001  18c0a809 0a000003  20 0a000001 00000000  08ac 0a000002")
    lease = lease_of(answer((Option.ROUTES, routes), (Option.ROUTER, SERVER.packed)), 0.0)
    assert lease.routes == (
        (IPv4Network("0.0.0.0/0"), IPv4Address("10.0.0.1")),
        (IPv4Network("192.168.9.0/24"), IPv4Address("10.0.0.3")),
        (IPv4Network("10.0.0.1/32"), None),
        (IPv4Network("172.0.0.0/8"), IPv4Address("10.0.0.2")),
    )


@pytest.mark.parametrize("routes", [b"\x21" + bytes(9), b"\x18\xc0\xa8", b"\x00\x0a\x00"])
def test_broken_classless_routes_leave_the_router(routes: bytes) -> None:
    lease = lease_of(answer((Option.ROUTES, routes), (Option.ROUTER, SERVER.packed)), 0.0)
    assert lease.routes == ((IPv4Network("0.0.0.0/0"), SERVER),)


def test_a_compressed_search_list_is_read() -> None:
    names = b"\x03eng\x05apple\x03com\x00" + b"\x09marketing\xc0\x04"
    lease = lease_of(answer((Option.SEARCH, names), (Option.DOMAIN, b"other")), 0.0)
    assert lease.search == ("eng.apple.com", "marketing.apple.com")


@pytest.mark.parametrize("names", [b"\xc0\x00", b"\x05ab", b"\x04a b\n\x00", b"\x40a\x00"])
def test_a_broken_search_list_leaves_the_domain(names: bytes) -> None:
    lease = lease_of(answer((Option.SEARCH, names), (Option.DOMAIN, b"example.org")), 0.0)
    assert lease.search == ("example.org",)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        (Option.HOSTNAME, b"a\nnameserver 6.6.6.6"),
        (Option.HOSTNAME, b"\xff\xfe"),
        (Option.DOMAIN, b"a b"),
        (Option.MTU, b"\x00\x44"),
        (Option.MTU, b"\x05"),
        (Option.DNS, b"\x01\x02\x03"),
        (Option.ROUTER, bytes(4)),
    ],
)
def test_a_useless_option_is_as_if_it_were_not_there(option: Option, value: bytes) -> None:
    assert lease_of(answer((option, value)), 0.0) == lease_of(answer(), 0.0)


@pytest.mark.parametrize(("renew", "rebind"), [(0, 0), (5000, 6000), (2000, 1000), (100, 3600)])
def test_senseless_times_give_the_defaults(renew: int, rebind: int) -> None:
    times = ((Option.RENEW, renew.to_bytes(4, "big")), (Option.REBIND, rebind.to_bytes(4, "big")))
    lease = lease_of(answer(*times), 0.0)
    if (renew, rebind) == (0, 0):
        assert (lease.renew, lease.rebind) == (1800.0, 3150.0)
    assert lease.renew is not None
    assert lease.rebind is not None
    assert 0 < lease.renew < lease.rebind < 3600


def test_a_lease_may_never_end() -> None:
    lease = lease_of(answer((Option.SECONDS, b"\xff" * 4)), 0.0)
    assert (lease.expires, lease.renew, lease.rebind) == (None, None, None)


@pytest.mark.parametrize(
    ("address", "length"), [("10.1.2.3", 8), ("172.16.0.1", 16), ("192.0.2.9", 24)]
)
def test_without_a_mask_the_class_counts(address: str, length: int) -> None:
    assert lease_of(answer(yours=address), 0.0).address.network.prefixlen == length


@pytest.mark.parametrize("address", ["0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255"])
def test_an_address_of_no_host_is_no_lease(address: str) -> None:
    with pytest.raises(ValueError, match="no address for a host"):
        lease_of(answer(yours=address), 0.0)


@pytest.mark.parametrize("missing", [Option.SERVER, Option.SECONDS])
def test_a_lease_needs_its_server_and_its_time(missing: Option) -> None:
    message = answer()
    options = {code: value for code, value in message.options.items() if code != missing}
    with pytest.raises(ValueError, match=r"missing|not 4"):
        lease_of(replace(message, options=options), 0.0)


def test_a_mask_with_holes_is_no_lease() -> None:
    with pytest.raises(ValueError, match="netmask"):
        lease_of(answer((Option.MASK, bytes((255, 0, 255, 0)))), 0.0)
