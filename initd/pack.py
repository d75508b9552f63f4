"""Imports from few files: the compiled modules that auraed starts with, one after the other.

To look a module up in the folders of `sys.path` costs five times as much as to have its code at a
known place, and a start takes three hundred of them. A package's own pack lies in its folder, so
that whoever lays another version of the package over it replaces both; all others share one beside
the packages. What is in no pack, and where there is none, is found as ever.

Who imports this first has not imported much else yet: it keeps to `os`, `sys` and `marshal`.
"""

import marshal
import os
import sys
from _frozen_importlib import ModuleSpec
from _frozen_importlib_external import ExtensionFileLoader

# What type checkers take for theirs.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import CodeType, ModuleType

NAME = "modules.pack"
PACKAGES = ("initd", "runtime", "aurae")
FOLDER = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

# A pack is the length of its index in 8 bytes, little-endian; its index, a dict as marshal writes
# it, of these by module name; and the code of the modules, as marshal writes it. An entry: offset
# of the code in the pack, its length, and the module's file. An extension has no code here.
Entry = tuple[int, int, str]

# Under this name an index has, in place of a file, the build that the modules are of.
BUILD = ""

INDEX_LENGTH = 8


def install(folder: str = FOLDER) -> None:
    """Import from the packs of this folder, in place of those of an earlier call."""
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, Packs)]
    packs = (f"{folder}/{NAME}", *(f"{folder}/{package}/{NAME}" for package in PACKAGES))
    modules = {name: (pack, entry) for pack in packs for name, entry in read_index(pack).items()}
    if modules:
        sys.meta_path.insert(0, Packs(modules))


def read_index(path: str) -> dict[str, Entry]:
    """Of a pack; empty where there is none, or something else."""
    try:
        with open(path, "rb", buffering=0) as file:
            length = int.from_bytes(file.read(INDEX_LENGTH), "little")
            index = marshal.loads(file.read(length))
    except (OSError, EOFError, ValueError, TypeError, OverflowError):
        return {}
    return index if isinstance(index, dict) else {}


def build(folder: str = FOLDER) -> str:
    """Of which build the packs of this folder are: equal where Python, its library and all
    packages of others are. Empty where there are none."""
    _, _, name = read_index(f"{folder}/{NAME}").get(BUILD, (0, 0, ""))
    return name


class Packs:
    """A finder and loader, as `sys.meta_path` takes them."""

    def __init__(self, modules: "Mapping[str, tuple[str, Entry]]") -> None:
        self._modules = modules

    def find_spec(
        self, name: str, _path: object = None, _target: object = None
    ) -> ModuleSpec | None:
        if name not in self._modules:
            return None
        _, (_, length, file) = self._modules[name]
        loader = self if length else ExtensionFileLoader(name, file)
        package = self.is_package(name)
        spec = ModuleSpec(name, loader, origin=file, is_package=package)  # type: ignore[arg-type]
        spec.has_location = True
        if package:
            spec.submodule_search_locations = [os.path.dirname(file)]
        return spec

    def create_module(self, _spec: ModuleSpec) -> None:
        """As usual."""

    def exec_module(self, module: "ModuleType") -> None:
        exec(self.get_code(module.__spec__.name), module.__dict__)  # type: ignore[union-attr]

    def get_code(self, name: str) -> "CodeType":
        pack, (offset, length, _) = self._modules[name]
        fd = os.open(pack, os.O_RDONLY | os.O_CLOEXEC)
        try:
            code: CodeType = marshal.loads(os.pread(fd, length, offset))
        finally:
            os.close(fd)
        return code

    def is_package(self, name: str) -> bool:
        _, (_, _, file) = self._modules[name]
        return os.path.basename(file).startswith("__init__.")

    def get_source(self, _name: str) -> None:
        """There is none here; tracebacks look at the file."""

    def get_data(self, path: str) -> bytes:
        """A package's data lies beside it."""
        with open(path, "rb") as file:
            return file.read()
