import io
import stat
from pathlib import Path, PurePosixPath

from image.cpio import Archive


def packed(source: Path) -> bytes:
    output = io.BytesIO()
    archive = Archive(output)
    archive.tree(PurePosixPath("/"), source)
    archive.close()
    return output.getvalue()


def entries(data: bytes) -> dict[str, tuple[int, bytes]]:
    """Name to mode and content, read as the kernel's buffer-format.rst says."""
    found: dict[str, tuple[int, bytes]] = {}
    at = 0
    while True:
        assert data[at : at + 6] == b"070701"
        fields = [int(data[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in range(13)]
        mode, size, length = fields[1], fields[6], fields[11]
        name = data[at + 110 : at + 110 + length - 1].decode()
        start = at + 110 + length
        start += -start % 4
        if name == "TRAILER!!!":
            assert start % 4 == 0
            return found
        found[name] = (mode, data[start : start + size])
        at = start + size + -size % 4


def test_a_tree_is_packed_with_its_kinds_modes_and_contents(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/program").write_bytes(b"odd")
    (tmp_path / "folder/program").chmod(0o750)
    (tmp_path / "link").symlink_to("folder/program")
    found = entries(packed(tmp_path))
    assert found["folder"] == (stat.S_IFDIR | 0o755, b"")
    assert found["folder/program"] == (stat.S_IFREG | 0o750, b"odd")
    assert found["link"] == (stat.S_IFLNK | 0o777, b"folder/program")


def test_the_same_tree_gives_the_same_bytes_wherever_and_whenever_it_lies(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    for name in ("one/b", "one/a", "two/a", "two/b"):
        (tmp_path / name).write_text(name[-1])
    assert packed(tmp_path / "one") == packed(tmp_path / "two")


def test_folders_above_an_entry_are_packed_once_and_before_it() -> None:
    output = io.BytesIO()
    archive = Archive(output)
    archive.data(PurePosixPath("/a/b/one"), b"1")
    archive.data(PurePosixPath("/a/b/two"), b"2")
    archive.close()
    assert list(entries(output.getvalue())) == ["a", "a/b", "a/b/one", "a/b/two"]


def test_device_nodes_carry_their_numbers() -> None:
    output = io.BytesIO()
    archive = Archive(output)
    archive.character_device(PurePosixPath("/console"), 5, 1, 0o600)
    header = output.getvalue()
    assert int(header[14:22], 16) == stat.S_IFCHR | 0o600
    assert (int(header[78:86], 16), int(header[86:94], 16)) == (5, 1)


def test_another_archive_may_follow(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    assert len(packed(tmp_path)) % 4 == 0
