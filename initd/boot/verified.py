"""The root that a root hash names: found by its content, counted, mapped by dm-verity. Or given up.

What has failed once too often, or cannot be mapped, is not the boot loader's first choice any
more: its entry is called bad, and the machine starts again. See `initd.boot.esp` for what it
chooses then.
"""

import os
import stat
import time
from collections.abc import Container, Iterable, Mapping
from typing import Final

from initd.boot import attempts, verity
from initd.boot.booted import Booted
from initd.boot.verity import Slot
from initd.linux import dm

NAME: Final = "aurae-root"
"""Of the mapped device."""
# Seconds that another disk may take to appear where there are slots, and none is the one. It may be
# the disk that this was booted from.
SETTLE: Final = 10.0

Devices = Iterable[Mapping[str, str]]


class NotFoundError(Exception):
    """No slot has the root."""


def find(
    root_hash: str,
    looks: Iterable[Devices],
    names: Container[str] = verity.SLOTS,
    settle: float = SETTLE,
) -> Slot:
    """The slot with this root, of those with these names. `looks` are what block devices there are,
    again and again, and end when nobody wants to wait longer. Raises `NotFoundError`."""
    if not verity.is_hash(root_hash):
        raise NotFoundError(f"roothash={root_hash}: not {verity.DIGITS} hexadecimal digits")
    candidates: list[Slot] = []
    first = None
    for devices in looks:
        candidates = verity.slots(devices, names)
        if found := verity.holding(candidates, root_hash):
            return found[0]
        if candidates:
            first = first or time.monotonic()
            if time.monotonic() - first >= settle:
                break
    names = ", ".join(f"{slot.name} on {slot.disk}" for slot in candidates) or "no slot at all"
    raise NotFoundError(f"roothash={root_hash}: in no slot; there is {names}")


def map_root(slot: Slot, root_hash: str) -> str:
    """The node of the device that reads the slot and checks each block. OSError."""
    tree = verity.read(f"/dev/{slot.tree}")
    if tree is None:
        raise NotFoundError(f"/dev/{slot.tree}: no hash tree any more")
    control = dm.open_control()
    try:
        number = dm.create(control, NAME)
        sectors = tree.data_blocks * (verity.BLOCK // dm.SECTOR)
        dm.load(control, NAME, sectors, "verity", verity.table(slot, tree, root_hash))
        dm.resume(control, NAME)
    finally:
        os.close(control)
    node = f"/dev/dm-{os.minor(number)}"
    if not os.path.exists(node):
        os.mknod(node, stat.S_IFBLK | 0o600, number)
    return node


def count(slot: Slot, root_hash: str) -> int:
    """Count this boot; returns how many came to nothing before it, one after the other. One of a
    version that was not found healthy the last time is watched. OSError."""
    device = attempts.find_device(slot.disk)
    if device is None:
        return 0
    if attempts.read(device) != attempts.Attempts(root_hash):
        from initd.boot import guard

        guard.start()
    return attempts.add(device, root_hash)


def open_root(root_hash: str, looks: Iterable[Devices]) -> tuple[Booted, int]:
    """What is to be mounted, and how many boots of it came to nothing. Raises `NotFoundError`,
    OSError."""
    slot = find(root_hash, looks)
    try:
        before = count(slot, root_hash)
    except OSError:
        # A disk that cannot be written boots all the same.
        before = 0
    return Booted(slot.name, slot.disk, root_hash, map_root(slot, root_hash)), before


def open_emergency(root_hash: str, looks: Iterable[Devices]) -> Booted:
    """What the emergency entry mounts: it is in no slot, and not counted. Raises `NotFoundError`,
    OSError."""
    return Booted(root=map_root(find(root_hash, looks, (verity.EMERGENCY,)), root_hash))


def take_out(disk: str = "") -> str:
    """Have the boot loader start something else from now on; returns what was taken out. Empty: it
    has nothing else to start, or started nothing of ours. OSError."""
    from initd.boot import esp

    entry = esp.running_entry()
    if entry is None:
        return ""
    with esp.opened(esp.find_device(disk)) as partition:
        changed = partition.mark_bad(entry.version)
    return entry.version if changed else ""
