"""Descriptions of TOML tables: what is read, what is refused and how, and the schema of it."""

import json
import tomllib
from ipaddress import IPv4Interface, ip_interface

import pytest

from initd.configuration.tables import (
    Anything,
    Boolean,
    Either,
    Integer,
    Items,
    Key,
    Problem,
    Read,
    Table,
    Tables,
    Text,
    join,
    read,
    schema,
    split,
)


def _needs_parent(values: object) -> list[Problem]:
    assert isinstance(values, dict)
    if values["kind"] == "vlan" and values["parent"] is None:
        return [Problem("parent", "is missing; name the link that it is on")]
    return []


LINK = Table(
    (
        Key("kind", Text(choices=("ethernet", "vlan")), "what it is", default="ethernet"),
        Key("parent", Text(), "of a VLAN"),
        Key("mtu", Integer(68, 65535), "largest packet, in bytes"),
        Key("dhcp", Boolean(), "ask by DHCPv4", default=True),
        Key("addresses", Items(Text(parse=ip_interface), most=3), "its own"),
        Key("gateway", Either((Text(), Items(Text()))), "the way out"),
    ),
    check=_needs_parent,
)
NETWORK = Table(
    (
        Key("links", Tables(LINK), "links by name"),
        Key("other", Anything(), "somebody else's"),
        Key("name", Text(pattern="[a-z]+", sample="a name such as web"), "its name", required=True),
    )
)


def reading(text: str, table: Table = NETWORK) -> Read:
    return read(table, tomllib.loads(text))


def problems(text: str) -> list[str]:
    return list(map(str, reading(f'name = "web"\n{text}').problems))


def test_values_are_typed_and_those_not_given_have_their_defaults() -> None:
    given = 'name = "a"\n[links.eth0]\naddresses = ["10.0.0.2/24"]\ngateway = "10.0.0.1"'
    values, wrong = reading(given)
    assert not wrong
    link = values["links"]["eth0"]
    assert link["addresses"] == (IPv4Interface("10.0.0.2/24"),)
    assert (link["dhcp"], link["mtu"], link["gateway"]) == (True, None, "10.0.0.1")
    assert values["other"] == {}


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (
            "[links.eth0]\ndchp = false",
            "links.eth0.dchp: is not known; did you mean dhcp?",
        ),
        ("[x.y]", "x: is not known; it may be links, other, name"),
        (
            '[links.eth0]\nmtu = "1500"',
            "links.eth0.mtu: is text, and must be a whole number from 68 to 65535",
        ),
        (
            "[links.eth0]\nmtu = true",
            "links.eth0.mtu: is true, and must be a whole number from 68 to 65535",
        ),
        (
            "[links.eth0]\nmtu = 12",
            "links.eth0.mtu: is 12, and must be a whole number from 68 to 65535",
        ),
        ("[links.eth0]\ndhcp = 1", "links.eth0.dhcp: is a number, and must be true or false"),
        (
            '[links.eth0]\nkind = "vlam"',
            "links.eth0.kind: 'vlam' is not known; did you mean vlan?",
        ),
        (
            '[links."eth0.5"]\nkind = "vlan"',
            'links."eth0.5".parent: is missing; name the link that it is on',
        ),
        (
            "[links.eth0]\ngateway = 5",
            "links.eth0.gateway: is a number, and must be text, or a list, each text",
        ),
        (
            '[links.eth0]\naddresses = ["10.0.0.1/24", 7]',
            "links.eth0.addresses[1]: is a number, and must be text",
        ),
        ("links = 3", "links: is a number, and must be a table"),
        ("[links]\neth0 = []", "links.eth0: is a list, and must be a table"),
        (
            "[other]\nwhen = 2026-01-01",
            "other.when: is a date or time, which no value here may be; write it as text",
        ),
        (
            "[other]\nx = [{y = nan}]",
            (
                "other.x[0].y: is a number with a fraction, which no value here may be; "
                "write it as text"
            ),
        ),
    ],
)
def test_what_is_wrong_is_named_by_its_path(text: str, wanted: str) -> None:
    assert problems(text) == [wanted]


def test_what_parses_a_text_says_what_is_wrong_with_it() -> None:
    (problem,) = problems('[links.eth0]\naddresses = ["10.0.0.1/40"]')
    assert problem.startswith("links.eth0.addresses[0]: '10.0.0.1/40' does not appear to be")


def test_more_items_than_allowed_are_refused() -> None:
    addresses = '"10.0.0.1/24", ' * 4
    (problem,) = problems(f"[links.eth0]\naddresses = [{addresses}]")
    assert problem == "links.eth0.addresses: has 4 items; 3 are the most"


def test_all_problems_are_found_at_once() -> None:
    values, wrong = reading("nmae = 1\n[links.a]\nmtu = 1\n[links.b]\nmtu = 2000")
    assert [problem.path for problem in wrong] == ["nmae", "links.a.mtu", "name"]
    assert values["links"] == {}


@pytest.mark.parametrize("names", [["a", "b-c"], ["links", "eth0.5", "id"], ["x", 'q"\\', "ü"]])
def test_a_path_can_be_split_again(names: list[str]) -> None:
    path = ""
    for name in names:
        path = join(path, name)
    assert split(path) == names


def test_a_path_into_a_list_leads_to_the_list() -> None:
    assert split('a."b[0]".c[1].d') == ["a", "b[0]", "c"]


@pytest.mark.parametrize("path", ["", "a..b", ".a", "a.", 'a."b', "a b"])
def test_what_is_no_path_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="no path"):
        split(path)


def test_the_schema_says_the_same() -> None:
    made = schema(NETWORK)
    json.dumps(made)
    assert made["required"] == ["name"]
    assert made["additionalProperties"] is False
    link = made["properties"]["links"]["additionalProperties"]["properties"]
    assert link["mtu"] == {
        "type": "integer",
        "minimum": 68,
        "maximum": 65535,
        "description": "largest packet, in bytes",
    }
    assert link["kind"]["enum"] == ["ethernet", "vlan"]
    assert link["dhcp"]["default"] is True
    assert link["gateway"]["anyOf"][1] == {"type": "array", "items": {"type": "string"}}
