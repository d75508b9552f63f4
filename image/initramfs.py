"""The initramfs: Python's core, `initd.initramfs`, the root's modules, and the root itself."""

import shutil
import tempfile
from collections.abc import Mapping
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Final

from image import elf, kernel, pack, python
from image.cpio import Archive
from image.mkosi import Workshop

# What follows initd.initramfs is imported only where a root is on a disk, by its hash, or has
# failed; the first only by the runtime.
ENTRY: Final = """
from runtime import ahead
for _ in ahead.steps(): pass
import initd.initramfs, initd.boot.modules, initd.boot.verified, initd.boot.esp, initd.linux.power
import initd.boot.guard
import encodings.utf_16_le
"""

EARLY: Final = "from initd import pack"

INIT: Final = f"""\
#!/usr/bin/python3 -IS
import sys

sys.path.append("/{python.DIST_PACKAGES}")

from initd import pack

pack.install()

from initd import headstart

runtime = headstart.begin("runtime.__main__", "runtime.ahead")

from initd.initramfs import main

main(runtime)
"""

FOLDERS: Final = ("proc", "sys", "dev", "run", "sysroot", "ramfs", "tmp")

# Python wants random numbers before its first line, and before anything can mount devtmpfs.
NODES: Final = (
    ("console", 5, 1, 0o600),
    ("null", 1, 3, 0o666),
    ("random", 1, 8, 0o666),
    ("urandom", 1, 9, 0o666),
)


def write_micro(root: Path, modules: Path, output: Path) -> None:
    """Write the initramfs without a root. `modules` is a folder of modules, named by release."""
    with output.open("wb") as file:
        archive = Archive(file)
        for name in FOLDERS:
            archive.folder(PurePosixPath("/") / name)
        for name, major, minor, mode in NODES:
            archive.character_device(PurePosixPath("/dev") / name, major, minor, mode)
        for name, target in (("bin", "usr/bin"), ("lib", "usr/lib"), ("lib64", "usr/lib64")):
            archive.symlink(PurePosixPath("/") / name, target)
        archive.data(PurePosixPath("/init"), INIT.encode(), 0o755)
        add_python(archive, root)
        archive.tree(PurePosixPath("/usr/lib/modules") / modules.name, modules)
        archive.close()


def add_python(archive: Archive, root: Path) -> None:
    """Python itself and just the modules that `initd.initramfs` loads, without their sources."""
    modules = python.loaded_modules(root, ENTRY, [root / python.DIST_PACKAGES])
    extensions = [path for path in modules.values() if path.suffix == ".so"]
    program = root / f"usr/bin/python{python.SERIES}"
    libraries = elf.closure([program, *extensions], root / python.LIBRARIES)
    archive.file(_inside(program, root), program)
    archive.symlink(PurePosixPath("/usr/bin/python3"), program.name)
    loader = PurePosixPath("/") / python.LOADER
    archive.symlink(PurePosixPath("/usr/lib64") / loader.name, f"../..{loader}")
    for library in sorted({*libraries, root / python.LOADER} - set(extensions)):
        archive.file(_inside(library, root), library)
    add_modules(archive, root, root)


def add_modules(archive: Archive, root: Path, *prefixes: Path) -> None:
    """The Python modules of `/init`. Those that it takes to read a pack are files, without their
    sources; so are extensions. The others are in the pack. They lie below one of `prefixes`, which
    is what their paths lose, and those of the first are found first."""
    path = [prefix / python.DIST_PACKAGES for prefix in dict.fromkeys((*prefixes, root))]
    early = python.loaded_modules(root, EARLY, path)
    modules = python.loaded_modules(root, ENTRY, path, frozen=False)
    with tempfile.TemporaryDirectory(prefix="aurae-initramfs-") as name:
        for number, prefix in enumerate(prefixes):
            work = Path(name) / str(number)
            for place, compiled in _compiled_files(root, early, prefix, work).items():
                archive.file(place, compiled)
            for file in sorted(modules.values()):
                if file.suffix == ".so" and file.is_relative_to(prefix):
                    archive.file(_inside(file, prefix), file)
        packed = Path(name) / "pack"
        contents = (pack.contents(modules, prefix) for prefix in prefixes)
        pack.write(
            packed,
            chain.from_iterable(contents),
            build=pack.build_of(root / python.DIST_PACKAGES),
        )
        archive.file(pack.PLACE, packed)


def _compiled_files(
    python_root: Path, modules: Mapping[str, Path], prefix: Path, work: Path
) -> dict[PurePosixPath, Path]:
    """Compile Python modules to stand without their sources; by their place in the initramfs.

    `prefix` is what the modules' paths lose there, `work` a folder to be, for the results.
    """
    work.mkdir()
    files = {}
    here = (path for path in modules.values() if path.is_relative_to(prefix))
    for path in sorted(path for path in here if path.suffix in (".py", ".pyc")):
        copied = work / path.relative_to(prefix)
        copied.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copied)
        files[_inside(path, prefix).with_suffix(".pyc")] = copied.with_suffix(".pyc")
    python.compile_in_place(python_root, [work], prefix=work)
    return files


def write_with_root(build: Workshop, micro: Path, erofs: Path, output: Path) -> None:
    """Write the initramfs for a direct boot: the small one, and an archive with the root's file.

    Both are compressed by lz4: zstd would cost a second of boot under emulation. More archives may
    follow in the same file.
    """
    archived = build.folder / "root.cpio"
    shutil.copyfile(micro, archived)
    with archived.open("ab") as file:
        file.write(b"\0" * (-file.tell() % 4))
        archive = Archive(file)
        archive.file(PurePosixPath("/root.erofs"), erofs, 0o600)
        archive.close()
    build.tool(["lz4", "-l", "-9", "-q", "-f", archived, output])
    archived.unlink()
    with output.open("ab") as file:
        # The kernel takes a chunk of no length for the end of lz4 data; and what follows begins at
        # a multiple of 4.
        file.write(b"\0" * (4 + -file.tell() % 4))


def select_modules(base: Path, target: Path) -> None:
    """Copy the initramfs's modules into the folder `target/usr/lib/modules/RELEASE`."""
    release = kernel.version(base)
    folder = target / "usr/lib/modules" / release
    folder.mkdir(parents=True)
    kernel.copy(base / "usr/lib/modules" / release, folder, kernel.for_initramfs())


def _inside(path: Path, root: Path) -> PurePosixPath:
    return PurePosixPath("/") / path.relative_to(root)
