"""dm-verity: what a root's hash tree says, and which slot has the root that is wanted.

A tree begins with a superblock (cryptsetup's lib/verity/verity.c) in a block of its own; the block
after it is the top of the tree. Its hash, over salt and block, is the root hash. In what the
superblock leaves of its block stands `aurae-boot-image HASH`, the SHA-256 of the unified kernel
image that goes with the root: no root hash covers that, so it can be known last.

Layout and table: Documentation/admin-guide/device-mapper/verity.rst of the kernel.
"""

import os
import struct
from collections.abc import Container, Iterable, Mapping
from typing import Final

from initd.values import NamedTuple

BLOCK: Final = 4096
"""Of data and of hashes; the kernel takes none that is larger than a page."""
ROOT_LABEL: Final = "aurae-root-"
TREE_LABEL: Final = "aurae-verity-"
SLOTS: Final = ("a", "b")
EMERGENCY: Final = "emergency"
"""The name of what is no slot: the root of the emergency entry, which no upgrade writes."""
DIGITS: Final = 64
"""Of a root hash."""

_ALGORITHM: Final = "sha256"
# signature, version, hash_type, uuid, algorithm, data_block_size, hash_block_size, data_blocks,
# salt_size, padding, salt.
_SUPERBLOCK: Final = struct.Struct("<8sII16s32sIIQH6x256s")
_SIGNATURE: Final = b"verity\0\0"
SEAL: Final = 512
"""Where the line about the boot image begins: after the superblock with all its padding."""
_SEAL: Final = "aurae-boot-image "


class Tree(NamedTuple):
    """The head of a hash tree."""

    data_blocks: int
    salt: bytes
    top: bytes
    image: str
    """SHA-256 of the boot image, as hexadecimal digits; empty: it does not say."""


class Slot(NamedTuple):
    """A root and its tree, by the names and numbers (`254:2`) of their partitions."""

    name: str
    disk: str
    root: str
    root_number: str
    tree: str
    tree_number: str


def is_hash(text: str) -> bool:
    """Whether it can be a root hash."""
    return len(text) == DIGITS and set(text) <= set("0123456789abcdef")


def parse(head: bytes) -> Tree | None:
    """From the first two blocks of a tree. None: it is none that this node can use."""
    if len(head) < 2 * BLOCK:
        return None
    signature, version, kind, _, algorithm, *sizes, data_blocks, salt_size, salt = (
        _SUPERBLOCK.unpack_from(head)
    )
    if (signature, version, kind, sizes) != (_SIGNATURE, 1, 1, [BLOCK, BLOCK]):
        return None
    if algorithm.rstrip(b"\0") != _ALGORITHM.encode() or salt_size > len(salt) or not data_blocks:
        return None
    line = head[SEAL:BLOCK].partition(b"\n")[0].decode("ascii", errors="replace")
    image = line.removeprefix(_SEAL)
    sealed = line.startswith(_SEAL) and is_hash(image)
    return Tree(data_blocks, salt[:salt_size], head[BLOCK : 2 * BLOCK], image if sealed else "")


def has(tree: Tree, root_hash: str) -> bool:
    """Whether the tree is of the root with this hash, as far as its top tells."""
    try:
        # What the interpreter has: hashlib would load OpenSSL.
        from _sha2 import sha256  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        from hashlib import sha256
    return bool(sha256(tree.salt + tree.top).hexdigest() == root_hash)


def read(path: str) -> Tree | None:
    """The tree on a device or in a file. None: none. OSError: it cannot be read."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return parse(os.pread(fd, 2 * BLOCK, 0))
    finally:
        os.close(fd)


def table(slot: Slot, tree: Tree, root_hash: str) -> str:
    """The parameters of the target. A block that is not what it was makes the machine restart."""
    blocks = f"{BLOCK} {BLOCK} {tree.data_blocks} 1"
    devices = f"{slot.root_number} {slot.tree_number}"
    salt = tree.salt.hex() or "-"
    return f"1 {devices} {blocks} {_ALGORITHM} {root_hash} {salt} 1 restart_on_corruption"


def slots(devices: Iterable[Mapping[str, str]], names: Container[str] = SLOTS) -> list[Slot]:
    """Those of these names whose partitions are there both, from what `block_devices` says."""
    known = {
        (device["DISK"], device["PARTNAME"]): device
        for device in devices
        if "DISK" in device and "PARTNAME" in device
    }
    found = []
    for disk, label in sorted(known):
        name = label.removeprefix(TREE_LABEL)
        root = known.get((disk, f"{ROOT_LABEL}{name}"))
        if label == name or name not in names or root is None:
            continue
        tree = known[disk, label]
        found.append(
            Slot(name, disk, root["DEVNAME"], _number(root), tree["DEVNAME"], _number(tree))
        )
    return found


def holding(candidates: Iterable[Slot], root_hash: str, folder: str = "/dev") -> list[Slot]:
    """Those whose tree has this root hash; what cannot be read has not."""
    found = []
    for slot in candidates:
        try:
            tree = read(f"{folder}/{slot.tree}")
        except OSError:
            continue
        if tree is not None and has(tree, root_hash):
            found.append(slot)
    return found


def _number(device: Mapping[str, str]) -> str:
    return f"{device['MAJOR']}:{device['MINOR']}"
