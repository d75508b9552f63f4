"""Disks of a test's own: they can be damaged, and they can have more than one version."""

import os
import shutil
import struct
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from image import disk, kernel, overlay
from image.build import Places, cache_folder
from image.mkosi import Workshop

SECTOR = 512
GOOD, OLDER, EMERGENCY = "aurae_2.0.efi", "aurae_1.0.efi", "aurae-emergency.efi"


def ext4_disk(file: Path, content: Path | None = None) -> Path:
    """A data disk of 64 MiB, empty or with what is in a folder."""
    with file.open("wb") as image:
        image.truncate(64 << 20)
    filled = () if content is None else ("-d", content)
    subprocess.run(
        ["mkfs.ext4", "-q", "-L", "aurae-data", *filled, file],
        check=True,
        env={**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"},
    )
    return file


@dataclass(frozen=True, slots=True)
class Disk:
    """A disk image with a GPT."""

    file: Path

    def copy(self, to: Path) -> "Disk":
        subprocess.run(
            ["cp", "--sparse=always", "--reflink=auto", str(self.file), str(to)], check=True
        )
        return Disk(to)

    def partition(self, label: str) -> tuple[int, int]:
        """Where it begins, and how long it is, in bytes."""
        with self.file.open("rb") as file:
            head = file.read(34 * SECTOR)
        first, count, size = struct.unpack_from("<QII", head, SECTOR + 72)
        for at in range(first * SECTOR, first * SECTOR + count * size, size):
            name = head[at + 56 : at + 128].decode("utf-16-le").rstrip("\0")
            if name == label:
                begin, end = struct.unpack_from("<QQ", head, at + 32)
                return begin * SECTOR, (end - begin + 1) * SECTOR
        raise LookupError(f"{self.file}: no partition {label}")

    def write(self, label: str, content: Path) -> None:
        """A file to the beginning of a partition."""
        offset, _ = self.partition(label)
        with self.file.open("r+b") as to, content.open("rb") as source:
            to.seek(offset)
            shutil.copyfileobj(source, to, 1 << 20)

    def add_to_esp(self, build: Workshop, folder: str, name: str, content: bytes) -> None:
        """A file, in a folder that is made for it."""
        offset, _ = self.partition("aurae-esp")
        image = f"/disk/{self.file.name}@@{offset}"
        with TemporaryDirectory(dir=build.folder) as made:
            source = Path(made) / name
            source.write_bytes(content)
            mounted = {"/disk": self.file.parent}
            build.tool(["mmd", "-i", image, f"::/{folder}"], mounted=mounted)
            build.tool(["mcopy", "-i", image, source, f"::/{folder}/"], mounted=mounted)

    def flip(self, label: str, at: int) -> None:
        """Change one byte of a partition."""
        offset, _ = self.partition(label)
        self._flip(offset + at)

    def flip_in_file(self, content: Path, at: int) -> None:
        """Change one byte of a file on the ESP, which lies there in one piece."""
        offset, length = self.partition("aurae-esp")
        wanted = content.read_bytes()
        with self.file.open("rb") as file:
            file.seek(offset)
            found = file.read(length).find(wanted)
        assert found >= 0, f"{content}: not on {self.file} in one piece"
        self._flip(offset + found + at)

    def _flip(self, at: int) -> None:
        with self.file.open("r+b") as file:
            file.seek(at)
            (byte,) = file.read(1)
            file.seek(at)
            file.write(bytes([byte ^ 1]))


@dataclass(frozen=True, slots=True)
class Versions:
    """A disk with version 2.0 in slot A, 1.0 in B, and an emergency entry; and its files."""

    disk: Disk
    good: Path
    older: Path


def make_versions(artifacts: Path) -> Versions | None:
    """None: the image was not built here. Both have the same root, with trees of other salt."""
    at = Places(overlay.PROJECT, cache_folder())
    if artifacts.resolve() != at.build.resolve() or not at.tree("tools").exists():
        return None
    build = at.workshop()
    folder = at.work / "versions"
    folder.mkdir(exist_ok=True)
    erofs = artifacts / "root.erofs"
    trees = [folder / f"{number}.verity" for number in (2, 1)]
    images = [folder / name for name in (GOOD, OLDER)]
    linux, micro = artifacts / "vmlinuz", artifacts / "initramfs-micro"
    release = kernel.version(at.tree("base"))
    for tree, image, salt in zip(trees, images, ("2a" * 32, "1b" * 32), strict=True):
        root_hash = disk.make_tree(build, erofs, tree, salt)
        parameters = f"roothash={root_hash}"
        disk.make_uki(build, linux, micro, at.root, release, parameters, image)
        disk.seal(tree, image)
    emergency = folder / EMERGENCY
    # The boot loader sorts by it first.
    named = folder / "emergency/usr/lib/os-release"
    named.parent.mkdir(parents=True, exist_ok=True)
    text = (at.root / "usr/lib/os-release").read_text()
    named.write_text(text.replace("IMAGE_ID=aurae", "IMAGE_ID=zz-aurae"))
    its_tree = disk.make_emergency(
        build, linux, micro, folder / "emergency", release, (root_hash, trees[1]), emergency
    )
    made = Disk(folder / "versions.img")
    entries = {path.name: path for path in (*images, emergency)}
    disk.make_disk(build, entries, erofs, trees[0], its_tree, made.file)
    made.write("aurae-root-b", erofs)
    made.write("aurae-verity-b", trees[1])
    return Versions(made, *images)


if __name__ == "__main__":
    print(make_versions(Path(sys.argv[1])))  # noqa: T201
