"""Disks as sysfs shows them."""

from pathlib import Path

import pytest

from runtime.install.disks import MARKS, Disks, content


class Sysfs:
    """Files as the kernel makes them."""

    def __init__(self, folder: Path) -> None:
        self.block = folder / "sys/class/block"
        self.devices = folder / "sys/devices"
        self.proc = folder / "proc"
        self.dev = folder / "dev"
        for made in (self.block, self.devices, self.proc / "self", self.dev):
            made.mkdir(parents=True)
        self.mounts()
        (self.proc / "swaps").write_text("Filename\t\tType\t\tSize\t\tUsed\t\tPriority\n")

    def add(self, name: str, parent: str = "", begin: bytes = b"", **files: str) -> None:
        """`__` in a file's name stands for a slash."""
        entry = self.devices / parent / name
        (entry / "holders").mkdir(parents=True)
        for file, text in {"ro": "0", "removable": "0", "size": "2048", **files}.items():
            path = entry / file.replace("__", "/")
            path.parent.mkdir(exist_ok=True)
            path.write_text(text + "\n")
        (self.block / name).symlink_to(entry)
        (self.dev / name).write_bytes(begin)

    def hold(self, name: str, holder: str) -> None:
        (self.block / name / "holders" / holder).mkdir()

    def mounts(self, *lines: str) -> None:
        (self.proc / "self/mountinfo").write_text("".join(f"{line}\n" for line in lines))

    @property
    def disks(self) -> Disks:
        return Disks(self.block, self.proc, self.dev)


@pytest.fixture
def sysfs(tmp_path: Path) -> Sysfs:
    found = Sysfs(tmp_path)
    found.add(
        "sda",
        begin=bytes(512) + b"EFI PART",
        dev="8:0",
        diskseq="9",
        size="2097152",
        queue__logical_block_size="512",
        device__vendor="ATA     ",
        device__model="Disk of old",
    )
    (found.block / "sda/device/vpd_pg80").write_bytes(b"\0\x80\0\x08  SERIAL")
    for number in (10, 2, 1):
        found.add(
            f"sda{number}",
            "sda",
            begin=b"XFSB" if number == 2 else b"",
            dev=f"8:{number}",
            partition=str(number),
            size="4096",
            uevent=f"DEVNAME=sda{number}\nPARTNAME=part-{number}",
        )
    for name in ("loop0", "zram0", "dm-0", "ram1", "sr0", "md127", "mmcblk0boot0"):
        found.add(name, dev=f"250:{len(name)}")
    found.add("sdb", size="0", removable="1")
    return found


def test_disks_are_shown_with_their_partitions_and_nothing_else_is(sysfs: Sysfs) -> None:
    (disk,) = sysfs.disks.list()
    assert (disk.path, disk.sequence, disk.size, disk.sector) == ("/dev/sda", 9, 1 << 30, 512)
    assert (disk.model, disk.serial, disk.content) == ("ATA Disk of old", "SERIAL", "gpt")
    assert (disk.removable, disk.read_only, disk.used_by) == (False, False, ())
    assert [part.path for part in disk.parts] == ["/dev/sda1", "/dev/sda2", "/dev/sda10"]
    assert disk.parts[1][1:] == ("part-2", 2 << 20, "xfs", ())
    assert sysfs.disks.sequence("/dev/sda") == 9
    assert sysfs.disks.sequence("/dev/none") == 0


def test_who_uses_a_disk_is_found_through_what_is_made_of_it(sysfs: Sysfs) -> None:
    sysfs.hold("sda2", "dm-0")
    number = (sysfs.block / "dm-0/dev").read_text().strip()
    sysfs.mounts(
        f"30 1 {number} / /run/somewhere/else rw - erofs /dev/dm-0 ro",
        f"22 1 {number} / / rw - erofs /dev/dm-0 ro",
        "23 1 8:1 / /var rw - ext4 /dev/sda1 rw",
    )
    with (sysfs.proc / "swaps").open("a") as swaps:
        swaps.write("/dev/sda10  partition 1 0 -2\n")
    (disk,) = sysfs.disks.list()
    assert [part.used_by for part in disk.parts] == [
        ("mounted on /var",),
        ("dm-0", "mounted on /"),
        ("swap",),
    ]
    assert disk.used_by == ("mounted on /var", "dm-0", "mounted on /", "swap")


@pytest.mark.parametrize(("name", "at", "mark"), MARKS)
def test_contents_are_known_by_their_marks(name: str, at: int, mark: bytes) -> None:
    assert content((bytes(at) + mark).ljust(0x11000, b"\0")) == name
    assert content((bytes(at) + mark)[:-1]) == ""


def test_nothing_is_known_of_other_bytes() -> None:
    assert content(b"") == ""
    assert content(b"\xa5" * 0x11000) == ""
