"""Disks that bring a configuration: how they are told from others, and what is read from them."""

import shutil
import subprocess
from pathlib import Path

import pytest

from initd.boot import config_disk
from initd.boot.config_disk import Found, candidates, document, file_system, find


def image(path: Path, fstype: str, label: str) -> Path:
    """An empty file system of that kind."""
    commands = {
        "vfat": ["mkfs.vfat", "-n", label, str(path)],
        "vfat32": ["mkfs.vfat", "-F", "32", "-n", label, str(path)],
        "ext4": ["mkfs.ext4", "-q", "-L", label, str(path)],
    }
    command = commands[fstype]
    found = shutil.which(command[0], path="/usr/sbin:/sbin:/usr/bin")
    if found is None:
        pytest.skip(f"{command[0]}: not on this host")
    with path.open("wb") as file:
        file.truncate(40 << 20)
    subprocess.run([found, *command[1:]], check=True, capture_output=True)
    return path


@pytest.mark.parametrize(
    ("fstype", "label"), [("vfat", "AURAECONFIG"), ("vfat32", "CIDATA"), ("ext4", "aurae-config")]
)
def test_the_label_of_a_file_system_is_read(tmp_path: Path, fstype: str, label: str) -> None:
    assert file_system(str(image(tmp_path / "disk", fstype, label))) == (fstype[:4], label)


def test_the_label_of_iso9660_is_read(tmp_path: Path) -> None:
    volume = b"\x01CD001\x01\0" + b"LINUX".ljust(32) + b"cidata".ljust(32)
    (tmp_path / "disk").write_bytes(bytes(0x8000) + volume)
    assert file_system(str(tmp_path / "disk")) == ("iso9660", "cidata")


@pytest.mark.parametrize("content", [b"", bytes(512), bytes(1 << 16), b"\xff" * (1 << 16)])
def test_what_is_no_file_system_of_ours_has_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "disk").write_bytes(content)
    assert file_system(str(tmp_path / "disk")) == ("", "")


def device(name: str, disk: str = "", partition: str = "") -> dict[str, str]:
    found = {"DEVNAME": name}
    if disk:
        found |= {"DISK": disk, "PARTNAME": partition}
    return found


def test_nothing_is_read_of_a_node_that_has_only_its_own_disk() -> None:
    names = ("aurae-esp", "aurae-attempts", "aurae-root-a", "aurae-verity-b", "aurae-data")
    partitions = [device(f"vda{n}", "vda", name) for n, name in enumerate(names, 1)]
    assert not list(candidates([device("vda"), *partitions, device("loop0"), device("dm-0")]))


def test_whole_disks_and_partitions_of_others_are_looked_at() -> None:
    devices = [device("vdb"), device("vdc"), device("vdc1", "vdc", "aurae-config"), device("sr0")]
    assert [one["DEVNAME"] for one in candidates(devices)] == ["vdb", "vdc1", "sr0"]
    assert [one["DEVNAME"] for one in candidates(devices, "/dev/vdb")] == ["vdc1", "sr0"]


def test_a_disk_of_ours_goes_before_one_of_cloud_init(tmp_path: Path) -> None:
    for name, label in (("vda", b"cidata"), ("vdb", b"AURAE_CONFIG")):
        volume = b"\x01CD001\x01\0" + bytes(32) + label.ljust(32)
        (tmp_path / name).write_bytes(bytes(0x8000) + volume)
    path = f"{tmp_path}/vdb"
    assert find([device("vda"), device("vdb")], str(tmp_path)) == Found(
        path, "auraeconfig", "iso9660"
    )
    assert find([device("vdx")], str(tmp_path)) is None


OURS = Found("/dev/vdb", "auraeconfig", "vfat")
CIDATA = Found("/dev/vdb", "cidata", "vfat")


def test_the_document_is_read(tmp_path: Path) -> None:
    (tmp_path / "aurae.toml").write_text('hostname = "a"')
    (tmp_path / "user-data").write_text("#aurae-config\n")
    for found in (OURS, CIDATA):
        assert document(str(tmp_path), found) == (b'hostname = "a"', "aurae.toml")


def test_user_data_counts_if_it_says_so(tmp_path: Path) -> None:
    (tmp_path / "user-data").write_text("#cloud-config\n")
    assert document(str(tmp_path), CIDATA) == (b"", "")
    (tmp_path / "user-data").write_text("#aurae-config\n")
    assert document(str(tmp_path), CIDATA) == (b"#aurae-config\n", "user-data")
    with pytest.raises(LookupError, match=r"has no aurae\.toml"):
        document(str(tmp_path), OURS)


def test_a_disk_that_is_waited_for_and_does_not_come_is_told_of(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(config_disk, "PATIENCE", 0.05)
    monkeypatch.setattr(config_disk, "_BLOCK", str(tmp_path))
    monkeypatch.setattr(config_disk, "find_modaliases", list)
    said, problems = config_disk.look(waits=True, folder=str(tmp_path))
    assert said == ""
    assert problems[0].startswith("no disk is called aurae-config or cidata after")
