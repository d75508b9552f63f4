"""The EFI system partition: names, and what a power cut at any point leaves."""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from initd.boot import esp
from initd.boot.esp import Entry, Esp
from initd.boot.fat import Fat
from tests.unit.initd.fat_image import checked, make

OLD = b"old version " * 5000
NEW = b"new version " * 7000


def add(partition: Esp, name: str, content: bytes) -> None:
    writer = partition.writer(len(content))
    writer.write(0, content)
    writer.settle()
    assert writer.read(0, len(content)) == content
    writer.commit(esp.FOLDER, name)


def names(partition: Esp) -> dict[str, bytes]:
    found = [present.file for present in partition.entries()]
    return {file.name: partition.fat.read(file, 0, file.size) for file in found}


@pytest.fixture(params=[(512, 4), (512, 8), (4096, 1)], ids=lambda p: f"{p[0]}x{p[1]}")
def image(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    path = make(tmp_path / "esp", *request.param)
    with esp.opened(str(path)) as partition:
        add(partition, "aurae_1.0.efi", OLD)
    return path


class Cut(Exception):
    """The power is gone."""


@contextmanager
def power_until(writes: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """So many writes to the disk are made, and the next one is not."""
    count = [0]
    pwrite = os.pwrite

    def counted(fd: int, data: bytes, offset: int) -> int:
        if count[0] == writes:
            raise Cut
        count[0] += 1
        return pwrite(fd, data, offset)

    with monkeypatch.context() as patch:
        patch.setattr("initd.boot.fat.os.pwrite", counted)
        yield count


def after_each_cut(
    image: Path,
    action: Callable[[Esp], object],
    look: Callable[[Esp], None],
    monkeypatch: pytest.MonkeyPatch,
) -> int:
    """Cut the power after every write of `action`, and look. Returns how many there are."""
    before = image.read_bytes()
    for writes in range(1000):
        image.write_bytes(before)
        with power_until(writes, monkeypatch):
            try:
                with esp.opened(str(image)) as partition:
                    action(partition)
            except Cut:
                done = False
            else:
                done = True
        with esp.opened(str(image)) as partition:
            look(partition)
            partition.mend()
            look(partition)
            assert len({p.file.cluster for p in partition.entries()}) == len(partition.entries())
        assert not checked(image)
        if done:
            return writes
    raise AssertionError("it has no end")


@pytest.mark.parametrize(
    ("name", "entry"),
    [
        ("aurae_0.1.0.efi", Entry("0.1.0")),
        ("aurae_0.1.0+3.efi", Entry("0.1.0", 3)),
        ("aurae_0.1.0+2-1.efi", Entry("0.1.0", 2, 1)),
        ("aurae_0.1.0+0-3.efi", Entry("0.1.0", 0, 3)),
        ("AURAE_0.1.0+00-03.EFI", Entry("0.1.0", 0, 3)),
        ("aurae_0.1.0+gabc123.efi", Entry("0.1.0+gabc123")),
        ("aurae_0.1.0+gabc123+1-2.efi", Entry("0.1.0+gabc123", 1, 2)),
        ("aurae_0.1.0+1-.efi", Entry("0.1.0+1-")),
        ("aurae_.efi", None),
        ("aurae-emergency.efi", None),
        ("aurae_0.1.0.efi.part", None),
        ("other_0.1.0.efi", None),
    ],
)
def test_a_file_name_says_version_and_counts(name: str, entry: Entry | None) -> None:
    assert esp.parse(name) == entry


def test_a_name_is_written_as_it_is_read() -> None:
    for name in ("aurae_1.efi", "aurae_1+3.efi", "aurae_1+2-1.efi", "aurae_1+0-3.efi"):
        entry = esp.parse(name)
        assert entry is not None
        assert entry.name == name


def test_an_entry_is_added_blessed_marked_and_removed(image: Path) -> None:
    with esp.opened(str(image)) as partition:
        before = partition.fat.free
        add(partition, Entry("2.0", esp.TRIES).name, NEW)
        assert names(partition) == {"aurae_1.0.efi": OLD, "aurae_2.0+3.efi": NEW}
        assert partition.bless("2.0")
        assert not partition.bless("2.0")
        assert partition.mark_bad("1.0")
        assert not partition.mark_bad("1.0")
        assert names(partition) == {"aurae_1.0+0-3.efi": OLD, "aurae_2.0.efi": NEW}
        found = partition.find("2.0")
        assert found is not None
        partition.remove(found)
        assert partition.fat.free == before
    assert not checked(image)
    with esp.opened(str(image)) as partition:
        assert names(partition) == {"aurae_1.0+0-3.efi": OLD}


def test_long_and_many_names_find_their_place(image: Path) -> None:
    versions = [f"1.0.{n}-{'x' * (n * 3)}" for n in range(10)]
    # A folder of one small cluster is full at some time.
    with suppress(OSError), esp.opened(str(image)) as partition:
        for version in versions:
            add(partition, Entry(version, 3).name, b"x")
    with esp.opened(str(image)) as partition:
        held = [p.entry.version for p in partition.entries()]
        assert held[0] == "1.0"
        assert held[1:] == versions[: len(held) - 1]
        if len(held) == len(versions) + 1:
            assert all(map(partition.mark_bad, versions))
            assert [p.entry.left for p in partition.entries()].count(0) == len(versions)
    assert not checked(image)


def test_a_cut_amid_a_new_entry_leaves_none_or_all_of_it(
    image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def look(partition: Esp) -> None:
        found = names(partition)
        assert found.pop("aurae_1.0.efi") == OLD
        assert found in ({}, {"aurae_2.0+3.efi": NEW})

    assert after_each_cut(image, lambda p: add(p, "aurae_2.0+3.efi", NEW), look, monkeypatch) > 3


@pytest.mark.parametrize("fill", range(8))
def test_a_cut_amid_blessing_leaves_the_version_bootable(
    image: Path, fill: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with esp.opened(str(image)) as partition:
        # Entries of several lengths before it: its own lies across a sector's end in some.
        for number in range(fill):
            add(partition, f"other-{number}-{'y' * number * 5}.efi", b"y")
        add(partition, "aurae_2.0+2-1.efi", NEW)

    def look(partition: Esp) -> None:
        held = [p for p in partition.entries() if p.entry.version == "2.0"]
        assert held
        assert all(partition.fat.read(p.file, 0, p.file.size) == NEW for p in held)
        assert {p.entry for p in held} <= {Entry("2.0"), Entry("2.0", 2, 1)}

    after_each_cut(image, lambda p: p.bless("2.0"), look, monkeypatch)


@pytest.mark.parametrize("fill", range(8))
def test_a_cut_amid_marking_leaves_the_version_good_or_bad(
    image: Path, fill: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with esp.opened(str(image)) as partition:
        for number in range(fill):
            add(partition, f"other-{number}.efi", b"y")
        # One more slot is needed for its name when it is bad.
        add(partition, "aurae_2.0.0-gabc.efi", NEW)

    def look(partition: Esp) -> None:
        held = [p for p in partition.entries() if p.entry.version == "2.0.0-gabc"]
        assert held
        assert all(partition.fat.read(p.file, 0, p.file.size) == NEW for p in held)

    after_each_cut(image, lambda p: p.mark_bad("2.0.0-gabc"), look, monkeypatch)


def test_a_cut_amid_removal_leaves_no_part_of_the_file(
    image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with esp.opened(str(image)) as partition:
        add(partition, "aurae_2.0+0-3.efi", NEW)

    def remove(partition: Esp) -> None:
        found = partition.find("2.0")
        assert found is not None
        partition.remove(found)

    def look(partition: Esp) -> None:
        found = names(partition)
        assert found.pop("aurae_1.0.efi") == OLD
        assert found in ({}, {"aurae_2.0+0-3.efi": NEW})

    after_each_cut(image, remove, look, monkeypatch)


def test_what_has_no_room_is_refused_before_a_write(
    image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        power_until(0, monkeypatch),
        esp.opened(str(image)) as partition,
        pytest.raises(OSError, match="are free") as refused,
    ):
        partition.writer(partition.fat.free + 1)
    assert refused.value.errno == errno.ENOSPC


def test_what_is_not_fat32_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(os.urandom(1 << 16))
    with pytest.raises(OSError, match="FAT"), esp.opened(str(path)):
        pass


def test_a_chain_that_leads_nowhere_is_an_error(image: Path) -> None:
    with esp.opened(str(image)) as partition:
        found = partition.find("1.0")
        assert found is not None
        partition.fat._table[found.file.cluster] = 1 << 27
        with pytest.raises(OSError, match="broken"):
            partition.fat.read(found.file, 0, 10)


def test_files_of_others_are_left_alone(image: Path) -> None:
    with esp.opened(str(image)) as partition:
        add(partition, "windows.efi", b"theirs")
        partition.mend()
        found = partition.fat.find(esp.FOLDER, "WINDOWS.EFI")
        assert partition.fat.read(found, 0, 100) == b"theirs"
        assert [p.entry.version for p in partition.entries()] == ["1.0"]


def test_the_started_entry_is_known_from_the_boot_loader(tmp_path: Path) -> None:
    variable = tmp_path / esp._SELECTED
    variable.write_bytes(b"\x06\0\0\0" + "aurae_2.0+2-1.efi\0".encode("utf-16-le"))
    assert esp.running_entry(str(tmp_path)) == Entry("2.0", 2, 1)
    assert esp.running_entry(str(tmp_path / "none")) is None


def test_the_partition_of_the_started_disk_is_chosen(tmp_path: Path) -> None:
    for disk in ("vda", "vdb"):
        partition = tmp_path / "devices" / disk / f"{disk}1"
        partition.mkdir(parents=True)
        (partition / "uevent").write_text(
            f"DEVNAME={disk}1\nDEVTYPE=partition\nPARTNAME={esp.LABEL}\n"
        )
        (tmp_path / "block").mkdir(exist_ok=True)
        (tmp_path / "block" / f"{disk}1").symlink_to(partition)
    block = str(tmp_path / "block")
    assert esp.find_device("vdb", block) == "/dev/vdb1"
    with pytest.raises(OSError, match="several"):
        esp.find_device("", block)
    with pytest.raises(OSError, match="no partition"):
        esp.find_device("sda", block)


def test_a_file_system_is_read_as_fat_reads_it(image: Path) -> None:
    fd = os.open(image, os.O_RDWR)
    try:
        fat = Fat(fd, str(image))
        assert [file.name for file in fat.files("")] == ["EFI"]
        assert [file.name for file in fat.files("efi/linux")] == ["aurae_1.0.efi"]
        with pytest.raises(FileNotFoundError):
            fat.files("EFI/none")
    finally:
        os.close(fd)
