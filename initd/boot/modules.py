"""Kernel modules for the hardware at hand, by modalias: what udev does elsewhere."""

import errno
import os
from collections.abc import Iterable, Iterator
from typing import Final

from initd.linux import module

_MODULES: Final = "/usr/lib/modules"
_SYS: Final = "/sys"
# As many characters as hold the bus and a PCI vendor. Patterns that agree so far share a bucket.
_PREFIX: Final = 14

# Matched by hardware that a node has no use for.
UNWANTED: Final = frozenset(("pcspkr", "joydev", "mousedev", "psmouse", "bochs", "floppy"))


class Aliases:
    """modules.alias, for the buses that are asked for."""

    def __init__(self, text: str, buses: Iterable[str]) -> None:
        wanted = set(buses)
        self._buckets: dict[str, list[tuple[str, str]]] = {}
        for line in text.splitlines():
            # alias PATTERN MODULE; no pattern has a blank.
            keyword, _, rest = line.partition(" ")
            bus = rest[: rest.find(":")]
            if keyword != "alias" or (bus not in wanted and "*" not in bus):
                continue
            pattern, _, name = rest.rpartition(" ")
            self._buckets.setdefault(_literal(pattern)[:_PREFIX], []).append((pattern, name))

    def names(self, modalias: str) -> Iterator[str]:
        """The modules for a device, in the order of the file."""
        for length in range(min(_PREFIX, len(modalias)) + 1):
            for pattern, name in self._buckets.get(modalias[:length], ()):
                if matches(modalias, pattern):
                    yield name


class Modules:
    """The modules in `folder` (one kernel's). Each is loaded once, after what it needs."""

    def __init__(self, folder: str = "", sys: str = _SYS) -> None:
        self._folder = folder or f"{_MODULES}/{os.uname().release}"
        self._loaded = f"{sys}/module"
        self._paths: dict[str, tuple[str, ...]] = {}
        self._before: dict[str, list[str]] = {}
        self._done: set[str] = set()
        self._asked: set[str] = set()
        self._read()

    def for_aliases(self, modaliases: Iterable[str]) -> tuple[list[str], list[str]]:
        """Load what devices need, each once; returns (names loaded, what was wrong)."""
        fresh = [alias for alias in modaliases if alias not in self._asked]
        self._asked.update(fresh)
        loaded: list[str] = []
        problems: list[str] = []
        if fresh:
            text = _read(f"{self._folder}/modules.alias")
            aliases = Aliases(text, (alias.partition(":")[0] for alias in fresh))
            for modalias in fresh:
                for name in aliases.names(modalias):
                    if name not in UNWANTED:
                        self._load(name, loaded, problems)
        return loaded, problems

    def load(self, *names: str) -> tuple[list[str], list[str]]:
        """Load modules by name; those that are built in or not there are none."""
        loaded: list[str] = []
        problems: list[str] = []
        for name in names:
            self._load(name, loaded, problems)
        return loaded, problems

    def _load(self, name: str, loaded: list[str], problems: list[str]) -> None:
        name = name.replace("-", "_")
        if name in self._done or name not in self._paths:
            return
        self._done.add(name)
        for other in self._before.get(name, ()):
            self._load(other, loaded, problems)
        if os.path.exists(f"{self._loaded}/{name}/initstate"):
            # The kernel would unpack the file before it noticed.
            return
        path, *needed = self._paths[name]
        for other in reversed(needed):
            self._load(module_name(other), loaded, problems)
        try:
            module.load(f"{self._folder}/{path}")
        except FileExistsError:
            pass
        except OSError as error:
            # ENODEV: it looked for its device and found none, as drivers by CPU feature do.
            if error.errno != errno.ENODEV:
                problems.append(f"{name}: {error.strerror}")
        else:
            loaded.append(name)

    def _read(self) -> None:
        try:
            lines = _read(f"{self._folder}/modules.dep").splitlines()
            soft = _read(f"{self._folder}/modules.softdep").splitlines()
        except FileNotFoundError:
            # A kernel without modules.
            return
        for line in lines:
            path, _, needed = line.partition(":")
            self._paths[module_name(path)] = (path, *needed.split())
        for line in soft:
            # softdep NAME pre: NAME ... post: NAME ...
            words = line.split()
            if words[:1] == ["softdep"] and "pre:" in words:
                first = words.index("pre:") + 1
                last = words.index("post:") if "post:" in words[first:] else len(words)
                self._before[words[1].replace("-", "_")] = words[first:last]


def module_name(path: str) -> str:
    """`kernel/fs/fat/vfat.ko.xz` is `vfat`; `-` and `_` are one in names."""
    return path.rpartition("/")[2].partition(".")[0].replace("-", "_")


def find_modaliases(sys: str = _SYS) -> list[str]:
    """Of all devices on buses, and of input devices, which are on none."""
    found: dict[str, None] = {}
    folders = [f"{sys}/bus/{bus}/devices" for bus in _list(f"{sys}/bus")]
    for folder in [*folders, f"{sys}/class/input"]:
        for device in _list(folder):
            try:
                found[_read(f"{folder}/{device}/modalias").strip()] = None
            except OSError:
                continue
    found.pop("", None)
    return list(found)


def matches(modalias: str, pattern: str) -> bool:
    """As fnmatch(3); only patterns with more than `*` pay for the general case."""
    if "[" in pattern or "?" in pattern:
        # It brings regular expressions along, which little else here needs.
        from fnmatch import fnmatchcase

        return fnmatchcase(modalias, pattern)
    first, *rest = pattern.split("*")
    if not rest:
        return modalias == pattern
    if not modalias.startswith(first):
        return False
    position = len(first)
    for piece in rest[:-1]:
        found = modalias.find(piece, position)
        if found < 0:
            return False
        position = found + len(piece)
    return len(modalias) - position >= len(rest[-1]) and modalias.endswith(rest[-1])


def _literal(pattern: str) -> str:
    """What comes before the first wildcard."""
    ends = [at for at in map(pattern.find, "*?[") if at >= 0]
    return pattern[: min(ends)] if ends else pattern


def _list(folder: str) -> list[str]:
    try:
        return [entry.name for entry in os.scandir(folder)]
    except OSError:
        return []


def _read(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()
