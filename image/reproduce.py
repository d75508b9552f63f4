"""`make reproduce`: build twice from nothing, in two places and circumstances, and compare.

Each build has a clone of the commit, a cache, a Python environment, a time zone, a umask and an
order of hashes of its own; and, where there is memory for it, another kind of file system, which
lists folders in another order. What is compared is each artifact, to the byte.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from image import mkosi

PROJECT: Final = Path(__file__).resolve().parent.parent
FOLDER: Final = PROJECT / "build/reproduce"

# Where the second one is made, if it is in memory and has this much room, in bytes.
MEMORY: Final = Path("/dev/shm")
ROOM: Final = 10 << 30

# What is built: all that nodes are installed, booted and upgraded with, in two profiles.
TARGETS: Final = (("pxe",), ("pxe", "PROFILE=cloud"))

# Beside the artifacts in `build/`: what only the build itself needs, or is of this host.
NOT_ARTIFACTS: Final = frozenset(("venv", "image", "acceleration", "node", "pki", "evidence"))

_CHUNK: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What a build must not depend on."""

    place: Path
    umask: int
    environment: dict[str, str]

    @property
    def build(self) -> Path:
        return self.place / "build"

    @property
    def cache(self) -> Path:
        """Beside the clone: mkosi does not work in a folder that it reads."""
        return self.place.with_name(f"{self.place.name}-cache")


def circumstances(other: Path) -> tuple[Circumstances, Circumstances]:
    """Of both builds. `other` is a folder for the second."""
    return (
        Circumstances(
            FOLDER / "one",
            0o022,
            {"TZ": "UTC", "LC_ALL": "C", "PYTHONHASHSEED": "1"},
        ),
        Circumstances(
            other / "at-another-place-with-a-longer-name/two",
            0o077,
            {"TZ": "Pacific/Kiritimati", "LC_ALL": "C.UTF-8", "PYTHONHASHSEED": "2"},
        ),
    )


def other_folder(memory: Path = MEMORY, room: int = ROOM) -> Path:
    """In memory, or where the first one is."""
    if not memory.is_dir() or memory.stat().st_dev == PROJECT.stat().st_dev:
        return FOLDER
    return memory / "aurae-reproduce" if shutil.disk_usage(memory).free >= room else FOLDER


def main() -> None:
    targets = (tuple(sys.argv[1:]),) if sys.argv[1:] else TARGETS
    other = other_folder()
    builds = circumstances(other)
    _remove(other)
    commit = _git("-C", PROJECT, "rev-parse", "HEAD")
    for number, build in enumerate(builds, 1):
        print(f"==> build {number} of {len(builds)}: {build.place}", flush=True)
        started = time.monotonic()
        run(build, commit, targets)
        print(f"    {time.monotonic() - started:.0f} s", flush=True)
    one, two = (build.build for build in builds)
    different = compare(one, two)
    for line in different:
        print(line)
    if different:
        sys.exit(f"make reproduce: the builds differ; they are in {one} and {two}")
    names = sorted(artifacts(one))
    for name in names:
        print(f"    sha256:{digest(one / name)} {name}")
    _remove(other)
    print(f"make reproduce: {len(names)} artifacts are equal in both builds")


def _remove(other: Path) -> None:
    for folder in {FOLDER, other}:
        mkosi.remove(folder)


def run(build: Circumstances, commit: str, targets: Sequence[Sequence[str]]) -> None:
    """Make these, each by a make of its own, from a clone of the commit."""
    build.place.parent.mkdir(parents=True, exist_ok=True)
    quietly = ("clone", "--quiet", "--no-checkout", "--no-hardlinks")
    _git(*quietly, PROJECT, build.place, umask=build.umask)
    # Another may have been committed since the first build.
    _git("-C", build.place, "checkout", "--quiet", "--detach", commit, umask=build.umask)
    # Not those of the make that runs us: it would hand its flags and variables on.
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    kept.pop("SOURCE_DATE_EPOCH", None)
    environment = {**kept, **build.environment, "AURAE_CACHE": str(build.cache)}
    for words in targets:
        done = subprocess.run(
            ["make", *words], cwd=build.place, env=environment, umask=build.umask, check=False
        )
        if done.returncode:
            sys.exit(f"make reproduce: {build.place}: make {' '.join(words)} failed, see above")


def _git(*words: str | Path, umask: int = -1) -> str:
    done = subprocess.run(
        ["git", *words], check=True, stdout=subprocess.PIPE, text=True, umask=umask
    )
    return done.stdout.strip()


def artifacts(build: Path) -> set[str]:
    """Names of the files in a folder `build/`, and below it, that are there to be used."""
    found: set[str] = set()
    for folder, folders, names in os.walk(build):
        folders[:] = [name for name in folders if name not in NOT_ARTIFACTS]
        files = (Path(folder) / name for name in names if name not in NOT_ARTIFACTS)
        found.update(str(file.relative_to(build)) for file in files if not file.is_symlink())
    return found


def compare(one: Path, two: Path) -> list[str]:
    """What differs between the artifacts of two builds, a line each, and where to look."""
    names = artifacts(one), artifacts(two)
    lines = [f"{name}: only one build has it" for name in sorted(names[0] ^ names[1])]
    found = {name: first_difference(one / name, two / name) for name in names[0] & names[1]}
    lines += [
        f"{name}: differs from byte {at} on" for name, at in sorted(found.items()) if at is not None
    ]
    if lines:
        trees = (*one.glob("image/root"), *one.glob("*/image/root"))
        for root in (tree.relative_to(one) for tree in trees):
            paths = compare_trees(one / root, two / root)
            lines += [f"    {root}: /{path} differs" for path in paths]
    return lines


def first_difference(one: Path, two: Path) -> int | None:
    """Where two files first differ; None if they are equal."""
    with one.open("rb") as a, two.open("rb") as b:
        at = 0
        while True:
            left, right = a.read(_CHUNK), b.read(_CHUNK)
            if left != right:
                both = zip(left, right, strict=False)
                offset = next((i for i, (x, y) in enumerate(both) if x != y), None)
                return at + (min(len(left), len(right)) if offset is None else offset)
            if not left:
                return None
            at += len(left)


def compare_trees(one: Path, two: Path) -> list[str]:
    """Paths that are not the same in both trees: content, mode or target of a link."""
    told = [dict(_described(tree)) for tree in (one, two)]
    paths = told[0].keys() | told[1].keys()
    return sorted(path for path in paths if told[0].get(path) != told[1].get(path))


def _described(tree: Path) -> Iterator[tuple[str, tuple[int, str]]]:
    for path in tree.rglob("*"):
        mode = path.lstat().st_mode
        if path.is_symlink():
            content = str(path.readlink())
        else:
            content = digest(path) if path.is_file() else ""
        yield str(path.relative_to(tree)), (mode, content)


def digest(path: Path) -> str:
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


if __name__ == "__main__":
    main()
