"""Which kernel modules the image carries, and which of them the initramfs."""

import lzma
import shutil
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

_LISTS: Final = Path(__file__).parent / "modules"

# What the initramfs loads without looking at the hardware, in this order: for any root, for one in
# persistent memory, for one that is verified, and by a processor that can hash. libcrc32c asks for
# crc32c by name when it is loaded, so no list of dependencies has it.
WITHOUT_LOOKING: Final = {
    "root": ("crc32c_generic", "erofs"),
    "pmem": ("virtio_pmem", "nd_pmem"),
    "verity": ("dm_mod", "dm_verity"),
    "sha256": ("sha256_ssse3",),
}

# Loaded at nearly every boot of a virtual machine, so kept as plain files, which load faster.
PLAIN: Final = (
    *("erofs", "crc32c_generic", "crc32c-intel", "virtio_blk", "virtio_net", "qemu_fw_cfg"),
    *("button", "evdev", "virtio_pmem", "nd_pmem", "dm_verity"),
)

# depmod's text files; the binary ones beside them are for libkmod, which the image has not.
_TEXTS: Final = ("modules.alias", "modules.builtin", "modules.builtin.modinfo", "modules.dep")


def listed(name: str) -> tuple[str, ...]:
    """The patterns in one of the lists in `modules/`."""
    lines = (_LISTS / name).read_text().splitlines()
    return tuple(word for line in lines if not line.startswith("#") for word in line.split())


def for_initramfs() -> tuple[str, ...]:
    return listed("initramfs")


def for_root() -> tuple[str, ...]:
    return (*for_initramfs(), *listed("root"))


def version(base: Path) -> str:
    """The kernel's release, as `uname -r` gives it."""
    [folder] = (path for path in (base / "usr/lib/modules").iterdir() if path.is_dir())
    return folder.name


def dependencies(text: str) -> dict[str, tuple[str, ...]]:
    """modules.dep: what each module file needs, by path below the modules' folder."""
    table = {}
    for line in text.splitlines():
        path, _, needs = line.partition(":")
        table[path] = tuple(needs.split())
    return table


def name_of(path: str) -> str:
    """`kernel/fs/erofs/erofs.ko.xz` is `erofs`; in names, `-` and `_` are one."""
    return path.rpartition("/")[2].partition(".ko")[0].replace("-", "_")


def select(table: Mapping[str, tuple[str, ...]], patterns: Iterable[str]) -> list[str]:
    """The files of the modules that match, and of all they need, sorted.

    A pattern that matches nothing is not an error: the next kernel may have it built in.
    """
    wanted = [pattern.replace("-", "_") for pattern in patterns]
    exact = {pattern for pattern in wanted if "*" not in pattern}
    globs = [pattern for pattern in wanted if "*" in pattern]
    chosen: set[str] = set()
    for path, needs in table.items():
        name = name_of(path)
        if name in exact or any(fnmatchcase(name, pattern) for pattern in globs):
            chosen.update((path, *needs))
    return sorted(chosen)


def copy(modules: Path, target: Path, patterns: Iterable[str]) -> None:
    """Copy a selection of modules. `depmod` must be run on the result."""
    table = dependencies((modules / "modules.dep").read_text())
    plain = set(select(table, PLAIN))
    for path in select(table, patterns):
        destination = target / path
        destination.parent.mkdir(parents=True, exist_ok=True)
        if path in plain and path.endswith(".xz"):
            destination.with_suffix("").write_bytes(lzma.decompress((modules / path).read_bytes()))
        else:
            shutil.copyfile(modules / path, destination)
    for name in ("modules.order", "modules.builtin", "modules.builtin.modinfo"):
        shutil.copyfile(modules / name, target / name)


def write_load_lists(folder: Path) -> None:
    """After depmod: write `modules.NAME` for each of `WITHOUT_LOOKING`: its files and their needs,
    in load order."""
    table = dependencies((folder / "modules.dep").read_text())
    for name, modules in WITHOUT_LOOKING.items():
        files: dict[str, None] = {}
        for module in modules:
            for path in (path for path in table if name_of(path) == module):
                # modules.dep names first what is needed last.
                files.update(dict.fromkeys((*reversed(table[path]), path)))
        (folder / f"modules.{name}").write_text("".join(f"{path}\n" for path in files))


def keep_text_lists(target: Path) -> None:
    """After depmod: drop what only libkmod reads."""
    for path in target.glob("modules.*"):
        if path.name not in (*_TEXTS, "modules.softdep", "modules.devname"):
            path.unlink()
