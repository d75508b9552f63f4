"""A root is found by its content: `initd.boot.verity` and `initd.boot.verified`, on files."""

import hashlib
import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from image import disk
from initd.boot import attempts, booted, esp, verified, verity
from initd.boot.booted import Booted
from initd.boot.verified import NotFoundError
from tests.unit.initd import tree

DATA = os.urandom(300 * tree.SIZE)
TREE, HASH = tree.make(DATA)
IMAGE = "5a" * 32


def partition(disk: str, number: int, label: str) -> dict[str, str]:
    numbers = {"MAJOR": "254", "MINOR": str(number), "PARTN": str(number)}
    names = {"DEVNAME": f"{disk}{number}", "DISK": disk, "PARTNAME": label}
    return {"DEVTYPE": "partition", **names, **numbers}


def slots_of(disk: str) -> list[dict[str, str]]:
    slots = ("aurae-root-a", "aurae-verity-a", "aurae-root-b", "aurae-verity-b")
    labels = (*slots, "aurae-root-emergency", "aurae-verity-emergency")
    parts = [partition(disk, number, label) for number, label in enumerate(labels, 1)]
    return [{"DEVNAME": disk, "DEVTYPE": "disk", "MAJOR": "254", "MINOR": "0"}, *parts]


class TestTree:
    def test_is_of_the_root_whose_hash_is_that_of_its_top(self) -> None:
        found = verity.parse(TREE)
        assert found is not None
        assert (found.data_blocks, found.salt) == (300, b"salt")
        assert verity.has(found, HASH)
        assert not verity.has(found, HASH.replace(HASH[0], "0" if HASH[0] != "0" else "1"))

    def test_without_salt_or_of_one_level_is_one_too(self) -> None:
        small, root_hash = tree.make(bytes(tree.SIZE), b"")
        found = verity.parse(small)
        assert found is not None
        assert verity.has(found, root_hash)

    @pytest.mark.parametrize("at", [4096, 4096 + 77, 8191, 88, 88 + 3])
    def test_with_another_top_or_salt_is_of_another_root(self, at: int) -> None:
        changed = bytearray(TREE)
        changed[at] ^= 1
        found = verity.parse(bytes(changed))
        assert found is not None
        assert not verity.has(found, HASH)

    @pytest.mark.parametrize(
        ("at", "value"),
        [
            pytest.param(0, b"Verity", id="signature"),
            pytest.param(8, struct.pack("<I", 2), id="version"),
            pytest.param(12, struct.pack("<I", 0), id="hash type"),
            pytest.param(32, b"sha512", id="algorithm"),
            pytest.param(64, struct.pack("<I", 512), id="data block size"),
            pytest.param(68, struct.pack("<I", 1024), id="hash block size"),
            pytest.param(72, struct.pack("<Q", 0), id="no data"),
            pytest.param(80, struct.pack("<H", 257), id="more salt than there is room for"),
        ],
    )
    def test_of_another_kind_is_none(self, at: int, value: bytes) -> None:
        assert verity.parse(TREE[:at] + value + TREE[at + len(value) :]) is None

    def test_that_is_cut_off_is_none(self) -> None:
        assert verity.parse(TREE[:8191]) is None
        assert verity.parse(b"") is None

    def test_may_say_which_boot_image_goes_with_its_root(self, tmp_path: Path) -> None:
        image, file = tmp_path / "aurae.efi", tmp_path / "root.verity"
        image.write_bytes(b"kernel and all")
        file.write_bytes(TREE)
        assert verity.parse(TREE) == verity.read(str(file))
        disk.seal(file, image)
        found = verity.read(str(file))
        assert found is not None
        assert found.image == hashlib.sha256(image.read_bytes()).hexdigest()
        assert verity.has(found, HASH)

    @pytest.mark.parametrize("line", [b"aurae-boot-image 5a\n", b"other " + b"5a" * 32, b"\xff\n"])
    def test_whose_line_is_not_understood_says_nothing(self, line: bytes) -> None:
        found = verity.parse(tree.make(DATA, tail=line)[0])
        assert found is not None
        assert found.image == ""


def test_the_table_names_both_devices_and_restarts_on_corruption() -> None:
    (slot, _) = verity.slots(slots_of("vda"))
    found = verity.parse(TREE)
    assert found is not None
    assert verity.table(slot, found, HASH) == (
        f"1 254:1 254:2 4096 4096 300 1 sha256 {HASH} {b'salt'.hex()} 1 restart_on_corruption"
    )


def test_a_slot_is_a_root_and_a_tree_of_one_name_on_one_disk() -> None:
    devices = [
        *slots_of("vdb"),
        partition("vda", 1, "aurae-root-a"),
        partition("vdc", 1, "aurae-verity-a"),
        partition("vdd", 1, "aurae-verity-c"),
        partition("vdd", 2, "aurae-root-c"),
    ]
    found = [(slot.name, slot.disk, slot.root, slot.tree) for slot in verity.slots(devices)]
    assert found == [("a", "vdb", "vdb1", "vdb2"), ("b", "vdb", "vdb3", "vdb4")]


def test_the_slot_is_the_one_that_has_the_hash(tmp_path: Path) -> None:
    (tmp_path / "vda2").write_bytes(tree.make(DATA, b"other")[0])
    (tmp_path / "vda4").write_bytes(TREE)
    candidates = verity.slots([*slots_of("vda"), *slots_of("vdb")])
    assert [slot.name for slot in verity.holding(candidates, HASH, str(tmp_path))] == ["b"]


def test_the_emergency_root_is_no_slot_and_is_not_found_as_one(tmp_path: Path) -> None:
    devices = slots_of("vda")
    (found,) = verity.slots(devices, (verity.EMERGENCY,))
    assert (found.root, found.tree) == ("vda5", "vda6")
    # It holds the same root as a slot does.
    for name in ("vda2", "vda4", "vda6"):
        (tmp_path / name).write_bytes(TREE)
    holding = verity.holding(verity.slots(devices), HASH, str(tmp_path))
    assert [slot.name for slot in holding] == ["a", "b"]


class TestFinding:
    def test_looks_again_until_the_disk_is_there(self, monkeypatch: pytest.MonkeyPatch) -> None:
        looks = [[], [], slots_of("vda")]
        monkeypatch.setattr(verity, "holding", lambda candidates, _: list(candidates))
        assert verified.find(HASH, iter(looks)).disk == "vda"

    def test_ends_soon_where_there_are_slots_and_says_which(self) -> None:
        def looks() -> Iterator[list[dict[str, str]]]:
            while True:
                yield slots_of("nosuch")

        with pytest.raises(NotFoundError, match="there is a on nosuch, b on nosuch"):
            verified.find(HASH, looks(), settle=0)

    @pytest.mark.parametrize("wrong", ["", "5a", HASH[:-1], HASH.upper() + "0", "g" * 64])
    def test_refuses_what_is_no_hash(self, wrong: str) -> None:
        with pytest.raises(NotFoundError, match="64 hexadecimal"):
            verified.find(wrong, [])

    def test_of_the_emergency_root_looks_at_no_slot(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(verity, "holding", lambda candidates, _: list(candidates))
        looks = [slots_of("vda")]
        assert verified.find(HASH, looks, (verity.EMERGENCY,)).name == verity.EMERGENCY
        with pytest.raises(NotFoundError, match="no slot at all"):
            verified.find(HASH, [looks[0][:5]], (verity.EMERGENCY,))

    def test_says_that_there_is_no_slot(self) -> None:
        with pytest.raises(NotFoundError, match="no slot at all"):
            verified.find(HASH, [[]])


class TestAttempts:
    @pytest.fixture
    def sector(self, tmp_path: Path) -> Path:
        path = tmp_path / "attempts"
        path.write_bytes(os.urandom(512) + b"kept" * 128)
        return path

    def test_count_from_none_whatever_is_there(self, sector: Path) -> None:
        assert attempts.read(str(sector)) == attempts.Attempts()
        assert [attempts.add(str(sector), HASH) for _ in range(4)] == [0, 1, 2, 3]
        assert attempts.read(str(sector)) == attempts.Attempts(HASH, 4)
        assert sector.read_bytes()[512:] == b"kept" * 128

    def test_begin_anew_once_a_boot_was_healthy(self, sector: Path) -> None:
        attempts.add(str(sector), HASH)
        attempts.clear(str(sector), HASH)
        assert attempts.read(str(sector)) == attempts.Attempts(HASH, 0)
        assert attempts.add(str(sector), HASH) == 0

    def test_of_one_root_are_not_those_of_another(self, sector: Path) -> None:
        attempts.add(str(sector), HASH)
        attempts.add(str(sector), HASH)
        assert attempts.add(str(sector), IMAGE) == 0
        assert attempts.add(str(sector), IMAGE) == 1

    @pytest.mark.parametrize(
        "text", [b"", b"aurae-attempts", b"aurae-attempts x -1\n", b"aurae-attempts x 1 2\n"]
    )
    def test_that_are_not_understood_are_none(self, sector: Path, text: bytes) -> None:
        sector.write_bytes(text.ljust(512, b"\0"))
        assert attempts.read(str(sector)) == attempts.Attempts()

    def test_are_on_the_disk_that_was_booted(self, tmp_path: Path) -> None:
        for name, parent in (("vda2", "vda"), ("vdb2", "vdb")):
            part = tmp_path / "devices" / parent / name
            part.mkdir(parents=True)
            text = f"DEVNAME={name}\nDEVTYPE=partition\nPARTNAME={attempts.LABEL}\n"
            (part / "uevent").write_text(text)
            (tmp_path / "class").mkdir(exist_ok=True)
            (tmp_path / "class" / name).symlink_to(part)
        assert attempts.find_device("vdb", str(tmp_path / "class")) == "/dev/vdb2"
        assert attempts.find_device("vdc", str(tmp_path / "class")) is None


class TestBooted:
    def test_is_read_as_it_was_written(self, tmp_path: Path) -> None:
        told = Booted("a", "vda", HASH, "/dev/dm-0")
        path = str(tmp_path / "run/boot.json")
        booted.write(told, path)
        assert booted.read(path) == told

    @pytest.mark.parametrize("text", ["", "[]", '{"slot": 1, "else": "x"}', "\xff"])
    def test_is_nothing_where_there_is_something_else(self, tmp_path: Path, text: str) -> None:
        path = tmp_path / "boot.json"
        assert booted.read(str(path)) == Booted()
        path.write_text(text, encoding="latin-1")
        assert booted.read(str(path)) == Booted()


def test_the_disk_has_the_partitions_that_the_node_looks_for() -> None:
    definitions = Path(disk.__file__).parent / "repart"
    texts = [path.read_text() for path in sorted(definitions.glob("*.conf"))]
    labels = [line[6:] for text in texts for line in text.splitlines() if line.startswith("Label=")]
    kinds = (verity.ROOT_LABEL, verity.TREE_LABEL)
    slots = [f"{kind}{name}" for name in verity.SLOTS for kind in kinds]
    emergency = [f"{kind}{verity.EMERGENCY}" for kind in reversed(kinds)]
    assert labels == [esp.LABEL, attempts.LABEL, *emergency, *slots]
