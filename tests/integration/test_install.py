"""A node is installed on a disk, and boots from it."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from aurae.node.v0 import install_pb2 as pb
from aurae.node.v0 import install_pb2_grpc

from image.machine import Drive
from testkit.machines import Machine, Machines

Boot = Callable[..., Machine]
GIB = 1 << 30
DISKS = ("/dev/vda", "/dev/vdb", "/dev/vdc", "/dev/vdd")
# Under emulation an image takes about a minute.
SECONDS = 300


def aer(machine: Machine, *words: str) -> "subprocess.CompletedProcess[str]":
    line = [sys.executable, "-m", "aer", *words, "--config", str(machine.config_file)]
    return subprocess.run(
        line, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=SECONDS, check=False
    )


def disks(machine: Machine) -> dict[str, pb.Disk]:
    stub = install_pb2_grpc.InstallServiceStub(machine.connect())
    return {disk.path: disk for disk in stub.ListDisks(pb.ListDisksRequest(), timeout=60).disks}


def all_disks(machine: Machine) -> dict[str, pb.Disk]:
    """Their drivers are loaded when the API already answers."""
    deadline = time.monotonic() + SECONDS
    while not set(DISKS) <= (found := disks(machine)).keys():
        machine.check()
        assert time.monotonic() < deadline, f"the node has only {', '.join(found)}"
    return found


def empty(path: Path, size: int) -> Path:
    with path.open("wb") as file:
        file.truncate(size)
    return path


@pytest.fixture
def artifact(machines: Machines) -> Path:
    path = machines.artifacts / "aurae.img"
    if not path.exists():
        pytest.skip("this image has no disk")
    return path


@pytest.fixture
def content(artifact: Path, tmp_path: Path) -> Iterator[dict[str, Path]]:
    """The disks that the machine has: one for the image, and three that are none."""
    old = empty(tmp_path / "disk", 6 * GIB)
    with old.open("r+b") as file:
        # What was there before must not shine through: marks all over the disk.
        for at in range(0, 6 * GIB, 64 << 20):
            file.seek(at)
            file.write(b"\xa5" * 65536)
    yield {
        "target": old,
        "small": empty(tmp_path / "small", GIB // 2),
        "large sectors": empty(tmp_path / "large-sectors", 6 * GIB),
        "removed": empty(tmp_path / "removed", 6 * GIB),
    }
    for path in (old, tmp_path / "removed"):
        path.unlink()


def test_a_node_is_installed_and_boots_from_its_disk_from_then_on(
    boot: Boot, artifact: Path, content: dict[str, Path], tmp_path: Path
) -> None:
    drives = [Drive(file=path, kept=True) for path in content.values()]
    drives[2] = Drive(file=drives[2].file, sector=4096)
    machine = boot(drives=drives)
    found = all_disks(machine)
    vda, vdb, vdc, vdd = DISKS
    assert (found[vda].size, found[vda].sector_size, found[vdc].sector_size) == (6 * GIB, 512, 4096)
    line = ("node", "install", "--image", str(artifact), "--disk")

    # The disk that it runs from, one that is in use by a workload's mount, and what does not fit.
    (own,) = (disk for disk in found.values() if "mounted on /" in disk.used_by)
    done = aer(machine, *line, own.path, "--yes")
    assert (done.returncode, done.stdout) == (1, "")
    assert "is in use: mounted on /" in done.stderr
    for path, why in ((vdb, "too small"), (vdc, "give aurae-4k.img"), ("/dev/vdz", "no such disk")):
        done = aer(machine, *line, path, "--yes")
        assert (done.returncode, done.stdout) == (1, "")
        assert why in done.stderr
    done = aer(machine, *line, vda)
    assert done.returncode == 1
    assert "nobody is here to be asked" in done.stderr
    assert beginning(content["target"]) == b"\xa5" * 4096

    # A disk that is pulled out amid it.
    installing = subprocess.Popen(
        [sys.executable, "-m", "aer", *line, vdd, "--yes", "--config", str(machine.config_file)],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    machine.console.wait_for("install: /dev/vdd: an image of", SECONDS)
    machine.system.run('echo 1 > "$(readlink -f /sys/block/vdd/device/..)/remove"')
    _, said = installing.communicate(timeout=SECONDS)
    assert installing.returncode == 1
    assert "/dev/vdd: was removed" in said
    assert "boots nothing now" in said

    # An image that is cut off where only the node can see it.
    with artifact.open("rb") as file:
        cut = file.read(64 << 20)
    cut_line = ("node", "install", "--image", "-", "--disk", vda, "--yes")
    cut_off = subprocess.run(
        [sys.executable, "-m", "aer", *cut_line, "--config", str(machine.config_file)],
        input=cut,
        capture_output=True,
        timeout=SECONDS,
        check=False,
    )
    assert cut_off.returncode == 1
    assert b"cut off" in cut_off.stderr
    assert not bootable(content["target"])

    done = aer(machine, *line, vda, "--yes")
    assert done.returncode == 0, done.stderr
    labels = [part.label for part in disks(machine)[vda].partitions]
    assert labels[0] == "aurae-esp"
    assert "aurae-root-a" in labels
    machine.poweroff()
    assert bootable(content["target"])

    machine = boot(disk=Drive(file=content["target"], kept=True))
    (root,) = (d for d in disks(machine).values() if d.used_by)
    assert root.path == vda
    machine.poweroff()


def beginning(disk: Path) -> bytes:
    with disk.open("rb") as file:
        return file.read(4096)


def bootable(disk: Path) -> bool:
    """Whether firmware finds a partition table at either end."""
    with disk.open("rb") as file:
        first = file.read(1024)[512:520]
        file.seek(-512, os.SEEK_END)
        return b"EFI PART" in (first, file.read(8))
