"""Configuration file and flags: which goes over which, and what is said of mistakes."""

from pathlib import Path

import pytest

from aer import settings
from aer.errors import UsageError
from aer.settings import SETTINGS, Config, Endpoint

EXAMPLES = {
    "socket": "node:8080",
    "server_name": "a.node.example.org",
    "ca_crt": "ca.crt",
    "client_crt": "ann.crt",
    "client_key": "ann.key",
    "timeout": "5s",
    "output": "json",
}


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path / "config"


def test_every_setting_is_a_field_a_flag_and_a_key(file: Path) -> None:
    lines = [f'[{s.section}]\n{s.name} = "{EXAMPLES[s.name]}"' for s in SETTINGS]
    merged: dict[str, list[str]] = {}
    for line in lines:
        section, key = line.split("\n")
        merged.setdefault(section, []).append(key)
    file.write_text("\n".join("\n".join([s, *keys]) for s, keys in merged.items()))
    config = Config.load(file)
    empty = Config()
    for setting in SETTINGS:
        assert getattr(config, setting.name) != getattr(empty, setting.name)
    by_flag = Config.load(None, EXAMPLES)
    assert (by_flag.timeout, by_flag.output, by_flag.socket) == (5.0, "json", config.socket)


def test_without_a_socket_it_is_the_one_of_this_node_or_cell(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "LOCAL", tmp_path / "aurae.sock")
    monkeypatch.setattr(settings, "SEARCHED", ())
    assert Config.load().socket is None
    (tmp_path / "aurae.sock").touch()
    assert Config.load().socket == Endpoint(tmp_path / "aurae.sock")
    assert Config.load(None, {"socket": "node:8080"}).socket == Endpoint.parse("node:8080")


def test_a_relative_path_counts_from_the_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text('[auth]\nca_crt = "pki/ca.crt"\n[system]\nsocket = "run/aurae.sock"\n')
    monkeypatch.chdir("/")
    config = Config.load(file)
    assert config.ca_crt == file.parent / "pki/ca.crt"
    assert config.socket == Endpoint(file.parent / "run/aurae.sock")


def test_a_home_and_an_absolute_path_are_taken_as_they_are(file: Path) -> None:
    file.write_text('[auth]\nca_crt = "~/ca.crt"\nclient_crt = "/etc/ann.crt"\n')
    config = Config.load(file)
    assert config.ca_crt == file.parent / "ca.crt"
    assert config.client_crt == Path("/etc/ann.crt")


def test_flags_go_over_the_file_and_count_from_here(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write_text('[auth]\nca_crt = "ca.crt"\n[client]\noutput = "yaml"\n')
    monkeypatch.chdir(file.parent.parent)
    config = Config.load(file, {"ca_crt": "other.crt"})
    assert config.ca_crt == file.parent.parent / "other.crt"
    assert config.output == "yaml"


def test_the_first_file_that_exists_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places = [tmp_path / name for name in ("a", "b", "c")]
    monkeypatch.setattr(settings, "SEARCHED", tuple(places))
    assert Config.load().source is None
    for place in reversed(places):
        place.write_text("")
        assert Config.load().source == place


def test_the_places_are_home_then_etc_then_var() -> None:
    assert [str(path) for path in settings.SEARCHED] == [
        "~/.aurae/config",
        "/etc/aurae/config",
        "/var/lib/aurae/config",
    ]


@pytest.mark.parametrize(
    ("text", "said", "hint"),
    [
        ("nonsense", "not TOML", ""),
        ('[auth]\nca_cert = "x"', "[auth] ca_cert: unknown", "did you mean [auth] ca_crt?"),
        ('[auth]\nsocket = "x"', "[auth] socket: unknown", "did you mean [system] socket?"),
        ('[x]\ny = "z"', "[x] y: unknown", "known are [system] socket"),
        ('socket = "x"', "socket: stands outside of a section", "known are [system] socket"),
        ("[client]\ntimeout = 5", "[client] timeout: not a string; put it in quotes", ""),
        ('[client]\noutput = "xml"', "choose from table, json, yaml", ""),
        ('[system]\nsocket = "node"', "neither a path (with a /) nor host:port", ""),
    ],
)
def test_a_mistake_is_named_with_its_place(file: Path, text: str, said: str, hint: str) -> None:
    file.write_text(text)
    with pytest.raises(UsageError) as wrong:
        Config.load(file)
    assert str(wrong.value).startswith(f"{file}: ")
    assert said in str(wrong.value)
    assert wrong.value.hint.startswith(hint)


def test_a_file_that_was_named_must_exist(file: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        Config.load(file)


@pytest.mark.parametrize("text", ["node:8080", "10.0.0.1:1", "[::1]:65535", "[fe80::1%eth0]:80"])
def test_an_address_is_a_host_and_a_port(text: str) -> None:
    assert Endpoint.parse(text) == Endpoint(None, text)


def test_a_path_may_be_of_a_socket_that_demands_a_certificate() -> None:
    endpoint = Endpoint.parse("unix+tls:/run/aurae/aurae-tls.sock")
    assert (endpoint.path, endpoint.secure) == (Path("/run/aurae/aurae-tls.sock"), True)
    assert str(endpoint) == "unix+tls:/run/aurae/aurae-tls.sock"
    assert not Endpoint.parse("/run/aurae/aurae-tls.sock").secure
    assert Endpoint.parse("node:8080").secure


@pytest.mark.parametrize(
    "text", ["", "node", "node:", ":80", "node:0", "node:65536", "node:x", "::1:80", "[::1]"]
)
def test_what_is_neither_path_nor_address(text: str) -> None:
    with pytest.raises(ValueError, match=r"neither a path|in brackets"):
        Endpoint.parse(text)
