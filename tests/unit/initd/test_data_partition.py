"""The data partition: what is asked for, what is free, what is known on a disk."""

import shutil
import subprocess
from pathlib import Path

import pytest

from initd.boot import disks, encryption, filesystems, partitions, programs
from initd.boot.cmdline import parse
from initd.boot.data import Search, Teller
from initd.boot.disks import Content, NotThere
from initd.boot.options import DataOptions
from initd.boot.partitions import Extent
from initd.boot.preparation import Preparation

MIB = 1 << 20


def test_the_command_line_says_how_a_data_disk_is_made() -> None:
    parsed = parse(
        "aurae.data=/dev/vdb aurae.data.filesystem=xfs aurae.data.encryption=tpm2 "
        "aurae.data.tpm2-pcrs=11+7+7"
    )
    assert parsed.problems == ()
    assert parsed.data == DataOptions("/dev/vdb", "xfs", "tpm2", (7, 11))
    assert parse("").data == DataOptions("", "ext4", "none", (7,), makes=True)


@pytest.mark.parametrize(
    ("word", "remedy"),
    [
        ("aurae.data=vda", "must be off, LABEL="),
        ("aurae.data.filesystem=zfs", "must be one of ext4, xfs, btrfs"),
        ("aurae.data.filesystem=", "must be one of"),
        ("aurae.data.encryption=luks", "must be one of none, tpm2, passphrase, key-file"),
        ("aurae.data.tpm2-pcrs=24", "must be numbers of 0 to 23"),
        ("aurae.data.tpm2-pcrs=7,11", "must be numbers"),
        ("aurae.data.tpm2-pcrs=", "must be numbers"),
    ],
)
def test_nothing_is_made_by_a_word_that_nobody_knows(word: str, remedy: str) -> None:
    parsed = parse(word)
    assert parsed.data == DataOptions(makes=False)
    [problem] = parsed.problems
    assert problem.startswith(f"{word}: {remedy}")


def table(sys: Path, size: int, parts: list[Extent], logical: int = 512) -> None:
    """A disk `vda` as sysfs shows it."""
    disk = sys / "devices/vda"
    (disk / "queue").mkdir(parents=True)
    (disk / "size").write_text(f"{size // 512}\n")
    (disk / "ro").write_text("0\n")
    (disk / "queue/logical_block_size").write_text(f"{logical}\n")
    (sys / "class/block").mkdir(parents=True)
    (sys / "class/block/vda").symlink_to(disk)
    for number, start, length in parts:
        folder = disk / f"vda{number}"
        folder.mkdir()
        (folder / "partition").write_text(f"{number}\n")
        (folder / "start").write_text(f"{start // 512}\n")
        (folder / "size").write_text(f"{length // 512}\n")
        (sys / f"class/block/vda{number}").symlink_to(folder)


def test_room_is_what_is_free_behind_the_last_partition(tmp_path: Path) -> None:
    parts = [
        Extent(2, 600 * MIB, 256 * MIB + 512),
        Extent(1, MIB, 512 * MIB),
        Extent(4, 550 * MIB, MIB),
    ]
    table(tmp_path, 2048 * MIB + 12345 * 512, parts)
    room = partitions.room("vda", str(tmp_path))
    # In whole MiB, and with the last one for the copy of the table.
    assert room == Extent(3, 857 * MIB, (2053 - 857) * MIB)
    assert partitions.enlarged("vda", 1, str(tmp_path)) is None
    grown = partitions.enlarged("vda", 2, str(tmp_path))
    assert grown is not None
    assert grown.start == 600 * MIB
    assert grown.end == room.end
    assert partitions.number_of("/dev/vda4", str(tmp_path)) == 4
    assert partitions.name_of("nvme0n1", 7) == "nvme0n1p7"
    assert partitions.name_of("vda", 7) == "vda7"


def test_a_disk_that_is_too_small_gets_no_partition(tmp_path: Path) -> None:
    table(tmp_path, 160 * MIB, [Extent(1, MIB, 96 * MIB)])
    assert partitions.room("vda", str(tmp_path)).length == 62 * MIB
    with pytest.raises(NotThere, match=r"62 MiB are free behind its last .* make the disk larger"):
        partitions.create("vda", "aurae-data", str(tmp_path))
    assert partitions.enlarged("vda", 1, str(tmp_path)) is None


@pytest.mark.parametrize("logical", [512, 4096])
def test_bounds_are_told_in_the_sectors_of_the_disk(tmp_path: Path, logical: int) -> None:
    table(tmp_path, 2048 * MIB, [Extent(1, MIB, 512 * MIB)], logical)
    said = partitions._bounds("vda", Extent(2, 513 * MIB, 64 * MIB), str(tmp_path))
    assert said == f"start={513 * MIB // logical}, size={64 * MIB // logical}"


def test_the_disk_of_a_root_is_found_through_device_mapper(tmp_path: Path) -> None:
    device = (tmp_path / "file").parent.stat().st_dev
    import os

    name = f"{os.major(device)}:{os.minor(device)}"
    part, mapper = tmp_path / "sys/devices/vda/vda2", tmp_path / "sys/devices/virtual/dm-0"
    part.mkdir(parents=True)
    (part / "partition").write_text("2\n")
    (mapper / "slaves").mkdir(parents=True)
    (mapper / "slaves/vda2").symlink_to(part)
    links = tmp_path / "sys/dev/block"
    links.mkdir(parents=True)
    sys = str(tmp_path / "sys")
    assert disks.disk_under(str(tmp_path), sys) == ""
    for target, disk in ((mapper, "vda"), (part, "vda"), (part.parent, "")):
        (links / name).unlink(missing_ok=True)
        (links / name).symlink_to(target)
        assert disks.disk_under(str(tmp_path), sys) == disk


def formatted(file: Path, size: int, *command: str) -> Path:
    with file.open("wb") as image:
        image.truncate(size)
    program = shutil.which(command[0], path="/usr/sbin:/usr/bin:/sbin")
    if program is None:
        pytest.skip(f"this host has no {command[0]}")
    subprocess.run([program, *command[1:], file], check=True, capture_output=True, input=b"secret")
    return file


def test_ext4_is_known_by_its_name_and_its_size(tmp_path: Path) -> None:
    file = formatted(tmp_path / "disk", 64 * MIB, "mkfs.ext4", "-q", "-L", "aurae-data")
    assert disks.content(str(file)) == Content("ext4", "aurae-data", 64 * MIB)
    assert filesystems.fills(64 * MIB, str(file))
    with file.open("r+b") as image:
        image.truncate(96 * MIB)
    assert not filesystems.fills(64 * MIB, str(file))
    # The same, with something before it.
    (tmp_path / "later").write_bytes(bytes(MIB) + file.read_bytes())
    assert disks.content(str(tmp_path / "later"), MIB).label == "aurae-data"


def superblock(file: Path) -> bytes:
    return file.read_bytes()[1024:2048]


def change(file: Path, at: int, value: bytes) -> None:
    with file.open("r+b") as image:
        image.seek(at)
        image.write(value)


class TestRepair:
    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        (tmp_path / "content").mkdir()
        (tmp_path / "content/kept").write_text("kept")
        content = ("-d", str(tmp_path / "content"))
        words = ("mkfs.ext4", "-q", "-L", "aurae-data", *content)
        return formatted(tmp_path / "disk", 64 * MIB, *words)

    def test_mends_a_superblock_that_was_half_written(self, file: Path) -> None:
        # The time of the last write, without the checksum at the end.
        change(file, 1024 + 0x30, b"torn")
        with pytest.raises(programs.Failed, match="e2fsck"):
            filesystems._preen(str(file))
        repair = filesystems.KINDS["ext4"].repair
        assert repair is not None
        repair(str(file))
        assert b"torn" not in superblock(file)
        assert disks.content(str(file)) == Content("ext4", "aurae-data", 64 * MIB)
        assert self.checked(file) == 0
        said = programs.run("debugfs", "-R", "cat kept", str(file))
        assert said.endswith("kept")

    def test_is_asked_for_by_what_the_kernel_has_met(self, file: Path) -> None:
        assert not disks.content(str(file)).faulty
        programs.run("debugfs", "-w", "-R", "set_super_value state 2", str(file))
        assert disks.content(str(file)).faulty
        filesystems._repair_ext4(str(file))
        assert not disks.content(str(file)).faulty

    def test_leaves_what_it_cannot_mend_without_a_decision(self, file: Path) -> None:
        # The root folder is a file: what was in it is lost, or it is not.
        programs.run("debugfs", "-w", "-R", "set_inode_field <2> mode 0100644", str(file))
        programs.run("debugfs", "-w", "-R", "set_super_value state 2", str(file))
        with pytest.raises(programs.Failed):
            filesystems._repair_ext4(str(file))

    def checked(self, file: Path) -> int:
        program = shutil.which("e2fsck", path="/usr/sbin:/sbin")
        assert program is not None
        return subprocess.run([program, "-fn", file], check=False, capture_output=True).returncode


def test_xfs_and_btrfs_are_known_by_their_names_and_their_sizes(tmp_path: Path) -> None:
    head = bytearray(4096)
    head[0:4] = b"XFSB"
    head[4:8] = (4096).to_bytes(4, "big")
    head[8:16] = (1000).to_bytes(8, "big")
    head[108:120] = b"aurae-making"
    (tmp_path / "xfs").write_bytes(head)
    assert disks.content(str(tmp_path / "xfs")) == Content("xfs", "aurae-making", 4096000)
    later = bytearray(4096)
    later[64:72] = b"_BHRfS_M"
    later[0xC9 + 8 : 0xC9 + 16] = (1 << 33).to_bytes(8, "little")
    later[0x12B : 0x12B + 10] = b"aurae-data"
    (tmp_path / "btrfs").write_bytes(bytes(65536) + later)
    assert disks.content(str(tmp_path / "btrfs")) == Content("btrfs", "aurae-data", 1 << 33)


def test_luks2_is_known_by_its_label_and_luks1_has_none(tmp_path: Path) -> None:
    options = ("luksFormat", "-q", "--pbkdf=pbkdf2", "--pbkdf-force-iterations=1000")
    for kind, label in (("luks2", "aurae-data"), ("luks1", "")):
        named = ("--label=aurae-data",) if label else ()
        arguments = (*options, f"--type={kind}", *named, "--key-file=-")
        file = formatted(tmp_path / kind, 32 * MIB, "cryptsetup", *arguments)
        assert disks.content(str(file)) == Content("luks", label)
    header = encryption._header(str(tmp_path / "luks2"))
    assert len(header) == 32768
    assert b'"keyslots"' in header


def test_what_is_no_file_system_of_ours_is_nothing(tmp_path: Path) -> None:
    for content in (b"", bytes(100), bytes(70000), b"\xff" * 70000):
        (tmp_path / "other").write_bytes(content)
        assert disks.content(str(tmp_path / "other")) == Content()
    assert disks.content(str(tmp_path / "gone")) == Content()


def test_what_anybody_knows_is_foreign_and_zeros_and_noise_are_not(tmp_path: Path) -> None:
    file = tmp_path / "disk"
    file.write_bytes(bytes(4 * MIB))
    assert filesystems.foreign(str(file)) == ""
    assert filesystems.is_blank(str(file))
    file.write_bytes(bytes(4 * MIB - 1) + b"\1")
    assert filesystems.foreign(str(file)) == ""
    assert not filesystems.is_blank(str(file))
    formatted(file, 16 * MIB, "mkfs.ext4", "-q")
    assert filesystems.foreign(str(file)) == "ext4"
    (tmp_path / "later").write_bytes(bytes(2 * MIB) + file.read_bytes())
    assert filesystems.foreign(str(tmp_path / "later")) == ""
    assert filesystems.foreign(str(tmp_path / "later"), 2 * MIB, 16 * MIB) == "ext4"


def test_a_table_of_partitions_is_foreign(tmp_path: Path) -> None:
    sfdisk = shutil.which("sfdisk", path="/usr/sbin:/usr/bin")
    if sfdisk is None:
        pytest.skip("this host has no sfdisk")
    file = tmp_path / "disk"
    file.write_bytes(bytes(4 * MIB))
    subprocess.run([sfdisk, "-q", file], input=b"label: gpt\n", check=True)
    assert filesystems.foreign(str(file)) == "gpt"


def test_a_disk_too_small_for_a_file_system_is_told_before_it_is_touched() -> None:
    filesystems.check("ext4", "/dev/vda", 20 * MIB)
    with pytest.raises(NotThere, match="20 MiB, and xfs needs 300; make the disk larger"):
        filesystems.check("xfs", "/dev/vda", 20 * MIB)
    with pytest.raises(NotThere, match="0 MiB, and ext4 needs 8"):
        filesystems.check("ext4", "/dev/vda", -5)


def test_a_file_system_is_made_only_where_nothing_is_or_one_was_being_made(tmp_path: Path) -> None:
    preparation = Preparation(
        Search("", 0, drivers=False), DataOptions(), str(tmp_path), Teller(print, print)
    )

    def unmade(file: Path) -> bool:
        return preparation._is_unmade(str(file), disks.content(str(file)))

    file = tmp_path / "disk"
    file.write_bytes(bytes(4 * MIB))
    assert unmade(file)
    for noise in (b"\1" + bytes(4 * MIB), bytes(4 * MIB) + b"\1"):
        file.write_bytes(noise)
        with pytest.raises(NotThere, match="holds something that is not known, which is left"):
            unmade(file)
    with pytest.raises(OSError, match="No such file"):
        preparation._is_unmade(str(tmp_path / "gone"), Content())
    assert unmade(formatted(file, 16 * MIB, "mkfs.ext4", "-q", "-L", "aurae-making"))
    formatted(file, 16 * MIB, "mkfs.ext4", "-q", "-L", "aurae-data")
    assert not unmade(file)
    # A damaged superblock is not taken for none: there are copies of it.
    with file.open("r+b") as image:
        image.seek(1024)
        image.write(bytes(1024))
    with pytest.raises(NotThere, match="left as it is"):
        unmade(file)
    formatted(file, 16 * MIB, "mkswap")
    with pytest.raises(NotThere, match="holds swap, which is left as it is"):
        unmade(file)


def test_a_program_reads_its_text_and_finds_its_secrets(tmp_path: Path) -> None:
    said = programs.run(
        "sh", "-c", "cat; cat {a} {b}", text="1\n", secrets={"b": b"3\n", "a": b"2\n"}
    )
    assert said == "1\n2\n3\n"
    with pytest.raises(programs.Failed, match=r"^sh: the last line$") as caught:
        programs.run("sh", "-c", "echo first; echo the last line >&2; exit 3")
    assert caught.value.code == 3
    with pytest.raises(programs.Failed, match=r"^false: ended with 1$"):
        programs.run("false")
    with pytest.raises(FileNotFoundError):
        programs.run("no-such-program")


def test_a_recovery_key_has_256_bits_and_can_be_typed() -> None:
    key = encryption._recovery_key()
    assert len(key.split("-")) == 8
    assert len(bytes.fromhex(key.replace("-", ""))) == 32
    assert key != encryption._recovery_key()


def test_a_device_with_no_cipher_is_not_opened(tmp_path: Path) -> None:
    header = bytearray(16384)
    header[:6] = b"LUKS\xba\xbe"
    header[8:16] = (16384).to_bytes(8, "big")
    header[4096:4160] = b'{"encryption":"cipher_null-ecb"}'.ljust(64)
    (tmp_path / "disk").write_bytes(header)
    secrets = encryption.Secrets(str(tmp_path))
    with pytest.raises(NotThere, match="a cipher that is none"):
        encryption.unlock(str(tmp_path / "disk"), DataOptions(), secrets, print)


def test_a_passphrase_has_no_end_of_line_and_a_key_all_of_its_bytes(tmp_path: Path) -> None:
    (tmp_path / encryption.PASSPHRASE).write_bytes(b"correct horse\r\n")
    (tmp_path / encryption.KEY).write_bytes(b"bytes\n")
    secrets = encryption.Secrets(str(tmp_path))
    assert (secrets.passphrase, secrets.key) == (b"correct horse", b"bytes\n")
