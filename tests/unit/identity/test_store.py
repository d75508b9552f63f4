"""Keys and certificates on a disk: never overwritten, never half there."""

import os
import stat
from pathlib import Path

import pytest

from runtime.identity.authority import Pair
from runtime.identity.store import PairFiles, create

OLD = Pair(b"old certificate", b"old key")
NEW = Pair(b"new certificate", b"new key")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_key_is_its_owners_only(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        PairFiles.at(tmp_path / "pki/ca").write(NEW)
    finally:
        os.umask(before)
    assert mode(tmp_path / "pki") == 0o700
    assert mode(tmp_path / "pki/ca.key") == 0o600
    assert contents(tmp_path / "pki") == {"ca.crt": b"new certificate", "ca.key": b"new key"}


def test_a_name_may_have_dots(tmp_path: Path) -> None:
    PairFiles.at(tmp_path / "a.b").write(NEW)
    assert set(contents(tmp_path)) == {"a.b.crt", "a.b.key"}


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    files = PairFiles.at(tmp_path / "ca")
    files.write(OLD)
    with pytest.raises(FileExistsError):
        files.leftover_key()
    with pytest.raises(FileExistsError):
        files.write(NEW)
    assert files.load() == OLD
    assert len(contents(tmp_path)) == 2


@pytest.mark.parametrize("there", ["ca.crt", "ca.key"])
def test_half_of_a_pair_is_not_overwritten_either(tmp_path: Path, there: str) -> None:
    (tmp_path / there).write_bytes(b"precious")
    with pytest.raises(FileExistsError):
        PairFiles.at(tmp_path / "ca").write(NEW)
    assert (tmp_path / there).read_bytes() == b"precious"


def test_a_link_to_nowhere_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "ca.crt").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FileExistsError):
        PairFiles.at(tmp_path / "ca").write(NEW)
    assert not (tmp_path / "elsewhere").exists()


def test_a_failure_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is full when the certificate's turn comes."""
    link = os.link

    def full(source: str, target: Path) -> None:
        if target.suffix == ".crt":
            raise OSError(28, "No space left on device")
        link(source, target)

    monkeypatch.setattr(os, "link", full)
    with pytest.raises(OSError, match="No space left"):
        PairFiles.at(tmp_path / "ca").write(NEW)
    assert contents(tmp_path) == {}


def test_a_key_that_a_crash_left_is_finished(tmp_path: Path) -> None:
    """As after a crash between key and certificate: the next run certifies that key."""
    files = PairFiles.at(tmp_path / "ca")
    create(files.key, b"old key", 0o600)
    key = files.leftover_key()
    assert key == b"old key"
    files.write(Pair(b"new certificate", key))
    assert files.load() == Pair(b"new certificate", b"old key")


def test_of_two_at_once_one_wins_with_both_its_files(tmp_path: Path) -> None:
    """The other one wrote its key before us and its certificate after we looked."""
    files = PairFiles.at(tmp_path / "ca")
    assert files.leftover_key() is None
    files.write(OLD)
    with pytest.raises(FileExistsError):
        files.write(NEW)
    assert files.load() == OLD
