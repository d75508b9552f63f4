"""`aer image write`: to files, and to loop devices where this host lets us."""

import errno
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from aer import hostdisk, progress
from runtime.install import gpt, target
from tests.unit.install.images import ARM, MIB, image, sparse

from .conftest import Result

Aer = Callable[..., Result]


@pytest.fixture(autouse=True)
def _nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """No terminal, whoever runs the tests."""
    monkeypatch.setattr(progress, "TERMINAL", "/dev/does-not-exist")
    monkeypatch.setattr("platform.machine", lambda: "x86_64")


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return sparse(tmp_path / "aurae.img", image())


@pytest.fixture
def packed(raw: Path) -> Path:
    subprocess.run(["zstd", "-q", raw], check=True)
    return raw.with_name("aurae.img.zst")


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[Path]:
    """A disk of 40 MiB, full of old content."""
    backing = tmp_path / "backing"
    backing.write_bytes(b"\xa5" * (40 * MIB))
    made = subprocess.run(["losetup", "-f", "--show", backing], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"this host makes no loop devices: {made.stderr.strip()}")
    device = Path(made.stdout.strip())
    yield device
    subprocess.run(["losetup", "-d", device], check=True)


def test_a_file_of_the_wanted_size_is_made(aer: Aer, raw: Path, tmp_path: Path) -> None:
    made = tmp_path / "vm.img"
    done = aer("image", "write", str(raw), "--file", str(made), "--size", "1G")
    assert (done.status, done.err) == (0, "")
    assert "x86-64, 24.0 MiB" in done.out
    assert made.stat().st_size == 1 << 30
    assert made.stat().st_blocks * 512 < 9 * MIB, "it is sparse"
    with made.open("rb") as file:
        assert gpt.parse(file.read(gpt.HEAD)).size == 1 << 30


def test_a_packed_image_is_unpacked(aer: Aer, packed: Path, tmp_path: Path) -> None:
    made = tmp_path / "vm.img"
    done = aer("image", "write", str(packed), "--file", str(made), "-o", "json")
    assert (done.status, done.err) == (0, "")
    assert made.read_bytes() == image()
    told = json.loads(done.out)
    assert told["target"] == str(made)
    assert told["verified"] is True
    assert told["image_size"] == len(image())


def test_what_is_there_already_is_left(aer: Aer, raw: Path) -> None:
    before = raw.read_bytes()
    done = aer("image", "write", str(raw), "--file", str(raw))
    assert done.status == 1
    assert "exists already" in done.err
    assert raw.read_bytes() == before


@pytest.mark.parametrize("kind", ["cut", "damaged", "cut in the raw"])
def test_a_damaged_image_is_refused_and_leaves_no_file(
    aer: Aer, packed: Path, tmp_path: Path, kind: str
) -> None:
    content = bytearray(packed.read_bytes())
    if kind == "cut":
        del content[len(content) // 2 :]
    else:
        content[len(content) // 2] ^= 0xFF
    if kind == "cut in the raw":
        content = bytearray(image()[: 20 * MIB])
    bad = tmp_path / "bad"
    bad.write_bytes(content)
    made = tmp_path / "vm.img"
    done = aer("image", "write", str(bad), "--file", str(made))
    assert done.status == 1
    assert str(bad) in done.err
    assert "cannot be unpacked" in done.err or "cut off" in done.err
    assert not made.exists()


def test_an_image_for_another_machine_is_refused_unless_it_is_meant(
    aer: Aer, tmp_path: Path
) -> None:
    other = sparse(tmp_path / "arm.img", image(root=ARM))
    made = tmp_path / "vm.img"
    done = aer("image", "write", str(other), "--file", str(made))
    assert (done.status, done.out) == (1, "")
    assert "is for arm64, the machine is x86-64" in done.err
    assert not made.exists()
    done = aer("image", "write", str(other), "--file", str(made), "--architecture", "arm64")
    assert done.status == 0


def test_another_digest_is_refused(aer: Aer, raw: Path, tmp_path: Path) -> None:
    made = tmp_path / "vm.img"
    right = hashlib.sha256(image()).hexdigest()
    line = ("image", "write", str(raw), "--file", str(made), "--sha256")
    done = aer(*line, "0" * 64)
    assert done.status == 1
    assert f"its SHA-256 is {right}" in done.err
    assert aer(*line, right).status == 0


def test_the_command_line_says_where_to(aer: Aer, raw: Path) -> None:
    done = aer("image", "write", str(raw))
    assert (done.status, done.out) == (2, "")
    assert "--device or --file" in done.err


@pytest.mark.parametrize("where", ["/dev/null", "/etc/hostname", "/dev/none"])
def test_only_disks_are_written_to(aer: Aer, raw: Path, where: str) -> None:
    done = aer("image", "write", str(raw), "--device", where, "--yes")
    assert (done.status, done.out) == (1, "")
    assert "is no disk" in done.err or "No such file" in done.err


def test_a_disk_is_written_read_back_and_compared(
    aer: Aer, packed: Path, loop: Path, tmp_path: Path
) -> None:
    done = aer("image", "write", str(packed), "--device", str(loop), "--yes")
    assert done.status == 0, done.err
    assert "read back and compared" in done.out
    assert "nothing known is on it" in done.err
    content = (tmp_path / "backing").read_bytes()
    table = gpt.parse(content[: gpt.HEAD])
    inside = slice(table.head, len(image()) - table.tail)
    assert content[inside] == image()[inside]
    assert table.size == 40 * MIB
    shown = subprocess.run(["/sbin/blkid", "-p", loop], capture_output=True, text=True).stdout
    assert 'PTTYPE="gpt"' in shown


def test_nothing_is_done_where_nobody_can_be_asked(
    aer: Aer, raw: Path, loop: Path, tmp_path: Path
) -> None:
    done = aer("image", "write", str(raw), "--device", str(loop))
    assert (done.status, done.out) == (1, "")
    assert f"{loop}: 40.0 MiB" in done.err
    assert "nobody is here to be asked" in done.err
    assert "--yes" in done.err
    assert (tmp_path / "backing").read_bytes() == b"\xa5" * (40 * MIB)


@pytest.mark.parametrize(("answer", "status"), [("y\n", 0), ("yes\n", 0), ("\n", 1), ("n\n", 1)])
def test_who_sits_there_is_asked(
    aer: Aer,
    raw: Path,
    loop: Path,
    monkeypatch: pytest.MonkeyPatch,
    answer: str,
    status: int,
) -> None:
    ours, theirs = os.openpty()
    monkeypatch.setattr(progress, "TERMINAL", os.ttyname(theirs))
    os.write(ours, answer.encode())
    done = aer("image", "write", str(raw), "--device", str(loop))
    assert done.status == status
    asked = os.read(ours, 4096).decode()
    assert f"All that is on {loop} will be lost." in asked
    os.close(ours)
    os.close(theirs)


def test_a_disk_in_use_is_left_as_it_is(aer: Aer, raw: Path, loop: Path, tmp_path: Path) -> None:
    user = os.open(loop, os.O_RDONLY | os.O_EXCL)
    done = aer("image", "write", str(raw), "--device", str(loop), "--yes")
    os.close(user)
    assert done.status == 1
    assert "is in use" in done.err
    assert (tmp_path / "backing").read_bytes() == b"\xa5" * (40 * MIB)


def test_a_disk_that_is_removed_amid_it_is_said_to_boot_nothing(
    aer: Aer, raw: Path, loop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = target.Disk.write

    def removed(disk: target.Disk, at: int, data: bytes) -> None:
        if at >= 8 * MIB:
            raise OSError(errno.EIO, os.strerror(errno.EIO), disk.path)
        write(disk, at, data)

    monkeypatch.setattr(target.Disk, "write", removed)
    line = ("image", "write", str(raw), "--device", str(loop), "--yes")
    done = aer(*line)
    assert (done.status, done.out) == (1, "")
    assert f"{loop}: Input/output error, at " in done.err
    assert "it boots nothing now" in done.err
    monkeypatch.setattr(target, "is_gone", lambda _: True)
    assert f"{loop}: was removed, at " in aer(*line).err
    assert b"EFI PART" not in (tmp_path / "backing").read_bytes()


def test_from_stdin_a_disk_is_written(raw: Path, loop: Path) -> None:
    packed = subprocess.run(["zstd", "-c", raw], capture_output=True).stdout
    for content in (raw.read_bytes(), packed):
        line = ["aer", "image", "write", "-", "--device", str(loop), "--yes", "-o", "json"]
        line += ["--architecture", "x86-64"]
        done = run(line, content)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["image"] == "stdin"


def test_from_stdin_what_is_cut_off_leaves_a_disk_that_boots_nothing(
    loop: Path, tmp_path: Path
) -> None:
    line = ["aer", "image", "write", "-", "--device", str(loop), "--yes"]
    done = run([*line, "--architecture", "x86-64"], image()[: 9 * MIB])
    assert done.returncode == 1
    assert b"cut off" in done.stderr
    assert b"boots nothing now" in done.stderr
    assert b"EFI PART" not in (tmp_path / "backing").read_bytes()


def run(line: list[str], content: bytes) -> "subprocess.CompletedProcess[bytes]":
    words = [sys.executable, "-m", *line]
    return subprocess.run(words, input=content, capture_output=True, timeout=60, check=False)


LSBLK = """
{"path": "/dev/sda", "size": 2199023255552, "type": "disk", "fstype": null, "pttype": "gpt",
 "label": null, "partlabel": null, "mountpoints": [null], "model": "Disk  of  old",
 "serial": "X1", "rm": false, "ro": false, "tran": "sata", "children": [
  {"path": "/dev/sda1", "size": 1073741824, "type": "part", "fstype": "crypto_LUKS",
   "pttype": "gpt", "label": null, "partlabel": "safe", "mountpoints": [null], "children": [
    {"path": "/dev/mapper/safe", "size": 1073741824, "type": "crypt", "fstype": "ext4",
     "pttype": null, "label": "home", "partlabel": null, "mountpoints": ["/home", "[SWAP]"]}]}]}
"""


def test_what_is_on_a_disk_is_shown_down_to_what_is_made_of_it() -> None:
    found = hostdisk.parse(json.loads(LSBLK))
    assert found.uses == ("mounted on /home", "swap", "/dev/mapper/safe (crypt)")
    assert list(found.lines()) == [
        "/dev/sda: 2.0 TiB, Disk of old, serial X1, sata, not removable",
        "  PARTITION            SIZE  LABEL  CONTENT",
        "  /dev/sda1         1.0 GiB  safe   crypto_LUKS",
        "  /dev/mapper/safe  1.0 GiB  home   ext4",
    ]
