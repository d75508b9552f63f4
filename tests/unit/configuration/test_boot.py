"""What PID 1 makes of documents at boot."""

import json
from pathlib import Path

import pytest

from initd import initramfs
from initd.boot import configuration, credentials
from initd.boot.cmdline import CommandLine, parse
from initd.boot.options import DataOptions
from initd.configuration import identity as identities
from initd.configuration.channels import Merged, write
from initd.log import Level
from runtime.server.settings import Settings


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "run"
    (folder / "state").mkdir(parents=True)
    monkeypatch.setattr(configuration, "_RUN", str(folder))
    monkeypatch.setattr(configuration, "state", lambda: str(folder / "state"))
    monkeypatch.setattr(credentials, "DOCUMENTS", str(folder / "config"))
    monkeypatch.setattr(configuration, "_NO_DISKS", ("",))
    monkeypatch.setattr(credentials, "FOLDER", str(folder))
    return folder


LINE = CommandLine(config_disk="off")


def test_without_a_document_nothing_is_made_and_nothing_imported(run: Path) -> None:
    for step in (configuration.early, configuration.complete):
        command_line, done = step(LINE)
        assert command_line is LINE
        assert done.text == "none"
    assert not (run / "config.json").exists()


def test_what_a_document_says_is_in_effect(run: Path) -> None:
    (run / "config").mkdir()
    (run / "config/smbios.toml").write_text(
        'hostname = "web"\nlog-level = "debug"\nwatchdog = "off"\n[sysctls]\n"vm.x" = 1\n'
        '[disks.data]\ndevice = "LABEL=x"'
    )
    command_line, done = configuration.early(LINE)
    assert done.text == "smbios"
    assert command_line.hostname == "web"
    assert command_line.level is Level.DEBUG
    assert command_line.watchdog == 0
    assert command_line.sysctls == {"vm.x": "1"}
    assert command_line.data == DataOptions("LABEL=x")
    assert not (run / "config.json").exists()
    again, _ = configuration.complete(command_line)
    assert again == command_line
    assert configuration.in_effect(LINE, f"{run}/config.boot.json") == command_line


def test_a_data_disk_is_not_made_by_a_word_that_nobody_knows(run: Path) -> None:
    (run / "config").mkdir()
    document = run / "config/smbios.toml"
    document.write_text('[disks.data]\nfilesystem = "xfs"\nencryption = "tpm2"')
    command_line, _ = configuration.early(LINE)
    assert command_line.data == DataOptions("", "xfs", "tpm2")
    document.write_text('[disks.data]\nfilesystem = "zfs"')
    command_line, _ = configuration.early(LINE)
    assert command_line.data == DataOptions(makes=False)


def test_what_is_stored_counts_too(run: Path) -> None:
    (run / "state/config.toml").write_text('hostname = "stored"\nnonsense = 1')
    command_line, done = configuration.early(LINE)
    assert command_line.hostname == "aurae"
    command_line, done = configuration.complete(command_line)
    assert command_line.hostname == "stored"
    assert done.problems[0].startswith("stored: nonsense: is not known")
    assert json.loads((run / "config.json").read_text()) == {
        "values": {"hostname": "stored"},
        "origin": {"hostname": "stored"},
    }


def test_the_command_lines_own_has_the_last_word() -> None:
    given = parse("aurae.sysctl.vm.x=2")
    made = configuration.configured(given, {"sysctls": {"vm.x": "1", "vm.y": 3}})
    assert made.sysctls == {"vm.x": "2", "vm.y": "3"}


def test_who_the_node_is_is_placed_where_nobody_said_so(tmp_path: Path) -> None:
    (tmp_path / "aurae.ca.crt").write_text("given")
    identity = {"certificate": "c", "bundle": "b", "federated": {"other.org": "f"}, "svid-life": 5}
    assert list(identities.place(identity, str(tmp_path))) == []
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "aurae.ca.crt": "given",
        "aurae.node.crt": "c",
        "aurae.federated.other.org.crt": "f",
    }


def test_a_name_that_leads_elsewhere_is_refused(tmp_path: Path) -> None:
    (problem,) = identities.place({"federated": {"../x": "f"}}, str(tmp_path))
    assert problem == "identity.federated: '../x' is no trust domain"
    assert list(tmp_path.iterdir()) == []


def test_of_each_channel_its_document_is_kept_apart(tmp_path: Path) -> None:
    folder, esp = tmp_path / "system", tmp_path / "esp"
    fw_cfg, smbios = tmp_path / "fw_cfg", tmp_path / "smbios"
    documents = tmp_path / "documents"
    for made in (folder, esp, fw_cfg / "aurae.config.toml", smbios / "11-0"):
        made.mkdir(parents=True)
    (smbios / "11-0/raw").write_bytes(
        b"\x0b\x05\0\0\x01io.systemd.credential:aurae.config.toml=a = 1\0\0"
    )
    (fw_cfg / "aurae.config.toml/raw").write_bytes(b"a = 2")
    (folder / "aurae.config.toml").write_bytes(b"a = 3")
    (esp / "aurae.config.toml").write_bytes(b"a = 4")
    (esp / "plain").write_bytes(b"x")
    (esp / "secret").write_bytes(b"Whxqht+dQJax1aZeCGLxmgAAAAABAAAADAAAABAAAAA=")
    found, problems = credentials.collect(
        str(folder), str(smbios), str(fw_cfg), esp=str(esp), documents=str(documents)
    )
    assert found == ["plain"]
    (problem,) = problems
    assert problem.startswith("ESP credential secret: is encrypted, and the node has no key")
    assert {path.name: path.read_text() for path in documents.iterdir()} == {
        "smbios.toml": "a = 1",
        "fw_cfg.toml": "a = 2",
        "initramfs.toml": "a = 3",
        "esp.toml": "a = 4",
    }


def test_credentials_of_the_stub_are_kept_and_the_first_of_a_name_counts(tmp_path: Path) -> None:
    target = tmp_path / "esp"
    for folder in ("credentials", "global_credentials"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.cred").write_text(folder)
        (tmp_path / folder / "other.raw").write_text("x")
        (tmp_path / folder / ".cred").write_text("x")
        initramfs.keep_credentials(str(tmp_path / folder), str(target), suffix=".cred")
    assert {path.name: path.read_text() for path in target.iterdir()} == {"a": "credentials"}
    assert target.stat().st_mode & 0o777 == 0o700


def test_the_runtime_starts_with_what_the_node_was_booted_with(tmp_path: Path) -> None:
    settings = Settings.from_cmdline("aurae.listen=[::]:1")._replace(run=tmp_path)
    assert settings.with_configuration() is settings
    merged = Merged(
        {
            "listen": "[::]:2",
            "log-level": "debug",
            "identity": {"svid-life": 60, "spiffe": "unix:/x"},
            "cells": {"cells": [{"name": "web"}]},
        },
        {},
    )
    write(str(tmp_path / "config.boot.json"), merged)
    made = settings.with_configuration()
    assert (made.listen, made.log, made.svid_life) == ("[::]:2", "debug", 60.0)
    assert made.spiffe == "unix:/x"
    assert made.sets == (settings.sets[0], tmp_path / "config.boot.json", settings.sets[1])
