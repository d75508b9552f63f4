"""resolv.conf, and what is kept for the next run."""

from collections.abc import Sequence
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, ip_address
from pathlib import Path

import pytest

from initd.network.model import Advertised, Advertisements, IPAddress, Lease
from initd.network.resolver import HEADING, Source, resolver
from initd.network.store import Known, Store, write_atomically

MAC = b"\x02\x00\x00\x00\x00\x01"
LEASE = Lease(
    address=IPv4Interface("192.0.2.50/24"),
    server=IPv4Address("192.0.2.1"),
    obtained=100.5,
    seconds=1000,
    renew=600.5,
    rebind=975.5,
    routes=(
        (IPv4Network("0.0.0.0/0"), IPv4Address("192.0.2.1")),
        (IPv4Network("10.0.0.0/8"), None),
    ),
    nameservers=(IPv4Address("192.0.2.53"), IPv4Address("192.0.2.54")),
    timeservers=(IPv4Address("192.0.2.123"),),
    search=("a.example", "b.example"),
    mtu=1400,
    hostname="node-7",
)
ADVERTISED = Advertisements(
    (Advertised("fe80::1", 500.0), Advertised("2001:db8::53", None)),
    (Advertised("six.example", 500.0), Advertised("a.example", 500.0)),
)
FIRST = f"{HEADING}\n"


def resolv_conf(given: list[IPAddress], sources: list[Source], search: Sequence[str] = ()) -> str:
    return resolver(given, search, sources).text


def test_the_command_line_goes_first_then_dhcp_then_routers() -> None:
    text = resolv_conf([ip_address("9.9.9.9")], [Source("eth0", LEASE, ADVERTISED)])
    assert text == (
        FIRST + "nameserver 9.9.9.9\n"
        "nameserver 192.0.2.53\n"
        "nameserver 192.0.2.54\n"
        "search a.example b.example six.example\n"
    )


def test_search_domains_of_the_document_go_first() -> None:
    text = resolv_conf([], [Source("eth0", LEASE, ADVERTISED)], ["mine.example", "a.example"])
    assert text.endswith("search mine.example a.example b.example six.example\n")


def test_a_link_local_server_is_named_with_its_link() -> None:
    text = resolv_conf([], [Source("eth0", None, ADVERTISED)])
    assert text == FIRST + (
        "nameserver fe80::1%eth0\nnameserver 2001:db8::53\nsearch six.example a.example\n"
    )


def test_dhcp_of_every_link_goes_before_what_routers_say() -> None:
    sources = [Source("eth0", None, ADVERTISED), Source("eth1", LEASE, Advertisements())]
    assert "nameserver 192.0.2.53\nnameserver 192.0.2.54\nnameserver fe80" in resolv_conf(
        [], sources
    )


def test_with_nothing_known_the_file_is_valid() -> None:
    assert resolv_conf([], []) == FIRST


def test_what_is_saved_is_loaded_again(tmp_path: Path) -> None:
    store = Store(tmp_path / "network")
    for known in (
        Known(MAC, LEASE, ADVERTISED),
        Known(MAC, replace(LEASE, seconds=None, renew=None, rebind=None)),
        Known(MAC, usual_mtu=1500),
        Known(MAC),
    ):
        store.save("eth0", known)
        assert store.load("eth0", MAC) == known
    assert [path.name for path in (tmp_path / "network").iterdir()] == ["eth0.json"]


def test_another_device_of_that_name_has_nothing_known(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.save("eth0", Known(MAC, LEASE))
    assert store.load("eth0", b"\x02" * 6) == Known(b"\x02" * 6)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"{}", b'{"mac": 7}', b'{"mac": "02", "lease": {}}', b"\xff"]
)
def test_a_broken_file_is_nothing_known(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "eth0.json").write_bytes(content)
    assert Store(tmp_path).load("eth0", MAC) == Known(MAC)


def test_removed_is_removed_even_twice(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.save("eth0", Known(MAC, LEASE))
    store.remove("eth0")
    store.remove("eth0")
    assert list(tmp_path.iterdir()) == []


def test_the_same_content_is_not_written_again(tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    write_atomically(path, b"a")
    inode = path.stat().st_ino
    write_atomically(path, b"a")
    assert path.stat().st_ino == inode
    write_atomically(path, b"b")
    assert path.read_bytes() == b"b"
