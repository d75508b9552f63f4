import base64
import itertools
import stat
from pathlib import Path

import pytest

from image import qemu
from image.acceleration import Acceleration
from image.machine import (
    Channel,
    Credential,
    Drive,
    Files,
    FirmwareBoot,
    KernelBoot,
    Machine,
    Nic,
    command,
    smbios_strings,
)

SECRET = Credential("aurae.node.key", b"very secret")
KERNEL = KernelBoot(kernel=Path("/k"), initrds=(Path("/i"),))
BARE = KernelBoot(kernel=Path("/k"))


def line(machine: Machine, folder: Path = Path("/node")) -> list[str]:
    return command(machine, Files(folder=folder), Acceleration.TCG, monitor=3, console=4)


def options(words: list[str], name: str) -> list[str]:
    return [value for word, value in itertools.pairwise(words) if word == name]


def test_a_secret_is_never_an_argument() -> None:
    for channel in Channel:
        credential = Credential(SECRET.name, SECRET.content, channel)
        said = " ".join(line(Machine(boot=KERNEL, credentials=(credential,))))
        assert "very secret" not in said
        assert base64.b64encode(SECRET.content).decode() not in said


def test_smbios_strings_are_those_of_systemds_documentation() -> None:
    encoded = base64.b64encode(SECRET.content)
    machine = Machine(boot=KERNEL, credentials=(SECRET,), smbios=("io.systemd.credential:a=b",))
    assert smbios_strings(machine) == (
        b"io.systemd.credential:a=b",
        b"io.systemd.credential.binary:aurae.node.key=" + encoded,
    )
    assert options(line(machine), "-smbios") == [
        "type=11,path=/node/smbios-0",
        "type=11,path=/node/smbios-1",
    ]


def test_the_command_line_of_a_disk_boot_reaches_the_unified_kernel_image() -> None:
    boot = FirmwareBoot(disk=Drive(file=Path("/disk")))
    (extra,) = smbios_strings(Machine(boot=boot, cmdline=("ip=off",)))
    assert extra == b"io.systemd.stub.kernel-cmdline-extra=panic=-1 ip=off"


def test_a_panic_ends_qemu_unless_the_machine_reboots() -> None:
    words = line(Machine(boot=KERNEL, cmdline=("quiet",)))
    [text] = options(words, "-append")
    assert text.startswith("console=ttyS0 panic=-1 loglevel=4 rootfstype=ramfs ")
    assert text.endswith(" quiet"), "the caller's come last, and count"
    assert "-no-reboot" in words
    assert "-no-reboot" not in line(Machine(boot=KERNEL, reboots=True))


def test_ports_are_forwarded_from_a_free_one_of_the_host() -> None:
    nics = (
        Nic(forwarded=8080),
        Nic(forwarded=1, address="10.0.2.9", mac="52:54:00:00:00:01"),
        Nic(),
        Nic(hub=1),
    )
    words = line(Machine(boot=KERNEL, nics=nics))
    assert options(words, "-netdev") == [
        "user,id=nic0,hostfwd=tcp:127.0.0.1:0-:8080",
        "user,id=nic1,hostfwd=tcp:127.0.0.1:0-10.0.2.9:1",
        "user,id=nic2",
        "hubport,id=nic3,hubid=1",
    ]
    assert "virtio-net-pci,netdev=nic1,mac=52:54:00:00:00:01" in words


def test_a_machine_without_cards_has_none() -> None:
    words = line(Machine(boot=KERNEL, nics=()))
    assert "-nodefaults" in words
    assert "-netdev" not in words


def test_what_is_written_to_a_drive_is_dropped_kept_or_refused() -> None:
    drives = (
        Drive(file=Path("/a,b")),
        Drive(file=Path("/c"), kept=True),
        Drive(file=Path("/d"), read_only=True),
    )
    dropped, kept, refused = options(line(Machine(boot=KERNEL, drives=drives)), "-drive")
    assert refused == "if=none,id=drive3,format=raw,file=/d,readonly=on"
    assert dropped == "if=none,id=drive1,format=raw,file=/a,,b,snapshot=on"
    assert kept == "if=none,id=drive2,format=raw,file=/c"


def test_files_with_secrets_are_for_their_owner_only(tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    archive.write_bytes(b"12345")
    machine = Machine(
        boot=KernelBoot(kernel=Path("/k"), initrds=(archive, archive)),
        credentials=tuple(Credential(f"c-{c}", b"x", c) for c in Channel),
    )
    files = Files(folder=tmp_path / "node")
    files.folder.mkdir()
    qemu.prepare(machine, files)
    made = sorted(files.folder.iterdir())
    assert [path.name for path in made] == ["fw_cfg-c-fw_cfg", "initrd", "smbios-0"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in made} == {0o600}
    initrd = files.initrd.read_bytes()
    assert initrd.startswith(b"12345\0\0\0" * 2 + b"070701")
    assert b"credentials/c-initramfs\0" in initrd


def test_a_machines_folder_is_emptied_of_an_earlier_machine(tmp_path: Path) -> None:
    (tmp_path / "console.log").write_text("old")
    qemu.prepare(Machine(boot=KernelBoot(kernel=Path("/k"))), Files(folder=tmp_path))
    assert not (tmp_path / "console.log").exists()


def test_a_qemu_that_refuses_is_an_error_with_its_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "qemu-system-x86_64"
    program.write_text("#!/bin/sh\necho no such machine >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(qemu.StartError, match="no such machine"):
        qemu.start(Machine(boot=BARE, nics=()), tmp_path / "node", Acceleration.TCG)


def test_a_host_without_qemu_is_told_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(qemu.StartError, match="install qemu-system-x86"):
        qemu.start(Machine(boot=BARE, nics=()), tmp_path / "node", Acceleration.TCG)


def test_nothing_runs_in_an_empty_folder(tmp_path: Path) -> None:
    assert qemu.Qemu.find(Files(folder=tmp_path)) is None
