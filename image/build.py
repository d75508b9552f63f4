"""`make image`: from Debian's packages and the working tree to what is in `build/`.

| file | what |
|---|---|
| `aurae.img` | the disk |
| `aurae-4k.img` | the same for disks whose sectors have 4096 bytes |
| `vmlinuz`, `initramfs` | for a direct kernel boot, the root inside the initramfs |
| `initramfs-micro` | the same without the root, for a root on a disk or in persistent memory |
| `root.erofs` | the root |
| `root.verity` | its hash tree, and the hash of the boot image that goes with it |
| `aurae.bundle` | what a node is upgraded with: a link to `aurae_VERSION.bundle` |
| `aurae.efi` | that boot image: kernel, initramfs, and a command line with the root hash |
| `aurae.pcrs.json` | what a TPM measures when the disk is booted |
| `aurae.spdx.json` | the bill of materials |
| `version` | the version of all of them; `aurae_VERSION.img` and so on are links to them |
"""

import argparse
import fcntl
import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from image import (
    bundle,
    debian,
    disk,
    firmware,
    initramfs,
    kernel,
    lock,
    measure,
    mkosi,
    overlay,
    pack,
    profile,
    python,
    root,
    sbom,
    secure_boot,
    stages,
    version,
)
from image.debian import NoMirrorError
from image.errors import BuildError
from image.mkosi import Workshop
from image.profile import DEFAULT, PROFILES, Profile
from image.secure_boot import Keys
from image.stages import Stage

_DISKS: Final = {"aurae.img": 512, "aurae-4k.img": 4096}
"""The disks, by the bytes of a sector."""

PRODUCTS: Final = (
    *_DISKS,
    *("vmlinuz", "initramfs", "initramfs-micro", "root.erofs", "root.verity", "aurae.efi"),
    "aurae.spdx.json",
    "aurae.bundle",
)

# What is found beside its stable name by one with the version in it, `aurae_VERSION.END`.
VERSIONED: Final = {
    "aurae.img": "img",
    "aurae-4k.img": "4k.img",
    "vmlinuz": "vmlinuz",
    "initramfs": "initramfs",
    "aurae.efi": "efi",
    "aurae.spdx.json": "spdx.json",
    "aurae.pcrs.json": "pcrs.json",
}

# The trees of an earlier build that are kept in the cache, of each kind.
_KEPT: Final = 2


@dataclass(frozen=True, slots=True)
class Places:
    """Where things are: the working tree, and the cache that clones share."""

    project: Path
    cache: Path
    profile: Profile = DEFAULT
    keys: Keys | None = None
    output: Path | None = None
    """Where the products lie; by default a folder of the profile's."""

    @property
    def build(self) -> Path:
        if self.output is not None:
            return self.output
        build = self.project / "build"
        return build if self.profile == DEFAULT else build / self.profile.name

    @property
    def work(self) -> Path:
        return self.build / "image"

    @property
    def root(self) -> Path:
        return self.work / "root"

    @property
    def unlocked(self) -> Path:
        """What of Debian is not as it is locked, a line each."""
        return self.work / "unlocked"

    @property
    def wheels(self) -> Path:
        """Which wheels are in the root."""
        return self.work / "wheels.json"

    @property
    def version(self) -> Path:
        """The file that has the version."""
        return self.build / "version"

    def tree(self, name: str) -> Path:
        """The link to a tree in the cache."""
        return self.work / name

    def code(self, *names: str) -> tuple[Path, ...]:
        return tuple(self.project / "image" / name for name in names)

    def workshop(self) -> Workshop:
        mkosi, tools = (self.tree(name).resolve() for name in ("mkosi", "tools"))
        return Workshop(mkosi, tools, self.work, self.keys.environment if self.keys else None)


def chain(at: Places, *, fresh: bool = False) -> list[Stage]:
    """The stages, in order. Each depends on all before it. `fresh`: with today's Debian packages,
    whatever is locked."""
    pins = "" if fresh else lock.preferences(lock.read(at.project))

    def products(*names: str) -> tuple[Path, ...]:
        return tuple(at.build / name for name in names)

    def cached(name: str) -> tuple[Path, ...]:
        return (at.tree(name), at.tree(name) / "usr")

    packages = (at.project / "pyproject.toml", *python.sources_of_ours(at.project))
    locked = tuple(path for path in (at.project / lock.FILE,) if path.exists())
    return [
        Stage(
            "mkosi",
            f"mkosi {mkosi.VERSION} from Debian {debian.SUITE}",
            (*at.code("debian.py"), *locked),
            cached("mkosi"),
            lambda key: _from_cache(at, "mkosi", key, lambda to: mkosi.fetch(to, pins)),
        ),
        Stage(
            "tools",
            "tools to build with (about a minute; kept in the cache)",
            at.code("tools"),
            cached("tools"),
            lambda key: _from_cache(at, "tools", key, lambda to: _mkosi(at, "tools", to, pins)),
        ),
        Stage(
            "base",
            "Debian packages (about a minute; kept in the cache)",
            profile.configurations(at.project, at.profile),
            (*cached("base"), at.unlocked),
            lambda key: _make_base(at, key, pins),
        ),
        Stage(
            "tree",
            "root: programs, libraries, Python, wheels, modules",
            (
                *at.code("root.py", "python.py", "kernel.py", "elf.py", "firmware.py", "modules"),
                *at.code("profile.py"),
                at.project / "requirements/image.txt",
            ),
            (at.root, at.wheels),
            lambda _: _make_tree(at),
        ),
        Stage(
            "packages",
            "root: our packages",
            (*packages, *at.code("pack.py", "version.py"), at.version, *bundle.keys()),
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
            (
                *at.code("repart", "measure.py", "secure_boot.py"),
                *(at.keys.files if at.keys else ()),
            ),
            products("root.verity", "aurae.efi", "aurae.pcrs.json", *_DISKS),
            lambda _: make_disk(at),
        ),
        Stage(
            "sbom",
            "bill of materials",
            (*at.code("sbom.py", "licences.py"), at.unlocked),
            products("aurae.spdx.json"),
            lambda _: _make_sbom(at),
        ),
        Stage(
            "bundle",
            "bundle to upgrade a node with",
            (*at.code("bundle.py"), at.project / "initd/release.py"),
            products("aurae.bundle"),
            lambda _: _make_bundle(at),
        ),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m image.build", description="Build the image.")
    parser.add_argument("--fresh", action="store_true", help="ask Debian for today's packages")
    parser.add_argument("--profile", choices=tuple(PROFILES), default=DEFAULT.name)
    given = parser.parse_args()
    try:
        keys = secure_boot.find(os.environ)
    except BuildError as e:
        sys.exit(f"make image: {e}")
    at = Places(overlay.PROJECT, cache_folder(), PROFILES[given.profile], keys)
    os.umask(0o022)
    started = time.monotonic()
    at.work.mkdir(parents=True, exist_ok=True)
    with (at.work / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if given.fresh:
            _forget(at)
        try:
            _write_version(at)
            changed = stages.run(chain(at, fresh=given.fresh), at.work / "stamps")
            _tell_unlocked(at)
        except (BuildError, NoMirrorError, OSError, ValueError) as e:
            sys.exit(f"make image: {e}")
    _link_versions(at)
    if not changed:
        print("make image: nothing has changed since the last build")
        return
    for name in PRODUCTS:
        product = at.build / name
        megabytes = product.stat().st_size / 1e6
        print(f"    {product.relative_to(at.project)!s:24} {megabytes:8.1f} MB")
    print(f"make image: done in {time.monotonic() - started:.0f} s")


def _write_version(at: Places) -> None:
    text = f"{version.find(at.project)}\n"
    if not at.version.exists() or at.version.read_text() != text:
        at.version.write_text(text)


def _link_versions(at: Places) -> None:
    """Names with the version in them, in the place of an earlier build's."""
    for old in at.build.glob("aurae_*"):
        if old.is_symlink():
            old.unlink()
    for name, end in VERSIONED.items():
        (at.build / f"aurae_{at.version.read_text().strip()}.{end}").symlink_to(name)


def cache_folder() -> Path:
    if given := os.environ.get("AURAE_CACHE"):
        return Path(given).resolve()
    return Path.home() / ".cache/aurae"


def _from_cache(
    at: Places, name: str, key: str, make: Callable[[Path], None], *, kind: str = ""
) -> None:
    """Have the tree `name` in the cache, made anew only for a new key, and link to it. Of each
    `kind` the last few are kept."""
    kind = kind or name
    tree = at.cache / f"{kind}-{key[:16]}"
    if not (tree / "usr").is_dir():
        at.cache.mkdir(parents=True, exist_ok=True)
        make(tree)
    os.utime(tree)
    link = at.tree(name)
    link.unlink(missing_ok=True)
    link.symlink_to(tree)
    trees = sorted(at.cache.glob(f"{kind}-*"), key=lambda path: path.stat().st_mtime)
    for old in trees[:-_KEPT]:
        mkosi.remove(old)


def _forget(at: Places) -> None:
    """Let the next build ask Debian again."""
    for name in ("mkosi", "tools", "base"):
        if at.tree(name).is_symlink():
            mkosi.remove(at.tree(name).resolve())
            at.tree(name).unlink()


def _make_base(at: Places, key: str, pins: str) -> None:
    kind = "base" if at.profile == DEFAULT else f"base_{at.profile.name}"
    _from_cache(at, "base", key, lambda to: _mkosi(at, "base", to, pins), kind=kind)
    packages = lock.read(at.project)
    lock.check_files(packages, (at.cache / "packages/cache/apt/archives").glob("*.deb"))
    found = lock.installed(at.tree("tools")) | lock.installed(at.tree("base"))
    lines = lock.differences(packages, found)
    at.unlocked.write_text("".join(f"{line}\n" for line in lines))


def _tell_unlocked(at: Places) -> None:
    """Say what is not as it is locked; with `LOCKED` in the environment, that ends the build."""
    lines = at.unlocked.read_text().splitlines()
    if not lines:
        return
    shown = "".join(f"\n    {line}" for line in lines[:5])
    more = f"\n    and {len(lines) - 5} more" if len(lines) > 5 else ""
    told = f"{lock.FILE}: Debian has other versions now; make lock takes them:{shown}{more}"
    if os.environ.get("LOCKED"):
        raise BuildError(told)
    print(told)


def _mkosi(at: Places, name: str, tree: Path, pins: str) -> None:
    directory, tools, profiles = {
        "tools": (at.project / "image/tools", None, ()),
        "base": (at.project, at.tree("tools").resolve(), at.profile.folders),
    }[name]
    log = at.work / f"{name}.log"

    def build(preferences: str) -> None:
        mkosi.build(
            at.tree("mkosi").resolve(),
            directory,
            tree,
            log,
            cache=at.cache,
            tools=tools,
            preferences=preferences,
            profiles=profiles,
        )

    try:
        build(pins)
    except BuildError as e:
        if not pins:
            raise
        # Where a mirror has forgotten some of the versions, the others may not fit to what it has.
        print(f"{e}\n    once more, with other versions than {lock.FILE} has", flush=True)
        build("")


def _make_tree(at: Places) -> None:
    base = at.tree("base").resolve()
    mkosi.remove(at.root)
    at.root.mkdir()
    requirements = at.project / "requirements/image.txt"
    profile = at.profile
    root.make(base, at.root, requirements, at.wheels, shell=profile.shell, lean=profile.lean)
    root.copy_modules(base, at.root, lean=profile.lean)
    firmware.copy(base, at.root, firmware.named(at.workshop(), at.root / "usr/lib/modules"))
    firmware.compress(at.workshop(), at.root)
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
    python.install_wheel_of_ours(at.project, packages)
    made = at.version.read_text().strip()
    version.write(packages / "initd", made)
    python.compile_tree(at.root, [packages / name for name in python.OURS], prefix=at.root)
    pack.write_ours(packages, prefix=at.root)
    pack.write_others(at.root, packages)
    root.write_os_release(at.root, made)
    root.write_upgrade_keys(at.root, bundle.keys())


def _make_initramfs(at: Places) -> None:
    base = at.tree("base").resolve()
    release = kernel.version(base)
    shutil.copyfile(base / "usr/lib/modules" / release / "vmlinuz", at.build / "vmlinuz")
    disk.make_erofs(at.workshop(), at.root, at.build / "root.erofs")
    micro = at.build / "initramfs-micro"
    modules = at.work / "initramfs/usr/lib/modules" / release
    initramfs.write_micro(at.root, modules, micro)
    initramfs.write_with_root(at.workshop(), micro, at.build / "root.erofs", at.build / "initramfs")


def make_disk(at: Places) -> None:
    """Hash tree, boot image and disks, of what the stages before have left."""
    made = at.version.read_text().strip()
    erofs, tree, uki = (at.build / name for name in ("root.erofs", "root.verity", "aurae.efi"))
    release = kernel.version(at.tree("base"))
    linux, micro = (at.build / name for name in ("vmlinuz", "initramfs-micro"))
    build = at.workshop()
    root_hash = disk.make_tree(build, erofs, tree)
    parameters = f"roothash={root_hash}"
    disk.make_uki(build, linux, micro, at.root, release, parameters, uki, at.keys)
    measure.write(build, uki, made, at.build / "aurae.pcrs.json")
    disk.seal(tree, uki)
    named = at.work / "emergency"
    root.write_os_release(named, made, "zz-aurae-emergency")
    emergency = at.work / "aurae-emergency.efi"
    its_tree = disk.make_emergency(
        build, linux, micro, named, release, (root_hash, tree), emergency, at.keys
    )
    entries = {f"aurae_{made}.efi": uki, emergency.name: emergency}
    for name, sector in _DISKS.items():
        output = at.build / name
        disk.make_disk(build, entries, erofs, tree, its_tree, output, sector, at.keys)


def _make_sbom(at: Places) -> None:
    made = at.version.read_text().strip()
    packages = lock.read(at.project)
    parts = [sbom.ours(made)]
    parts += sbom.wheels(at.root / python.DIST_PACKAGES, json.loads(at.wheels.read_text()))
    for tree, names in (
        (at.tree("base"), root.packages_of(at.tree("base"), at.root)),
        (at.tree("tools"), sbom.FROM_TOOLS),
    ):
        known = lock.status(tree)
        parts += [sbom.deb(tree, name, known[name], packages.get(name)) for name in names]
    different = at.unlocked.read_text().splitlines()
    comment = f"not as {lock.FILE} has it: {', '.join(different)}" if different else ""
    digests = {name: _digest(at.build / name) for name in ("root.erofs", "vmlinuz", "initramfs")}
    content = sbom.document(made, parts, digests=digests, comment=comment)
    sbom.write(at.build / "aurae.spdx.json", content)


def _digest(path: Path) -> str:
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _make_bundle(at: Places) -> None:
    made = at.version.read_text().strip()
    for old in at.build.glob("aurae*.bundle"):
        old.unlink()
    name = f"aurae_{made}.bundle"
    bundle.make(at.build, at.build / name, made)
    (at.build / "aurae.bundle").symlink_to(name)


if __name__ == "__main__":
    main()
