"""The channels that a configuration comes by, and what they give together.

| channel | what |
|---|---|
| `cmdline` | kernel parameters |
| `smbios`, `fw_cfg` | the credential `aurae.config.toml` by SMBIOS, by QEMU's fw_cfg |
| `initramfs` | the same as a file `/credentials/aurae.config.toml` in the initramfs |
| `esp` | the same as a file that systemd-stub found on the ESP |
| `disk` | a disk called `aurae-config` or `cidata` |
| `url` | fetched from `aurae.config=` |
| `stored` | what was applied over the API |

A key is that of the first channel which has it. PID 1 makes `config.json` of them at boot, the
runtime whenever one has changed.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from initd.configuration import document
from initd.configuration.tables import Problem, join
from initd.values import NamedTuple

ORDER: Final = ("cmdline", "smbios", "fw_cfg", "initramfs", "esp", "disk", "url", "stored")
CREDENTIAL: Final = "aurae.config.toml"

# Of `aurae.config.toml` by any channel, PID 1 puts one file here: `smbios.toml`.
FOLDER: Final = "config"
URL: Final = "config.url.toml"
MERGED: Final = "config.json"
BOOT: Final = "config.boot.json"
TRIAL: Final = "config.trial.json"
STORED: Final = "config.toml"

# The disk is mounted before these are there.
_LATE: Final = ("url", "stored")


class Places(NamedTuple):
    """Where the channels' documents lie, and where the result goes."""

    run: str = "/run/aurae"
    state: str = "/run/aurae/state"
    cmdline: str = "/proc/cmdline"

    def of(self, channel: str) -> str:
        """The document of a channel, if it has one."""
        if channel == "stored":
            return f"{self.state}/{STORED}"
        return f"{self.run}/{URL}" if channel == "url" else f"{self.run}/{FOLDER}/{channel}.toml"


class Channel(NamedTuple):
    """What a channel gives that can be used, and what is wrong with the rest."""

    name: str
    values: dict[str, Any]
    problems: tuple[Problem, ...] = ()


class Hidden(NamedTuple):
    """A key of a channel that does not count, as `by` is a channel before it."""

    path: str
    value: Any
    channel: str
    by: str


class Merged(NamedTuple):
    """What holds, where each of its keys is from, and what was given in vain."""

    values: dict[str, Any]
    origin: dict[str, str]
    hidden: tuple[Hidden, ...] = ()
    problems: tuple[str, ...] = ()


def gather(places: Places, *, stored: str | None = None) -> tuple[Channel, ...]:
    """The channels that give something, the first first. `stored` takes the place of the stored
    document. Never raises."""
    found = []
    for name in ORDER:
        if name == "cmdline":
            channel = Channel(name, document.of_command_line(_read(places.cmdline).decode()))
        elif name == "stored" and stored is not None:
            channel = of_text(name, stored)
        else:
            channel = _of_file(name, places.of(name))
        if channel.values or channel.problems:
            found.append(channel)
    return tuple(found)


def _of_file(name: str, path: str) -> Channel:
    try:
        with open(path, "rb") as file:
            text = file.read(document.SIZE_LIMIT + 1)
    except FileNotFoundError:
        return Channel(name, {})
    except OSError as e:
        return Channel(name, {}, (Problem("", f"cannot be read ({e.strerror})"),))
    return of_text(name, text)


def of_text(name: str, text: str | bytes) -> Channel:
    """A document that came by that channel."""
    parsed = document.parse(text)
    if not parsed.values or not parsed.problems:
        return Channel(name, parsed.values, parsed.problems)
    left = document.usable(parsed.values)
    return Channel(name, left.values, left.problems)


def merge(channels: Sequence[Channel]) -> Merged:
    """The channels are in their order, the first counts most."""
    origin: dict[str, str] = {}
    hidden: list[Hidden] = []
    values: dict[str, Any] = {}
    problems = [f"{one.name}: {problem}" for one in channels for problem in one.problems]
    for channel in channels:
        given = channel.values
        if channel.name in _LATE and "disks" in given:
            given = {name: value for name, value in given.items() if name != "disks"}
            hidden += (
                Hidden(path, value, channel.name, "")
                for path, value in leaves({"disks": channel.values["disks"]})
            )
        _lay_below(values, given, (), channel.name, origin, hidden)
    left = document.usable(values)
    if left.problems:
        kept = dict(leaves(left.values))
        origin = {path: name for path, name in origin.items() if path in kept}
        problems += (f"together: {problem}" for problem in left.problems)
    return Merged(left.values, origin, tuple(hidden), tuple(problems))


def _lay_below(
    above: dict[str, Any],
    given: Mapping[str, Any],
    names: tuple[str, ...],
    channel: str,
    origin: dict[str, str],
    hidden: list[Hidden],
) -> None:
    for name, value in given.items():
        here = (*names, name)
        path = _path(here)
        divided = _is_divided(value, here)
        if name not in above or (divided and above[name] == {}):
            # An empty table says nothing of what is in it.
            origin.pop(path, None)
            above[name] = {} if divided else value
            if not divided:
                origin[path] = channel
        if divided and isinstance(above[name], dict) and path not in origin:
            _lay_below(above[name], value, here, channel, origin, hidden)
        elif origin.get(path) != channel and value != {}:
            hidden.append(Hidden(path, value, channel, _origin(origin, path)))


def _origin(origin: Mapping[str, str], path: str) -> str:
    """Where a key is from, or the first of what is in the table."""
    found = (channel for at, channel in origin.items() if at.startswith(f"{path}."))
    return origin.get(path) or next(found, "")


def _is_divided(value: Any, names: Sequence[str]) -> bool:
    """Whether it is a table whose keys count one by one."""
    return isinstance(value, dict) and bool(value) and not document.is_whole(names)


def leaves(values: Mapping[str, Any], names: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Each key that counts by itself, and its value."""
    for name, value in values.items():
        here = (*names, name)
        if _is_divided(value, here):
            yield from leaves(value, here)
        else:
            yield _path(here), value


def _path(names: Sequence[str]) -> str:
    path = ""
    for name in names:
        path = join(path, name)
    return path


def write(path: str, merged: Merged) -> bool:
    """Put it there as a whole, for us alone; False: it was the same. OSError."""
    text = json.dumps({"values": merged.values, "origin": merged.origin}, indent=1)
    with suppress(OSError):
        if _read(path).decode() == text:
            return False
    fresh = f"{path}.partial"
    with open(fresh, "w", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        file.write(text)
    os.rename(fresh, path)
    return True


def read(path: str) -> Merged:
    """What `write` has put there; nothing where there is none, or what is none. Never raises."""
    try:
        found = json.loads(_read(path))
        return Merged(found["values"], found["origin"])
    except (OSError, ValueError, KeyError, TypeError):
        return Merged({}, {})


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()
