"""When a disk is no longer there."""

import socket
from pathlib import Path

import pytest

from runtime.install import target


def test_a_disk_that_nobody_can_open_any_more_is_gone_before_sysfs_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(target, "_BLOCK", tmp_path / "block")
    disk = tmp_path / "vda"
    disk.touch()
    assert target.is_gone(str(disk))
    (tmp_path / "block/vda").mkdir(parents=True)
    assert not target.is_gone(str(disk))
    disk.unlink()
    # To open it is ENXIO, as of a disk on its way out.
    with socket.socket(socket.AF_UNIX) as dying:
        dying.bind(str(disk))
        assert target.is_gone(str(disk))
