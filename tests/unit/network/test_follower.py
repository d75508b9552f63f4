"""The merged document as the service reads it, and what it tells of the outcome."""

import json
import logging
import select
import subprocess
import sys
from ipaddress import IPv4Address, IPv4Network, ip_address, ip_interface
from pathlib import Path

import pytest

from initd.network import status
from initd.network.follower import Follower
from initd.network.model import Address, Link, Origin, Route, Settings
from initd.network.resolver import Resolver


def write(folder: Path, values: object) -> None:
    new = folder / ".config.json.new"
    new.write_text(json.dumps({"values": values, "origin": {}}))
    new.replace(folder / "config.json")


def hears(follower: Follower) -> bool:
    return bool(select.select([follower], [], [], 5)[0]) and follower.heard()


def test_a_document_is_heard_of_and_read_once(tmp_path: Path) -> None:
    follower = Follower(tmp_path / "run")
    assert not follower.load()
    assert follower.settings == Settings()
    write(tmp_path / "run", {"hostname": "web1", "network": {"nameservers": ["10.0.0.53"]}})
    assert hears(follower)
    assert follower.load()
    assert not follower.load()
    assert follower.settings == Settings(nameservers=(ip_address("10.0.0.53"),), hostname="web1")


def test_other_files_are_not_its_business(tmp_path: Path) -> None:
    follower = Follower(tmp_path)
    (tmp_path / "resolv.conf").write_text("")
    assert not hears(follower)


def test_the_same_network_by_another_document_is_no_change(tmp_path: Path) -> None:
    follower = Follower(tmp_path)
    write(tmp_path, {"network": {"search": ["a.example"]}, "watchdog": 5})
    assert follower.load()
    write(tmp_path, {"network": {"search": ["a.example"]}, "watchdog": 6})
    assert not follower.load()


def test_without_a_document_there_is_nothing_and_it_may_go_away(tmp_path: Path) -> None:
    follower = Follower(tmp_path)
    write(tmp_path, {"network": {"search": ["a.example"]}})
    assert follower.load()
    (tmp_path / "config.json").unlink()
    assert hears(follower)
    assert follower.load()
    assert follower.settings == Settings()


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        '{"values": []}',
        '{"values": {"network": 5}}',
        '{"values": {"network": {"links": {"eth0": {"mtu": 5}}}}}',
        '{"values": {"network": {"links": []}}}',
        "[" * 100_000,
    ],
)
def test_what_cannot_be_used_is_said_and_changes_nothing(
    tmp_path: Path, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    follower = Follower(tmp_path)
    write(tmp_path, {"network": {"search": ["a.example"]}})
    follower.load()
    (tmp_path / "config.json").write_text(content)
    with caplog.at_level(logging.WARNING):
        assert not follower.load()
    assert "the network stays as it is" in caplog.text
    assert follower.settings.search == ("a.example",)


def test_without_a_document_what_describes_one_is_not_imported() -> None:
    program = (
        "import sys, initd.network.__main__;"
        "print(*{'initd.configuration.tables', 'initd.network.document', 'difflib', 'tomllib'}"
        ".intersection(sys.modules))"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, check=True, text=True)
    assert done.stdout.strip() == ""


def test_the_status_has_links_addresses_with_their_origin_and_ways_out() -> None:
    link = Link(2, "eth0", b"\x02" * 6, 1500, up=True, carrier=True)
    router = IPv4Address("10.0.0.1")
    addresses = (
        Address(2, ip_interface("10.0.0.2/24"), Origin.DOCUMENT, 514),
        Address(2, ip_interface("fd00::2/64"), Origin.ADVERTISED, 0, 100.0),
    )
    routes = (
        Route(2, IPv4Network("0.0.0.0/0"), router, Origin.DOCUMENT, 514),
        Route(2, IPv4Network("10.1.0.0/16"), router, Origin.DOCUMENT, 514),
    )
    one = status.LinkStatus(link, "ethernet", None, addresses, routes)
    value = json.loads(status.encode((one,), Resolver(("10.0.0.53",), ()), ("x: failed",)))
    assert value == {
        "links": [
            {
                "name": "eth0",
                "kind": "ethernet",
                "master": None,
                "mac": "02:02:02:02:02:02",
                "up": True,
                "carrier": True,
                "mtu": 1500,
                "addresses": [
                    {"address": "10.0.0.2/24", "origin": "config"},
                    {"address": "fd00::2/64", "origin": "router"},
                ],
                "default_routes": [{"gateway": "10.0.0.1", "metric": 514, "origin": "config"}],
            }
        ],
        "nameservers": ["10.0.0.53"],
        "search": [],
        "problems": ["x: failed"],
    }
