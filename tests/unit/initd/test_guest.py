"""auraed in a container or on a host: where it can run, and what it says where it cannot."""

import os
import socket
from pathlib import Path

import pytest

from initd import guest
from initd.boot import cgroups
from initd.guest import Unfit, check, own_cgroup, runs_already


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """Files such as a delegated cgroup has."""
    (tmp_path / "cgroup.procs").write_text(f"{os.getpid()}\n")
    (tmp_path / "cgroup.type").write_text("domain\n")
    (tmp_path / "cgroup.controllers").write_text("cpu memory pids\n")
    return tmp_path


def test_its_cgroup_is_the_one_that_it_was_started_in(tmp_path: Path) -> None:
    (tmp_path / "self").mkdir()
    (tmp_path / "cgroup.controllers").touch()
    (tmp_path / "self/cgroup").write_text("0::/system.slice/auraed.service\n")
    assert own_cgroup(tmp_path, tmp_path) == tmp_path / "system.slice/auraed.service"
    (tmp_path / "self/cgroup").write_text("1:name=systemd:/x\n0::/\n")
    assert own_cgroup(tmp_path, tmp_path) == tmp_path
    (tmp_path / "self/cgroup").write_text("4:memory:/x\n")
    with pytest.raises(Unfit, match="names no cgroup of version 2"):
        own_cgroup(tmp_path, tmp_path)
    (tmp_path / "cgroup.controllers").unlink()
    with pytest.raises(Unfit, match="has no cgroup of version 2: mount"):
        own_cgroup(tmp_path, tmp_path)


def test_it_wants_a_cgroup_of_its_own_but_for_the_root(base: Path) -> None:
    check(base)
    (base / "cgroup.procs").write_text(f"{os.getpid()}\n1\n")
    with pytest.raises(Unfit, match="holds other processes too: start auraed"):
        check(base)
    # The root cgroup has no such file.
    (base / "cgroup.type").unlink()
    check(base)


def test_another_auraed_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "initd.sock"
    assert not runs_already(path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(path))
        listener.listen()
        assert runs_already(path)
    assert not runs_already(path)


def test_the_tree_of_cgroups_is_left_from_the_inside_out(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (base / "auraed/initd").mkdir(parents=True)
    removed: list[Path] = []
    monkeypatch.setattr(os, "rmdir", lambda path: removed.append(Path(path)))
    cgroups.leave(str(base))
    assert removed == [base / "auraed/initd", base / "auraed"]
    for folder in (base / "auraed", base):
        assert (folder / "cgroup.subtree_control").read_text() == "-cpu -memory -pids"
    assert (base / "cgroup.procs").read_text() == str(os.getpid())


def test_what_another_left_is_emptied_and_links_are_not_followed(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").touch()
    folder = tmp_path / "run"
    (folder / "logs/1").mkdir(parents=True)
    (folder / "link").symlink_to(kept)
    (folder / "file").touch()
    guest._empty(folder)
    assert list(folder.iterdir()) == []
    assert (kept / "file").exists()
    guest._empty(tmp_path / "none")
