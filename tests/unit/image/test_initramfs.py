"""`initd.initramfs`: its decisions, on files of our own."""

import os
import socket
import struct
import time
import uuid
from pathlib import Path

import pytest

from initd import initramfs
from initd.boot.disks import block_devices
from initd.initramfs import RootError, matcher


def test_the_last_root_on_the_command_line_counts() -> None:
    line = "console=ttyS0 root=/dev/vda root=PARTLABEL=mine notroot=x\n"
    assert initramfs.root_of(line, in_memory=True) == "PARTLABEL=mine"


def test_without_root_the_file_in_the_initramfs_goes_before_the_default_partition() -> None:
    assert initramfs.root_of("quiet", in_memory=True) == "/root.erofs"
    assert initramfs.root_of("quiet", in_memory=False) == "PARTLABEL=aurae-root-a"


def test_the_last_root_hash_counts_and_without_one_there_is_none() -> None:
    assert initramfs.last("roothash=a quiet roothash=b xroothash=c", "roothash=") == "b"
    assert initramfs.last("root=/dev/vda quiet", "roothash=") == ""


@pytest.mark.parametrize(
    ("modalias", "quick"),
    [
        ("virtio:d00000002v00001AF4", True),
        ("pci:v00001AF4d00001042sv00001AF4sd00001100bc01sc00i00", True),
        ("pci:v0000144Dd0000A808sv0000144Dsd0000A801bc01sc08i02", True),
        ("pci:v00008086d00002922sv00001AF4sd00001100bc01sc06i01", False),
        ("usb:v0781p5581d0100dc00dsc00dp00ic08isc06ip50in00", False),
    ],
)
def test_virtio_and_nvme_are_looked_at_first(modalias: str, quick: bool) -> None:
    assert initramfs._is_quick(modalias) is quick


def test_a_root_is_named_by_label_of_its_partition_or_by_device() -> None:
    device = {"DEVNAME": "vda2", "PARTNAME": "aurae-root-a", "PARTN": "2"}
    assert matcher("PARTLABEL=aurae-root-a")(device)
    assert not matcher("PARTLABEL=aurae-root-b")(device)
    assert matcher("/dev/vda2")(device)
    assert not matcher("/dev/vda")(device)


def test_a_partition_uuid_may_be_in_capitals() -> None:
    device = {"DEVNAME": "vda2", "PARTUUID": "0FC63DAF-8483-4772-8E79-3D69D8477DE4"}
    assert matcher("PARTUUID=0fc63daf-8483-4772-8e79-3D69D8477DE4")(device)


@pytest.mark.parametrize("wanted", ["UUID=1", "aurae", "PARTLABEL", "/srv/x="])
def test_a_root_of_an_unknown_kind_is_refused_with_the_kinds_there_are(wanted: str) -> None:
    with pytest.raises(RootError, match="PARTLABEL="):
        matcher(wanted)


def test_a_partition_knows_its_disk(tmp_path: Path) -> None:
    part = tmp_path / "devices/vda/vda2"
    part.mkdir(parents=True)
    (part / "uevent").write_text("DEVNAME=vda2\nDEVTYPE=partition\nPARTN=2\nPARTNAME=a b\n")
    block = tmp_path / "class"
    block.mkdir()
    (block / "vda2").symlink_to(part)
    expected = {"DEVNAME": "vda2", "DEVTYPE": "partition", "PARTN": "2"}
    assert block_devices(str(block)) == [{**expected, "PARTNAME": "a b", "DISK": "vda"}]


def gpt(block: int, guid: uuid.UUID, number: int) -> bytes:
    disk = bytearray(block * 34)
    struct.pack_into("<8s64xQII", disk, block, b"EFI PART", 2, 128, 128)
    entry = 2 * block + (number - 1) * 128
    disk[entry + 16 : entry + 32] = guid.bytes_le
    return bytes(disk)


@pytest.mark.parametrize("block", [512, 4096])
def test_the_uuid_of_a_partition_is_read_from_the_table(block: int) -> None:
    guid = uuid.UUID("0fc63daf-8483-4772-8e79-3d69d8477de4")
    assert initramfs.guid_in_table(gpt(block, guid, 3), block, 3) == str(guid)


def test_a_disk_without_a_table_has_no_uuids() -> None:
    assert initramfs.guid_in_table(bytes(512 * 34), 512, 1) is None
    assert initramfs.guid_in_table(b"", 512, 1) is None


def test_the_label_of_an_erofs_is_read_and_others_have_none(tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(bytes(1024) + struct.pack("<I60x16s48x", 0xE0F5E1E2, b"aurae-root"))
    assert initramfs.erofs_label(str(image)) == "aurae-root"
    image.write_bytes(bytes(4096))
    assert initramfs.erofs_label(str(image)) is None
    assert initramfs.erofs_label(str(tmp_path / "gone")) is None


def test_a_root_that_was_cut_off_when_it_was_unpacked_is_not_mounted(tmp_path: Path) -> None:
    image = tmp_path / "root.erofs"
    image.write_bytes(bytes(1024) + struct.pack("<I8xB23xI88x", 0xE0F5E1E2, 12, 3))
    with pytest.raises(RootError, match="rootfstype=ramfs"):
        initramfs.mount_file(str(image))


def test_credentials_are_moved_and_only_root_may_read_them(tmp_path: Path) -> None:
    source, target = tmp_path / "credentials", tmp_path / "run/@system"
    source.mkdir()
    (source / "aurae.node.key").write_bytes(b"secret\0\n")
    (source / "aurae.node.key").chmod(0o644)
    (source / "link").symlink_to("/etc/passwd")
    (source / "folder").mkdir()
    initramfs.keep_credentials(str(source), str(target))
    assert [path.name for path in target.iterdir()] == ["aurae.node.key"]
    assert (target / "aurae.node.key").read_bytes() == b"secret\0\n"
    assert (target / "aurae.node.key").stat().st_mode & 0o777 == 0o400
    assert target.stat().st_mode & 0o777 == 0o700
    assert not (source / "aurae.node.key").exists()


def test_without_credentials_there_is_an_empty_folder_for_later_ones(tmp_path: Path) -> None:
    initramfs.keep_credentials(str(tmp_path / "none"), str(tmp_path / "@system"))
    assert list((tmp_path / "@system").iterdir()) == []


@pytest.mark.parametrize("size", [0, 1, 9, 10, 11, 35])
def test_a_file_is_moved_whole_in_chunks_from_its_end(tmp_path: Path, size: int) -> None:
    content = os.urandom(size)
    (tmp_path / "old").write_bytes(content)
    initramfs.move(str(tmp_path / "old"), str(tmp_path / "new"), chunk=10)
    assert (tmp_path / "new").read_bytes() == content
    assert not (tmp_path / "old").exists()


def test_emptying_keeps_what_it_is_told_to_and_follows_no_link(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").touch()
    root = tmp_path / "root"
    for name in ("usr/lib/x", "overlay/initd", "sysroot"):
        (root / name).mkdir(parents=True)
    (root / "usr/lib/x/file").touch()
    (root / "link").symlink_to(outside)
    initramfs.empty(str(root), keep={str(root / "overlay"), str(root / "sysroot")})
    assert sorted(path.name for path in root.iterdir()) == ["overlay", "sysroot"]
    assert (root / "overlay/initd").exists()
    assert (outside / "file").exists()


def test_a_device_is_there_once_it_can_be_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = tmp_path / "pmem0"
    slept = []

    def sleep(seconds: float) -> None:
        # First there is nothing; then, as of a device that is not ready, a node with ENXIO.
        slept.append(seconds)
        if len(slept) == 2:
            with socket.socket(socket.AF_UNIX) as unready:
                unready.bind(str(device))
        if len(slept) == 4:
            device.unlink()
            device.touch()

    assert not initramfs.opens(str(device))
    monkeypatch.setattr(time, "sleep", sleep)
    assert initramfs.opens(str(device), 60)
    assert len(slept) == 4
