"""Which channel a value is from."""

import json
from pathlib import Path

import pytest

from initd.configuration import channels
from initd.configuration.channels import ORDER, Channel, Hidden, Places, merge


@pytest.fixture
def places(tmp_path: Path) -> Places:
    (tmp_path / "config").mkdir()
    (tmp_path / "state").mkdir()
    (tmp_path / "cmdline").write_text("console=ttyS0\n")
    return Places(str(tmp_path), str(tmp_path / "state"), str(tmp_path / "cmdline"))


def put(places: Places, channel: str, text: str) -> None:
    if channel == "cmdline":
        Path(places.cmdline).write_text(text)
    else:
        Path(places.of(channel)).write_text(text)


def test_where_nobody_says_anything_there_is_nothing(places: Places) -> None:
    assert channels.gather(places) == ()
    assert merge(()) == channels.Merged({}, {})


@pytest.mark.parametrize("number", range(len(ORDER) - 1))
def test_each_channel_goes_before_the_next(places: Places, number: int) -> None:
    first, second = ORDER[number : number + 2]
    put(places, first, "aurae.hostname=one" if first == "cmdline" else 'hostname = "one"')
    put(places, second, 'hostname = "two"\nlog-level = "debug"')
    merged = merge(channels.gather(places))
    assert merged.values == {"hostname": "one", "log-level": "debug"}
    assert merged.origin == {"hostname": first, "log-level": second}
    assert merged.hidden == (Hidden("hostname", "two", second, first),)


def test_tables_are_merged_key_by_key_and_lists_are_not() -> None:
    merged = merge(
        (
            Channel(
                "smbios", {"network": {"links": {"a": {"mtu": 1500, "addresses": ["10.0.0.1/24"]}}}}
            ),
            Channel(
                "stored",
                {"network": {"links": {"a": {"addresses": ["10.0.0.2/24"], "dhcp": False}}}},
            ),
        )
    )
    link = {"mtu": 1500, "addresses": ["10.0.0.1/24"], "dhcp": False}
    assert merged.values == {"network": {"links": {"a": link}}}
    assert merged.origin == {
        "network.links.a.mtu": "smbios",
        "network.links.a.addresses": "smbios",
        "network.links.a.dhcp": "stored",
    }


def test_a_policy_is_never_mixed_of_two() -> None:
    merged = merge(
        (
            Channel("disk", {"policy": {"rules": []}}),
            Channel("stored", {"policy": {"tenants": {"a": {}}}}),
        )
    )
    assert merged.values == {"policy": {"rules": []}}
    assert merged.hidden == (Hidden("policy", {"tenants": {"a": {}}}, "stored", "disk"),)


def test_an_empty_table_hides_nothing() -> None:
    merged = merge(
        (
            Channel("disk", {"network": {"links": {"a": {}}}}),
            Channel("stored", {"network": {"links": {"a": {"mtu": 1500}}}}),
        )
    )
    assert merged.values["network"]["links"]["a"] == {"mtu": 1500}
    assert merged.hidden == ()


@pytest.mark.parametrize("channel", ["url", "stored"])
def test_which_disk_holds_the_data_cannot_be_said_on_it(places: Places, channel: str) -> None:
    put(places, channel, '[disks.data]\ndevice = "LABEL=x"')
    merged = merge(channels.gather(places))
    assert merged.values == {}
    assert merged.hidden == (Hidden("disks.data.device", "LABEL=x", channel, ""),)


def test_what_is_wrong_in_one_document_is_told_and_the_rest_counts(places: Places) -> None:
    put(places, "disk", 'hostname = "a_b"\nlog-level = "debug"')
    put(places, "stored", 'hostname = "good"')
    merged = merge(channels.gather(places))
    assert merged.values == {"hostname": "good", "log-level": "debug"}
    assert merged.origin["hostname"] == "stored"
    (problem,) = merged.problems
    assert problem.startswith("disk: hostname: 'a_b' is no host name")


def test_a_document_that_is_none_gives_nothing(places: Places) -> None:
    put(places, "disk", "hostname = ")
    put(places, "stored", 'hostname = "good"')
    merged = merge(channels.gather(places))
    assert merged.values == {"hostname": "good"}
    assert merged.problems[0].startswith("disk: is not TOML")


def test_what_is_written_is_read_again_and_written_once(places: Places) -> None:
    merged = merge((Channel("stored", {"hostname": "a"}),))
    path = f"{places.run}/config.json"
    assert channels.write(path, merged)
    assert not channels.write(path, merged)
    assert json.loads(Path(path).read_text()) == {
        "values": {"hostname": "a"},
        "origin": {"hostname": "stored"},
    }
    assert channels.read(path) == merged
    assert Path(path).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("text", ["", "[]", "{}", "{", '{"values": 1}'])
def test_what_is_no_result_is_read_as_nothing(places: Places, text: str) -> None:
    path = f"{places.run}/config.json"
    Path(path).write_text(text)
    assert channels.read(path) == channels.Merged({}, {})
