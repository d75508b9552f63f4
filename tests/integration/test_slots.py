"""Slots A and B under OVMF: the root is verified, damage is found, and another version takes over.

Firmware, boot loader and all; the disk is damaged beforehand.
"""

import json
import os
import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

import grpc
import pytest
from aurae.discovery.v0 import discovery_pb2
from aurae.node.v0 import config_pb2, node_pb2, upgrade_pb2

from image import overlay
from image.build import Places, cache_folder
from image.console import LostError, NotSeenError
from image.machine import Drive
from testkit.machines import Machine, Machines
from testkit.refusals import refused
from tests.integration.disks import Disk, Versions, make_versions

Boot = Callable[..., Machine]

# With AURAE_SOAK=1 as many places are damaged as it says below.
SOAK: Final = bool(os.environ.get("AURAE_SOAK"))
PLACES: Final = {"root": 17, "tree": 17, "image": 16}
BOOT_SECONDS: Final = 300.0
# A kernel that is damaged may hang; so long it is waited for.
HANG_SECONDS: Final = 120.0
# What OVMF says last of all, where a kernel could not unpack itself and has returned.
DEAD: Final = "!!!! X64 Exception Type"
# Of the kernel's device, which is checked block by block.
READ_ALL: Final = "cat /dev/dm-0 > /dev/null"
BLOCK: Final = 4096

ENTRIES: Final = """
import sys
sys.path.append("/usr/lib/python3/dist-packages")
from initd.boot import esp
with esp.opened(esp.find_device("vda")) as partition:
    print(*sorted(present.file.name for present in partition.entries()))
"""
ATTEMPTS: Final = """
while ! head -c 512 /dev/vda2 | grep -q ' 0$'; do sleep 0.2; done
head -c 512 /dev/vda2 | tr -d '\\0'
"""


@pytest.fixture(autouse=True)
def _with_disk(machines: Machines) -> None:
    if not (machines.artifacts / "aurae.img").exists():
        pytest.skip("this image has no disk")


@pytest.fixture(scope="module")
def versions(machines: Machines) -> Iterator[Versions]:
    made = make_versions(machines.artifacts)
    if made is None:
        pytest.skip("this image was not built here")
    yield made
    made.disk.file.unlink()


@pytest.fixture
def damaged(versions: Versions, tmp_path: Path) -> Iterator[Disk]:
    """A disk with two versions, to be damaged."""
    copy = versions.disk.copy(tmp_path / "disk.img")
    yield copy
    copy.file.unlink()


def origin(machine: Machine) -> dict[str, str]:
    told = json.loads(machine.system.read("cat /run/initramfs/boot.json"))
    assert isinstance(told, dict)
    return told


def entries(machine: Machine) -> list[str]:
    return machine.system.read('python3 -ISc "$1"', ENTRIES).split()


def test_credentials_on_the_esp_are_the_nodes(
    boot: Boot, machines: Machines, tmp_path: Path
) -> None:
    at = Places(overlay.PROJECT, cache_folder())
    if machines.artifacts.resolve() != at.build.resolve() or not at.tree("tools").exists():
        pytest.skip("this image was not built here")
    disk = Disk(machines.artifacts / "aurae.img").copy(tmp_path / "disk.img")
    document = b'hostname = "named-on-the-esp"\n'
    disk.add_to_esp(at.workshop(), "loader/credentials", "aurae.config.toml.cred", document)
    machine = boot(disk=Drive(file=disk.file))
    assert machine.system.read("hostname") == "named-on-the-esp\n"
    found = machine.api.config.Get(config_pb2.ConfigServiceGetRequest()).settings
    assert {one.key: one.origin for one in found}["hostname"] == "esp"
    machine.poweroff()
    disk.file.unlink()


@pytest.mark.parametrize(("name", "sector"), [("aurae.img", 512), ("aurae-4k.img", 4096)])
def test_the_disk_boots_from_slot_a_and_its_root_is_verified(
    boot: Boot, machines: Machines, name: str, sector: int
) -> None:
    machine = boot(disk=Drive(file=machines.artifacts / name, sector=sector))
    size = machine.system.read("cat /sys/class/block/vda/queue/logical_block_size")
    assert int(size) == sector
    root_hash = next(
        word.removeprefix("roothash=")
        for word in machine.system.read("cat /proc/cmdline").split()
        if word.startswith("roothash=")
    )
    wanted = {"slot": "a", "disk": "vda", "roothash": root_hash, "root": "/dev/dm-0"}
    assert origin(machine) == wanted
    mounts = map(str.split, machine.system.read("cat /proc/mounts").splitlines())
    assert [(mount[0], mount[2]) for mount in mounts if mount[1] == "/"] == [("/dev/dm-0", "erofs")]
    with machine.cell("c") as cell:
        assert cell.read("echo fine") == "fine\n"
    assert machine.system.read(ATTEMPTS).split() == ["aurae-attempts", root_hash, "0"]
    assert machine.system.run(READ_ALL, timeout=BOOT_SECONDS).exit_code == 0
    assert "damaged" not in machine.console.text
    machine.poweroff()


def test_a_version_that_fails_three_boots_is_given_up_for_the_one_in_the_other_slot(
    boot: Boot, damaged: Disk
) -> None:
    # The file system's superblock: each boot ends when it is mounted.
    damaged.flip("aurae-root-a", 1024)
    machine = boot(disk=Drive(file=damaged.file), reboots=True, wait=False)
    machine.console.wait_for("version 2.0 is given up: 3 boots", BOOT_SECONDS)
    machine.wait_until_serving(BOOT_SECONDS)
    assert origin(machine)["slot"] == "b"
    assert entries(machine) == ["aurae_1.0.efi", "aurae_2.0+0-3.efi"]
    # Not even the fourth start got as far as to a root.
    assert machine.console.text.count("auraed: Aurae") == 1
    machine.poweroff()


def test_where_both_slots_are_bad_the_emergency_entry_is_started(boot: Boot, damaged: Disk) -> None:
    for slot in "ab":
        damaged.flip(f"aurae-verity-{slot}", BLOCK + 100)
    # Room for data.
    os.truncate(damaged.file, damaged.file.stat().st_size + (1 << 30))
    machine = boot(disk=Drive(file=damaged.file), reboots=True, wait=False)
    for version in ("2.0", "1.0"):
        machine.console.wait_for(f"version {version} is given up: .*in no slot", BOOT_SECONDS)
    machine.wait_until_serving(BOOT_SECONDS)
    # There callers may look, and that is all.
    machine.api.discovery.Discover(discovery_pb2.DiscoverRequest())
    found = machine.api.upgrade.GetUpgradeStatus(upgrade_pb2.GetUpgradeStatusRequest())
    assert found.slot == ""
    machine.console.wait_for("aurae .*, emergency entry", BOOT_SECONDS)
    assert "data disk: /dev/vda: nothing is made on it" in machine.console.text
    with pytest.raises(grpc.RpcError, match="emergency entry"):
        machine.system.read("true")
    with refused(grpc.StatusCode.PERMISSION_DENIED, "emergency entry, which changes nothing"):
        machine.api.node.Shutdown(node_pb2.ShutdownRequest(mode=node_pb2.SHUTDOWN_MODE_REBOOT))
    machine.poweroff()


def test_a_damaged_boot_image_that_boots_all_the_same_is_given_up(
    boot: Boot, versions: Versions, damaged: Disk
) -> None:
    # Of the header for DOS, where nobody looks.
    damaged.flip_in_file(versions.good, 0x28)
    machine = boot(disk=Drive(file=damaged.file), reboots=True, wait=False)
    machine.console.wait_for("boot image aurae_2.0.efi: damaged on the disk", BOOT_SECONDS)
    machine.console.wait_for("runtime ready", BOOT_SECONDS)
    machine.wait_until_serving(BOOT_SECONDS)
    assert origin(machine)["slot"] == "b"
    assert entries(machine) == ["aurae_1.0.efi", "aurae_2.0+0-3.efi"]
    machine.poweroff()


def places() -> list[tuple[str, float]]:
    """What is damaged, and how far into it, from 0 to 1."""
    chance = random.Random(5)
    counts = PLACES if SOAK else dict.fromkeys(PLACES, 1)
    return [(kind, chance.random()) for kind, count in counts.items() for _ in range(count)]


@pytest.mark.parametrize(("kind", "where"), places())
def test_one_changed_byte_is_found(
    machines: Machines, tmp_path: Path, kind: str, where: float
) -> None:
    copy = Disk(machines.artifacts / "aurae.img").copy(tmp_path / "disk.img")
    sizes = {
        name: (machines.artifacts / name).stat().st_size
        for name in ("root.erofs", "root.verity", "aurae.efi")
    }
    match kind:
        case "root":
            copy.flip("aurae-root-a", int(where * sizes["root.erofs"]))
        case "tree":
            # Behind the superblock's block, which is read by us and is no part of the tree.
            at = BLOCK + int(where * (sizes["root.verity"] - BLOCK))
            copy.flip("aurae-verity-a", at)
        case _:
            copy.flip_in_file(machines.artifacts / "aurae.efi", int(where * sizes["aurae.efi"]))
    machine = machines.start(disk=Drive(file=copy.file), wait=False)
    try:
        found = image_damage_found(machine) if kind == "image" else root_damage_found(machine)
    finally:
        machines.close(machine)
        copy.file.unlink()
    assert found, machine.console.last_lines()


def root_damage_found(machine: Machine) -> bool:
    """The machine ends by itself, while it boots or when all is read."""
    try:
        machine.wait_until_serving(BOOT_SECONDS)
    except LostError:
        return True
    with suppress(grpc.RpcError):
        machine.system.start("reads", READ_ALL)
    machine.wait_for_end("guest-reset", BOOT_SECONDS)
    return True


def image_damage_found(machine: Machine) -> bool:
    """The machine never serves, or says what is damaged."""
    try:
        if machine.console.wait_for(f"runtime ready|{DEAD}", HANG_SECONDS)[0] == DEAD:
            return True
        machine.console.wait_for("boot image .*: damaged on the disk", BOOT_SECONDS)
    except (LostError, NotSeenError):
        return "runtime ready" not in machine.console.text
    return True
