"""Once the node is up: whether its boot image is whole, and then that this boot was a good one.

Each block of the root is verified when it is read, and firmware verifies the unified kernel image
where secure boot is on. Else nothing does. A byte that has changed in it may keep it from booting,
or may have no effect, or a subtle one: so its SHA-256 is compared with what stands beside the
root's hash tree. A version with a damaged image is given up if there is another.

It is done in a copy of PID 1, because a disk may answer late, or never.
"""

import os
from typing import Final

from initd.boot import attempts, copies, esp, verity
from initd.boot.booted import Booted
from initd.boot.copies import Copy
from initd.boot.disks import block_devices
from initd.boot.esp import Esp, Present
from initd.linux import namespace
from initd.linux.mount import MountFlag, mount
from initd.linux.namespace import Namespace
from initd.values import NamedTuple

_BLOCK: Final = "/sys/class/block"
_CHUNK: Final = 1 << 20
# The workloads go first.
_NICE: Final = 19
_REBOOT: Final = "reboot"


class Report(NamedTuple):
    """What is wrong, if anything; and whether another version is to be started."""

    problem: str = ""
    reboot: bool = False


def start(told: Booted, *, bless: bool = False) -> Copy:
    """For a boot from a slot, of a version that is blessed if its image is whole. OSError."""
    return copies.start(lambda tell: _work(told, tell, bless=bless))


def report(looking: Copy) -> Report:
    """Once, after its end."""
    how, newline, problem = copies.told(looking.pipe).partition("\n")
    if not newline:
        return Report("boot: nobody knows whether the boot image is whole: the look at it failed")
    return Report(problem, how == _REBOOT)


def is_whole(partition: Esp, present: Present, image: str) -> bool:
    """Whether an entry's file has this SHA-256. OSError."""
    from hashlib import sha256

    digest = sha256()
    for offset in range(0, present.file.size, _CHUNK):
        digest.update(partition.fat.read(present.file, offset, _CHUNK))
    return digest.hexdigest() == image


def judge(partition: Esp, version: str, image: str) -> Report:
    """Look at a version's boot image, whose SHA-256 is to be `image`. One that is damaged is given
    up, if there is another to start. OSError."""
    present = partition.find(version)
    if present is None or is_whole(partition, present, image):
        return Report()
    damaged = f"boot image {present.entry.name}: damaged on the disk"
    others = (other.entry for other in partition.entries())
    if not any(other.version != version and not other.bad for other in others):
        return Report(f"{damaged}, and there is no other; install one")
    partition.mark_bad(version)
    return Report(f"{damaged}; another version is started", reboot=True)


def _work(told: Booted, tell: copies.Tell, *, bless: bool) -> None:
    os.nice(_NICE)
    try:
        said = _look(told)
        if not said.problem:
            if bless:
                _bless(told)
            _clear(told)
    except OSError as e:
        said = Report(f"boot: {e}")
    tell(f"{_REBOOT if said.reboot else ''}\n{said.problem}")


def set_apart() -> None:
    """What is mounted here to read the boot loader's variables is nobody else's business."""
    namespace.unshare(Namespace.MOUNT)
    mount("", "/", "", MountFlag.REC | MountFlag.PRIVATE)


def _look(told: Booted) -> Report:
    set_apart()
    entry = esp.running_entry()
    image = _image(told)
    if entry is None or not image:
        # Started by something else, or made by something else.
        return Report()
    with esp.opened(esp.find_device(told.disk)) as partition:
        return judge(partition, entry.version, image)


def _image(told: Booted) -> str:
    """The SHA-256 that stands beside the root's hash tree."""
    for slot in verity.slots(block_devices(_BLOCK)):
        if (slot.disk, slot.name) == (told.disk, told.slot):
            tree = verity.read(f"/dev/{slot.tree}")
            return tree.image if tree else ""
    return ""


def _bless(told: Booted) -> None:
    """First of all: a version that is cleared and not blessed is tried again, and no harm done."""
    entry = esp.running_entry()
    if entry is not None:
        with esp.opened(esp.find_device(told.disk)) as partition:
            partition.bless(entry.version)


def _clear(told: Booted) -> None:
    device = attempts.find_device(told.disk)
    if device is not None:
        attempts.clear(device, told.roothash)
