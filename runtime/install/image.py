"""What is in an image: the checks that need no disk."""

from typing import Final

from initd.errors import InvalidArgument
from initd.values import NamedTuple
from runtime.install import gpt

# Types of root partitions, from the Discoverable Partitions Specification.
ROOTS: Final = {
    "4f68bce3-e8cd-4db1-96e7-fbcaf984b709": "x86-64",
    "b921b045-1df0-41c3-af44-4c6f280d3fae": "arm64",
    "72ec70a6-cf74-40e6-bd49-4bda08e8f224": "riscv64",
    "44479540-f297-41b2-9af7-d131d5f0458a": "x86",
    "69dad710-2ce4-4e3c-b16c-21a1d49abed3": "arm",
}
ARCHITECTURES: Final = tuple(ROOTS.values())
# uname(2)'s words for them.
MACHINES: Final = {"x86_64": "x86-64", "aarch64": "arm64", "riscv64": "riscv64"}

# How the build calls images for sectors of so many bytes.
NAMES: Final = {512: "aurae.img", 4096: "aurae-4k.img"}

# What every image has.
ESP: Final = "aurae-esp"
ROOT: Final = "aurae-root-a"


class Image(NamedTuple):
    """An image by its first bytes."""

    table: gpt.Table
    architecture: str

    @property
    def size(self) -> int:
        return self.table.size


def architecture_of(machine: str) -> str:
    """By what uname(2) calls it."""
    return MACHINES.get(machine, machine)


def examine(head: bytes) -> Image:
    """`head` are its first `gpt.HEAD` bytes. InvalidArgument: it is no image that can be used."""
    try:
        table = gpt.parse(head)
    except ValueError as e:
        raise InvalidArgument(f"image: {e}; give an aurae.img") from e
    labels = {partition.label: partition for partition in table.partitions}
    if ESP not in labels or ROOT not in labels:
        raise InvalidArgument(
            f"image: has no partitions {ESP} and {ROOT}, so it is another system's; give an "
            "aurae.img"
        )
    kind = labels[ROOT].type
    return Image(table, ROOTS.get(kind, f"unknown (partition type {kind})"))


def check(image: Image, *, size: int, sector: int, architecture: str) -> None:
    """Whether it can be on a disk of `size` bytes. InvalidArgument says why not. Without an
    `architecture`, that is left to somebody else."""
    if architecture and image.architecture != architecture:
        raise InvalidArgument(
            f"image: is for {image.architecture}, the machine is {architecture}; give the image "
            "that is made for it"
        )
    if image.table.sector != sector:
        raise InvalidArgument(
            f"image: is for disks with sectors of {image.table.sector} bytes, and this disk has "
            f"{sector}; give {NAMES.get(sector, 'an image that is built for those')}"
        )
    if size < image.size:
        raise InvalidArgument(
            f"disk: is too small: it has {size} bytes, the image {image.size}; take a larger one"
        )
