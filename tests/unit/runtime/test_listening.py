"""Names of Unix sockets are anybody's text, in the one table that tells who listens."""

import os
import socket
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from runtime.cells.listening import listens


@pytest.mark.parametrize(
    "name",
    [
        "A B C ZZ E F G {path}",
        "A: B C ZZ E F G {path}",
        "0: 00000002 00000000 0001000g 0001 01 {inode} {path}",
        "0: 00000002 00000000 00010000 0001 01 {inode}",
        "0: 00000002 00000000 00010000 0001 01 none {path}",
        "0: 00000002 00000000 00010000 0001 01 1 {path}",
    ],
)
def test_a_socket_whose_name_looks_like_lines_is_not_taken_for_others(
    tmp_path: Path, name: str
) -> None:
    with socket.socket(socket.AF_UNIX) as forger:
        inode = os.fstat(forger.fileno()).st_ino
        forger.bind(f"\0{tmp_path.name[-9:]}\n{name.format(path='/s', inode=inode)}")
        assert not listens([os.getpid()], "/s")


def test_the_table_is_read_on_behind_what_is_no_line(
    tmp_path: Path,
) -> None:
    path = f"/{tmp_path.name}/s"
    line = "Num: RefCount Protocol Flags Type St Inode Path\n"
    (tmp_path / "1/net").mkdir(parents=True)
    (tmp_path / "1/fd").mkdir()
    (tmp_path / "1/fd/3").symlink_to("socket:[7]")
    true = f"0000000000000000: 00000002 00000000 00010000 0001 01     7 {path}\n"
    for forged in ("", "A B C ZZ E F G /s\n", "\x85\r\x1c\n", "\n\n", f"x\u2028{true}"):
        (tmp_path / "1/net/unix").write_bytes(f"{line}{forged}{true}".encode() + b"\xff\n")
        assert listens([1], path, tmp_path)
        (tmp_path / "1/net/unix").write_bytes(f"{line}{forged}".encode())
        assert not listens([1], path, tmp_path)


def test_one_that_listens_at_a_path_is_found_and_none_that_only_has_the_name() -> None:
    with TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as server:
        path = f"{folder}/s"
        server.bind(path)
        assert not listens([os.getpid()], path)
        server.listen()
        assert listens([os.getpid()], path)
        assert not listens([os.getppid()], path)
