"""Writes the packs that a node imports from (see `initd.pack`), out of compiled modules."""

import hashlib
import marshal
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Final

from image import python
from initd import pack

# What the programs of a node have loaded when they are at work. What they load later, or seldom,
# they find without a pack. The runtime's first.
LOADED: Final = """
import runtime.ahead, runtime.__main__
runtime.__main__.load()
import initd.__main__, initd.machine, initd.network.__main__, initd.first, initd.fallback
"""

PLACE: Final = PurePosixPath("/") / python.DIST_PACKAGES / pack.NAME

# Of a file compiled by Python: magic number, flags, and what it is compared with.
_HEADER: Final = 16


def write_ours(packages: Path, *, prefix: Path) -> None:
    """The packs of our packages, compiled by `python.compile_tree`. `prefix` is what the modules'
    paths lose on the node."""
    for name in pack.PACKAGES:
        _write_package(packages / name, prefix)


def _write_package(folder: Path, prefix: Path) -> None:
    modules = {}
    for path in sorted(folder.rglob("*.py")):
        inside = path.relative_to(folder.parent).with_suffix("")
        parts = inside.parent.parts if inside.name == "__init__" else inside.parts
        modules[".".join(parts)] = path
    write(folder / pack.NAME, contents(modules, prefix))


def write_others(root: Path, packages: Path) -> None:
    """The pack of what lies beside our packages, and of the standard library."""
    loaded = python.loaded_modules(root, LOADED, [packages], frozen=False)
    ours = tuple(packages / name for name in pack.PACKAGES)
    others = {
        name: path
        for name, path in loaded.items()
        if not any(path.is_relative_to(folder) for folder in ours)
    }
    modules = list(contents(others, root))
    digest = hashlib.sha256(b"".join(code for _, _, code in modules)).hexdigest()
    write(packages / pack.NAME, modules, build=digest)


def build_of(packages: Path) -> str:
    """See `initd.pack.build`."""
    return pack.build(str(packages))


def write(output: Path, modules: Iterable[tuple[str, str, bytes]], *, build: str = "") -> None:
    """`modules` gives names, files as they are called on the node, and code as marshal writes it,
    empty for an extension."""
    index: dict[str, pack.Entry] = {pack.BUILD: (0, 0, build)}
    code = bytearray()
    for name, file, text in modules:
        index[name] = (len(code), len(text), file)
        code += text
    # Version 2 is what every Python reads, and a number in it has one length.
    start = pack.INDEX_LENGTH + len(marshal.dumps(index, 2))
    placed = {name: (start + at, length, file) for name, (at, length, file) in index.items()}
    head = marshal.dumps(placed, 2)
    output.write_bytes(len(head).to_bytes(pack.INDEX_LENGTH, "little") + head + code)


def contents(modules: Mapping[str, Path], prefix: Path) -> Iterator[tuple[str, str, bytes]]:
    """Of those modules whose files lie below `prefix`, for `write`."""
    for name, path in modules.items():
        if path.is_relative_to(prefix):
            code = b"" if path.suffix == ".so" else _compiled(path).read_bytes()[_HEADER:]
            yield name, f"/{path.relative_to(prefix)}", code


def _compiled(path: Path) -> Path:
    if path.suffix == ".pyc":
        return path
    return path.parent / "__pycache__" / f"{path.stem}.{python.TAG}.pyc"
