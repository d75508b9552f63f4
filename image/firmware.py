"""Which firmware the image carries: what its modules name, and of that what Debian has."""

import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Final

from image.mkosi import Workshop

FOLDER: Final = Path("usr/lib/firmware")


def named(build: Workshop, modules: Path) -> list[str]:
    """What the modules below a folder ask for, by path below the folder of firmware. Some have a
    `*` in it."""
    files = sorted(modules.rglob("*.ko*"))
    if not files:
        return []
    return sorted(set(build.tool(["modinfo", "--field=firmware", *files]).split()))


def copy(base: Path, root: Path, names: Iterable[str]) -> None:
    """Copy what `base` has of it, by the name it is asked for: no link leads out of what is
    copied."""
    for place in sorted(set(_present(base, names))):
        target = root / FOLDER / place
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(base / FOLDER / place, target)


def compress(build: Workshop, root: Path) -> None:
    """Put `x.xz` in the place of every `x`: the kernel reads that, too, with this kind of check."""
    files = sorted(path for path in (root / FOLDER).rglob("*") if path.is_file())
    if files:
        build.tool(["xz", "--check=crc32", "--threads=1", *files])


def _present(base: Path, names: Iterable[str]) -> Iterator[PurePosixPath]:
    for name in names:
        for path in (base / FOLDER).glob(name):
            if path.is_file():
                yield PurePosixPath(path.relative_to(base / FOLDER))
