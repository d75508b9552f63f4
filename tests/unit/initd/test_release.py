"""Versions, manifests and bundles."""

import json
import struct
from collections.abc import Callable

import pytest

from initd import release
from initd.release import Manifest, Place, Reader, Unusable
from tests.unit.runtime.upgrade_node import Bundle, uki


def manifest(**changes: object) -> bytes:
    value = json.loads(Bundle().manifest)
    return json.dumps({**value, **changes}).encode()


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        ("1", "2"),
        ("1.9", "1.10"),
        ("1.0~rc1", "1.0"),
        ("1.0", "1.0.1"),
        ("1.0", "1.0^20250101"),
        ("0.1.0", "0.1.0-g1234"),
        ("1.0a", "1.0b"),
        ("1.a", "1.0"),
        ("9", "10"),
    ],
)
def test_versions_are_in_the_order_of_the_boot_loader(older: str, newer: str) -> None:
    assert release.compare(older, newer) < 0 < release.compare(newer, older)
    assert release.compare(older, older) == 0


def test_a_manifest_is_read_as_it_was_written() -> None:
    found = release.parse(Bundle().manifest)
    assert found.encode() == Bundle().manifest
    assert found.part("uki").name == "uki"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"\xff\xfe",
        b"[" * 100_000,
        manifest(format=2),
        manifest(parts=[]),
        manifest(version="../../etc"),
        manifest(version=""),
        manifest(version="-1"),
        manifest(roothash="abc"),
        manifest(architecture=5),
        manifest(parts=[{"name": "root", "size": -1, "sha256": "0" * 64, "stored": 1}] * 3),
    ],
)
def test_what_is_no_manifest_is_unusable(data: bytes) -> None:
    with pytest.raises(Unusable):
        release.parse(data)


@pytest.mark.parametrize(
    "start", [b"", b"short", b"NOTABUNDLE!!", release.MAGIC + struct.pack("<I", 1 << 30)]
)
def test_what_does_not_begin_as_a_bundle_is_none(start: bytes) -> None:
    with pytest.raises(Unusable, match="bundle"):
        release.manifest_length(start)


def parsed(bundle: Bundle) -> Manifest:
    return release.parse(bundle.manifest)


@pytest.mark.parametrize("size", [1, 7, 1 << 20])
def test_a_bundle_can_be_read_in_any_pieces_and_from_any_of_its_own(size: int) -> None:
    bundle = Bundle(root=b"r" * (3 << 20))
    reader = Reader(parsed(bundle), Place())
    parts: dict[str, bytes] = {}
    places = [Place()]
    for at in range(0, len(bundle.content), size):
        for piece in reader.feed(bundle.content[at : at + size]):
            assert piece.offset == len(parts.get(piece.part.name, b""))
            parts[piece.part.name] = parts.get(piece.part.name, b"") + piece.data
            places.append(piece.after)
    reader.end()
    assert parts == {"root": bundle.root, "verity": bundle.tree, "uki": bundle.uki}
    for place in places:
        later = Reader(parsed(bundle), place)
        assert [p.after for p in later.feed(bundle.content[place.stored :])] == places[
            places.index(place) + 1 :
        ]
        later.end()


def test_any_byte_that_is_changed_in_a_bundle_is_found_or_changes_a_part() -> None:
    bundle = Bundle(root=b"root" * 100)
    for at in range(0, len(bundle.content), 3):
        changed = bytearray(bundle.content)
        changed[at] ^= 0x10
        reader = Reader(parsed(bundle), Place())
        parts = {}
        try:
            for piece in reader.feed(bytes(changed)):
                parts[piece.part.name] = piece.data
            reader.end()
        except Unusable:
            continue
        # Zlib's own sum is of the content: what is left is what says how it was packed.
        assert parts == {"root": bundle.root, "verity": bundle.tree, "uki": bundle.uki}


def reading(data: bytes) -> Callable[[int, int], bytes]:
    return lambda at, length: data[at : at + length]


def test_an_efi_program_says_what_it_boots() -> None:
    machine, found = release.sections(reading(uki("a" * 64)), (".cmdline", ".osrel"))
    assert machine == release.MACHINES["x86_64"]
    assert release.roothash_of(found[".cmdline"].rstrip(b"\0").decode()) == "a" * 64
    assert release.release_of(found[".osrel"]) == "2.0"
    assert release.release_of(b"ID=aurae") == ""
    assert release.roothash_of("quiet") == ""
    for data in (b"", b"MZ", b"MZ" + bytes(100), uki("a" * 64)[:70]):
        with pytest.raises(Unusable):
            release.sections(reading(data), (".cmdline",))
