"""`make image`: from Debian's packages and the working tree to what is in `build/`.

| file | what |
|---|---|
| `aurae.img` | the disk |
| `aurae-4k.img` | the same for disks whose sectors have 4096 bytes |
| `vmlinuz`, `initramfs` | for a direct kernel boot, the root inside the initramfs |
| `initramfs-micro` | the same without the root, for a root on a disk or in persistent memory |
| `root.erofs` | the root |
| `root.verity` | its hash tree, and the hash of the boot image that goes with it |
| `aurae.efi` | that boot image: kernel, initramfs, and a command line with the root hash |
"""

import argparse
import fcntl
import os
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from image import debian, disk, initramfs, kernel, mkosi, overlay, pack, python, root, stages
from image.debian import NoMirrorError
from image.mkosi import BuildError, Workshop
from image.stages import Stage

_DISKS: Final = {"aurae.img": 512, "aurae-4k.img": 4096}
"""The disks, by the bytes of a sector."""

PRODUCTS: Final = (
    *_DISKS,
    *("vmlinuz", "initramfs", "initramfs-micro", "root.erofs", "root.verity", "aurae.efi"),
)

# The trees of an earlier build that are kept in the cache, of each kind.
_KEPT: Final = 2


@dataclass(frozen=True, slots=True)
class Places:
    """Where things are: the working tree, and the cache that clones share."""

    project: Path
    cache: Path

    @property
    def build(self) -> Path:
        return self.project / "build"

    @property
    def work(self) -> Path:
        return self.build / "image"

    @property
    def root(self) -> Path:
        return self.work / "root"

    def tree(self, name: str) -> Path:
        """The link to a tree in the cache."""
        return self.work / name

    def code(self, *names: str) -> tuple[Path, ...]:
        return tuple(self.project / "image" / name for name in names)

    def workshop(self) -> Workshop:
        return Workshop(self.tree("mkosi").resolve(), self.tree("tools").resolve(), self.work)


def chain(at: Places) -> list[Stage]:
    """The stages, in order. Each depends on all before it."""

    def products(*names: str) -> tuple[Path, ...]:
        return tuple(at.build / name for name in names)

    def cached(name: str) -> tuple[Path, ...]:
        return (at.tree(name), at.tree(name) / "usr")

    packages = (at.project / "pyproject.toml", *python.sources_of_ours(at.project))
    return [
        Stage(
            "mkosi",
            f"mkosi {mkosi.VERSION} from Debian {debian.SUITE}",
            at.code("debian.py"),
            cached("mkosi"),
            lambda key: _from_cache(at, "mkosi", key, mkosi.fetch),
        ),
        Stage(
            "tools",
            "tools to build with (about a minute; kept in the cache)",
            at.code("tools"),
            cached("tools"),
            lambda key: _from_cache(at, "tools", key, lambda to: _mkosi(at, "tools", to)),
        ),
        Stage(
            "base",
            "Debian packages (about a minute; kept in the cache)",
            (at.project / "mkosi.conf",),
            cached("base"),
            lambda key: _from_cache(at, "base", key, lambda to: _mkosi(at, "base", to)),
        ),
        Stage(
            "tree",
            "root: programs, libraries, Python, wheels, modules",
            (
                *at.code("root.py", "python.py", "kernel.py", "elf.py", "modules"),
                at.project / "requirements/image.txt",
            ),
            (at.root,),
            lambda _: _make_tree(at),
        ),
        Stage(
            "packages",
            "root: our packages",
            (*packages, *at.code("pack.py")),
            (at.root / python.DIST_PACKAGES / "initd",),
            lambda _: _lay_packages(at),
        ),
        Stage(
            "initramfs",
            "initramfs and erofs root",
            at.code("initramfs.py", "cpio.py", "disk.py"),
            products("root.erofs", "initramfs-micro", "initramfs", "vmlinuz"),
            lambda _: _make_initramfs(at),
        ),
        Stage(
            "disk",
            "disks: hash tree, unified kernel image, systemd-boot, partitions",
            at.code("repart"),
            products("root.verity", "aurae.efi", *_DISKS),
            lambda _: _make_disk(at),
        ),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m image.build", description="Build the image.")
    parser.add_argument("--fresh", action="store_true", help="ask Debian for today's packages")
    fresh = parser.parse_args().fresh
    at = Places(overlay.PROJECT, cache_folder())
    os.umask(0o022)
    started = time.monotonic()
    at.work.mkdir(parents=True, exist_ok=True)
    with (at.work / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if fresh:
            _forget(at)
        try:
            changed = stages.run(chain(at), at.work / "stamps")
        except (BuildError, NoMirrorError, OSError) as e:
            sys.exit(f"make image: {e}")
    if not changed:
        print("make image: nothing has changed since the last build")
        return
    for name in PRODUCTS:
        print(f"    build/{name:16} {(at.build / name).stat().st_size / 1e6:8.1f} MB")
    print(f"make image: done in {time.monotonic() - started:.0f} s")


def cache_folder() -> Path:
    if given := os.environ.get("AURAE_CACHE"):
        return Path(given).resolve()
    return Path.home() / ".cache/aurae"


def _from_cache(at: Places, name: str, key: str, make: Callable[[Path], None]) -> None:
    """Have the tree `name` in the cache, made anew only for a new key, and link to it."""
    tree = at.cache / f"{name}-{key[:16]}"
    if not (tree / "usr").is_dir():
        at.cache.mkdir(parents=True, exist_ok=True)
        make(tree)
    os.utime(tree)
    link = at.tree(name)
    link.unlink(missing_ok=True)
    link.symlink_to(tree)
    trees = sorted(at.cache.glob(f"{name}-*"), key=lambda path: path.stat().st_mtime)
    for old in trees[:-_KEPT]:
        mkosi.remove(old)


def _forget(at: Places) -> None:
    """Let the next build ask Debian again."""
    for name in ("mkosi", "tools", "base"):
        if at.tree(name).is_symlink():
            mkosi.remove(at.tree(name).resolve())
            at.tree(name).unlink()


def _mkosi(at: Places, name: str, tree: Path) -> None:
    directory, tools = {
        "tools": (at.project / "image/tools", None),
        "base": (at.project, at.tree("tools").resolve()),
    }[name]
    log = at.work / f"{name}.log"
    mkosi.build(at.tree("mkosi").resolve(), directory, tree, log, cache=at.cache, tools=tools)


def _make_tree(at: Places) -> None:
    base = at.tree("base").resolve()
    mkosi.remove(at.root)
    at.root.mkdir()
    root.make(base, at.root, at.project / "requirements/image.txt")
    root.copy_modules(base, at.root)
    root.copy_copyrights(base, at.root)
    small = at.work / "initramfs"
    mkosi.remove(small)
    initramfs.select_modules(base, small)
    release = kernel.version(base)
    for tree in (at.root, small):
        at.workshop().tool(
            ["depmod", "--basedir", tree, "--moduledir", "/usr/lib/modules", release]
        )
        kernel.keep_text_lists(tree / "usr/lib/modules" / release)
    kernel.write_load_lists(small / "usr/lib/modules" / release)


def _lay_packages(at: Places) -> None:
    packages = at.root / python.DIST_PACKAGES
    version = python.install_wheel_of_ours(at.project, packages)
    python.compile_tree(at.root, [packages / name for name in python.OURS], prefix=at.root)
    pack.write_ours(packages, prefix=at.root)
    pack.write_others(at.root, packages)
    root.write_os_release(at.root, version)


def _make_initramfs(at: Places) -> None:
    base = at.tree("base").resolve()
    release = kernel.version(base)
    shutil.copyfile(base / "usr/lib/modules" / release / "vmlinuz", at.build / "vmlinuz")
    disk.make_erofs(at.workshop(), at.root, at.build / "root.erofs")
    micro = at.build / "initramfs-micro"
    modules = at.work / "initramfs/usr/lib/modules" / release
    initramfs.write_micro(at.root, modules, micro)
    initramfs.write_with_root(at.workshop(), micro, at.build / "root.erofs", at.build / "initramfs")


def _make_disk(at: Places) -> None:
    version = python.version_of_ours(at.root / python.DIST_PACKAGES)
    erofs, tree, uki = (at.build / name for name in ("root.erofs", "root.verity", "aurae.efi"))
    release = kernel.version(at.tree("base"))
    micro = at.build / "initramfs-micro"
    build = at.workshop()
    root_hash = disk.make_tree(build, erofs, tree)
    parameters = f"roothash={root_hash}"
    disk.make_uki(build, at.build / "vmlinuz", micro, at.root, release, parameters, uki)
    disk.seal(tree, uki)
    entries = {f"aurae_{version}.efi": uki}
    for name, sector in _DISKS.items():
        disk.make_disk(build, entries, erofs, tree, at.build / name, sector)


if __name__ == "__main__":
    main()
