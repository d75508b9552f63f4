"""Two builds are compared to the byte."""

from pathlib import Path

from image import reproduce


def build(folder: Path, **files: bytes) -> Path:
    for name, content in {"vmlinuz": b"kernel", "cloud/pxe/script": b"boot", **files}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    for unneeded in ("venv/x", "image/root/etc/os-release", "node/x", "cloud/image/root/x"):
        (folder / unneeded).parent.mkdir(parents=True, exist_ok=True)
        (folder / unneeded).write_text("of no account")
    return folder


def test_equal_builds_have_no_difference(tmp_path: Path) -> None:
    one, two = build(tmp_path / "one"), build(tmp_path / "two")
    (two / "venv/x").write_text("another")
    assert reproduce.compare(one, two) == []
    assert reproduce.artifacts(one) == {"vmlinuz", "cloud/pxe/script"}


def test_a_changed_byte_is_named_with_its_place_and_what_of_the_root_it_may_come_from(
    tmp_path: Path,
) -> None:
    image = bytearray(3 << 20)
    one = build(tmp_path / "one", img=bytes(image))
    image[2_500_000] = 1
    two = build(tmp_path / "two", img=bytes(image))
    (two / "image/root/etc/os-release").write_text("changed")
    assert reproduce.compare(one, two) == [
        "img: differs from byte 2500000 on",
        "    image/root: /etc/os-release differs",
    ]


def test_a_longer_file_and_one_that_only_one_build_has_are_differences(tmp_path: Path) -> None:
    one = build(tmp_path / "one", img=b"abc", more=b"")
    two = build(tmp_path / "two", img=b"abcd")
    assert reproduce.compare(one, two) == [
        "more: only one build has it",
        "img: differs from byte 3 on",
    ]


def test_the_second_build_is_in_memory_where_that_is_large_enough(tmp_path: Path) -> None:
    assert reproduce.other_folder(tmp_path / "none") == reproduce.FOLDER
    memory = reproduce.MEMORY
    if memory.is_dir() and memory.stat().st_dev != reproduce.PROJECT.stat().st_dev:
        assert reproduce.other_folder(room=0) == memory / "aurae-reproduce"
        assert reproduce.other_folder(room=1 << 60) == reproduce.FOLDER
    one, two = reproduce.circumstances(tmp_path)
    assert one.place.is_relative_to(reproduce.FOLDER)
    assert two.place.is_relative_to(tmp_path)
