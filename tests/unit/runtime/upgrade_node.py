"""A node with slots, made of files, and bundles for it."""

import hashlib
import json
import random
import struct
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from initd import release
from initd.boot import esp
from initd.boot.esp import Entry
from initd.release import Manifest, Part
from runtime.upgrade.node import Node
from tests.unit.initd import fat_image

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
ROOT_SIZE = 4 << 20
TREE_SIZE = 64 << 10


def make(folder: Path, version: str = "1.0") -> Node:
    """It runs `version` from slot a, and has nothing in slot b."""
    (folder / "dev").mkdir()
    names = ("esp", "root-a", "verity-a", "root-b", "verity-b", "attempts")
    sizes = (0, ROOT_SIZE, TREE_SIZE, ROOT_SIZE, TREE_SIZE, 1 << 20)
    for number, (name, size) in enumerate(zip(names, sizes, strict=True), 1):
        place = folder / "devices/vda" / f"vda{number}"
        place.mkdir(parents=True)
        (place / "uevent").write_text(
            f"MAJOR=254\nMINOR={number}\nDEVNAME=vda{number}\nDEVTYPE=partition\n"
            f"PARTNAME=aurae-{name}\n"
        )
        (folder / "block").mkdir(exist_ok=True)
        (folder / "block" / f"vda{number}").symlink_to(place)
        (folder / "dev" / f"vda{number}").write_bytes(bytes(size))
    fat_image.make(folder / "dev/vda1", per_cluster=8)
    tree, root_hash = tree_of(b"old")
    (folder / "dev/vda3").write_bytes(tree.ljust(TREE_SIZE, b"\0"))
    add_entry(folder, version, uki(root_hash), None)
    (folder / "boot.json").write_text(
        json.dumps({"slot": "a", "disk": "vda", "roothash": root_hash, "root": "/dev/dm-0"})
    )
    (folder / "health.json").write_text(
        json.dumps({"state": "healthy", "reason": "", "version": version})
    )
    (folder / "keys").mkdir()
    public = KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (folder / "keys/test.pem").write_bytes(public)
    (folder / "state").mkdir()
    (folder / "net").mkdir()
    return Node(
        version=version,
        state=folder / "state",
        port=8080,
        architecture="x86_64",
        keys=(folder / "keys",),
        booted=str(folder / "boot.json"),
        block=str(folder / "block"),
        devices=str(folder / "dev"),
        health=folder / "health.json",
        network=str(folder / "net"),
    )


def add_entry(folder: Path, version: str, image: bytes, left: int | None) -> None:
    with esp.opened(str(folder / "dev/vda1")) as partition:
        writer = partition.writer(len(image))
        writer.write(0, image)
        writer.commit(esp.FOLDER, Entry(version, left).name)


def entries(folder: Path) -> dict[str, bytes]:
    with esp.opened(str(folder / "dev/vda1")) as partition:
        return {
            p.file.name: partition.fat.read(p.file, 0, p.file.size) for p in partition.entries()
        }


def tree_of(content: bytes) -> tuple[bytes, str]:
    """The head of a hash tree, and its root hash."""
    salt = hashlib.sha256(content).digest()
    head = struct.pack(
        "<8sII16s32sIIQH6x256s",
        *(b"verity\0\0", 1, 1, b"", b"sha256", 4096, 4096, 100, len(salt), salt),
    )
    top = content.ljust(4096, b"t")
    return head.ljust(4096, b"\0") + top, hashlib.sha256(salt + top).hexdigest()


def uki(root_hash: str, machine: int = 0x8664, size: int = 60_000, version: str = "2.0") -> bytes:
    """An EFI program with a command line and an os-release."""
    line = f"console=ttyS0 roothash={root_hash}\0".encode()
    named = f'ID=aurae\nIMAGE_VERSION="{version}"\n'.encode()
    start = bytearray(b"MZ".ljust(0x3C, b"\0") + struct.pack("<I", 0x40))
    start += struct.pack("<4sHH12xHH", b"PE\0\0", machine, 2, 0, 0)
    start += struct.pack("<8sIIII16x", b".cmdline", len(line), 0, len(line), 512)
    start += struct.pack("<8sIIII16x", b".osrel", len(named), 0, len(named), 1024)
    return bytes((start.ljust(512, b"\0") + line).ljust(1024, b"\0") + named).ljust(size, b"u")


class Bundle:
    """`version` from `content`; whatever is given else is false in it."""

    def __init__(
        self,
        version: str = "2.0",
        *,
        content: bytes = b"new",
        architecture: str = "x86_64",
        image: bytes | None = None,
        root: bytes | None = None,
        roothash: str = "",
    ) -> None:
        self.tree, self.root_hash = tree_of(content)
        self.root = random.Random(content).randbytes(3_300_000) if root is None else root
        self.uki = image if image is not None else uki(roothash or self.root_hash, version=version)
        contents = {"root": self.root, "verity": self.tree, "uki": self.uki}
        stored = {name: packed(content) for name, content in contents.items()}
        self.content = b"".join(stored.values())
        self.manifest = Manifest(
            version,
            architecture,
            roothash or self.root_hash,
            tuple(
                Part(name, len(data), hashlib.sha256(data).hexdigest(), len(stored[name]))
                for name, data in contents.items()
            ),
        ).encode()
        self.signature = KEY.sign(release.SIGNED + self.manifest)

    @property
    def file(self) -> bytes:
        return release.head(self.manifest) + self.content


def packed(data: bytes) -> bytes:
    pieces = range(0, len(data), release.PIECE)
    return b"".join(release.compress(data[at : at + release.PIECE]) for at in pieces)
