"""What the figures are compared with: Debian's own systemd, crun and a static C program.

All of it comes from one tree that mkosi installs. It is a root to boot, a disk for the guest to
mount, and the quarry of the floor: an initramfs that holds a static busybox and nothing else.
"""

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from image import disk, mkosi
from image.build import Places
from image.cpio import Archive
from image.stages import Stage, run

# Where the tree lies when it is mounted in a guest.
BUSYBOX: Final = PurePosixPath("usr/bin/busybox")


@dataclass(frozen=True, slots=True)
class Peers:
    """The files that machines are started with."""

    folder: Path

    @property
    def floor(self) -> Path:
        """An initramfs of one static C program: /busybox."""
        return self.folder / "floor"

    @property
    def erofs(self) -> Path:
        """A plain erofs, as our own root is one, with systemd and crun."""
        return self.folder / "peers.erofs"


def build(at: Places) -> Peers:
    """Make what is missing or out of date, saying so. `make image` must have run before."""
    peers = Peers(at.build / "bench")
    peers.folder.mkdir(parents=True, exist_ok=True)
    tree = peers.folder / "tree"
    directory = at.project / "bench/tree"
    tools = at.tree("tools").resolve()

    def install(_: str) -> None:
        log = peers.folder / "tree.log"
        mkosi.build(at.tree("mkosi").resolve(), directory, tree, log, cache=at.cache, tools=tools)

    def pack(_: str) -> None:
        disk.make_erofs(at.workshop(), tree, peers.erofs)
        with peers.floor.open("wb") as output:
            archive = Archive(output)
            archive.file(PurePosixPath("/busybox"), tree / BUSYBOX, 0o755)
            archive.character_device(PurePosixPath("/dev/console"), 5, 1, 0o600)
            archive.close()

    stages = [
        Stage("peers", "peers: systemd, crun (about a minute)", (directory,), (tree,), install),
        Stage("peers-disk", "peers: disk and floor", (), (peers.floor, peers.erofs), pack),
    ]
    run(stages, peers.folder / "stamps")
    return peers
