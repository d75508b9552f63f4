"""What a document may say, and what is left of one that is partly wrong."""

import json

import pytest

from initd.configuration import document
from initd.configuration.tables import schema

WHOLE = """
hostname = "web1"
listen = "0.0.0.0:9000"
log-level = "debug"
watchdog = "off"

[sysctls]
"vm.swappiness" = 10
"net.ipv4.ip_forward" = "1"

[disks.data]
device = "LABEL=mine"
filesystem = "ext4"
encryption = "none"

[identity]
spiffe = "unix:/run/agent.sock"
svid-life = 60

[policy]
rules = [{ id = "spiffe://example.org/**", roles = ["reader"] }]

[[cells.cells]]
name = "web"
"""


def test_all_of_it_can_be_read() -> None:
    parsed = document.parse(WHOLE)
    assert parsed.problems == ()
    json.dumps(parsed.values)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("hostnme = 'a'", "hostnme: is not known; did you mean hostname?"),
        ("hostname = 'a_b'", "hostname: 'a_b' is no host name; "),
        ("hostname = 'a..b'", "hostname: 'a..b' is no host name; "),
        ("listen = '8080'", "listen: '8080' is no address; write HOST:PORT"),
        ("listen = '::1:8080'", "listen: '::1:8080' is no address; write HOST:PORT"),
        ("listen = '[::1]:0'", "listen: '[::1]:0' has no port from 1 to 65535 at its end"),
        ("watchdog = 3", "watchdog: is 3, and must be a whole number from 5 to 3600"),
        ("watchdog = 'on'", "watchdog: 'on' is not known; it may be off"),
        ("sysctls = { '..x' = 1 }", 'sysctls."..x": is no name of a sysctl'),
        ("[disks.data]\ndevice = 'sda'", "disks.data.device: 'sda' is none; write off, LABEL="),
        ("[disks.data]\nfilesytem = 'xfs'", "disks.data.filesytem: is not known; did you mean"),
        ("[identity]\nkey = 'x'", "identity.key: is no PEM; write the text"),
        ("[cells]\ncells = {}", "cells.cells: is a table, and must be a list, each a table"),
        ("a = [", "is not TOML: "),
        ("a = 1\na = 2", "is not TOML: "),
        ("a = " + "[" * 5000, "is nested too deep"),
        ("#" * (document.SIZE_LIMIT + 1), "is longer than"),
    ],
)
def test_what_is_wrong_is_said(text: str, wanted: str) -> None:
    assert str(document.parse(text).problems[0]).startswith(wanted)


def test_what_is_no_text_is_refused() -> None:
    assert "UTF-8" in document.parse(b"hostname = '\xff'").problems[0].message


def test_what_is_right_is_left_of_what_is_partly_wrong() -> None:
    left = document.usable({"hostname": "a_b", "x": 1, "sysctls": {"a.b": 1, "..": 1, "c": []}})
    assert left.values == {"sysctls": {"a.b": 1}}
    assert [problem.path for problem in left.problems] == [
        "x",
        "hostname",
        'sysctls.".."',
        "sysctls.c",
    ]


def test_kernel_parameters_are_a_document() -> None:
    values = document.of_command_line(
        'console=ttyS0 aurae.hostname=a aurae.hostname="b" aurae.watchdog=off aurae.svid-life=60 '
        "aurae.sysctl.vm.swappiness=10 aurae.data=LABEL=x aurae.log=loud aurae.unclaim"
    )
    assert values == {
        "hostname": "b",
        "watchdog": "off",
        "identity": {"svid-life": 60},
        "sysctls": {"vm.swappiness": "10"},
        "disks": {"data": {"device": "LABEL=x"}},
    }


def test_keys_know_what_they_are() -> None:
    assert document.is_secret("identity.key")
    assert not document.is_secret("identity.certificate")
    assert document.is_for_boot("disks.data.device")
    assert document.is_for_boot("listen")
    assert not document.is_for_boot('sysctls."vm.swappiness"')
    assert not document.is_for_boot("network.links.eth0.dhcp")


def test_there_is_a_schema_of_it() -> None:
    made = schema(document.DOCUMENT)
    assert set(made["properties"]) >= {"hostname", "network", "disks", "identity", "policy"}
    assert made["properties"]["sysctls"]["additionalProperties"]["anyOf"]
