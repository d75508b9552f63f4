"""What PID 1 makes of the node's configuration at boot.

Twice: before the data disk is there, as that may be chosen by it, and then with what is stored on
the disk. A node that nobody has given a document to pays for looking whether there is one.
"""

import os
from typing import Any, Final

from initd.boot import credentials, data
from initd.boot.cmdline import CommandLine
from initd.boot.plan import Done
from initd.log import Level

_RUN: Final = "/run/aurae"
_MERGED: Final = "config.json"
_BOOT: Final = "config.boot.json"
_STORED: Final = "config.toml"
_LEVELS: Final = {"debug": Level.DEBUG, "info": Level.INFO, "warning": Level.WARNING}

# In memory, or not to be read before somebody has made them.
_NO_DISKS: Final = ("ram", "loop", "zram", "pmem", "nbd", "fd")


def early(command_line: CommandLine) -> tuple[CommandLine, Done]:
    """With all but what comes later: by URL, and from the data disk."""
    disk, problems = _look_for_disk(command_line)
    if not os.path.isdir(credentials.DOCUMENTS):
        return command_line, Done("none", problems)
    return _settle(command_line, (disk,), problems)


def _look_for_disk(
    command_line: CommandLine, folder: str = "/sys/class/block"
) -> tuple[str, tuple[str, ...]]:
    if command_line.config_disk == "off":
        return "", ()
    wanted = data.search(command_line.data)
    drivers = wanted is not None and wanted.drivers
    if not (drivers or command_line.config_disk or _disks(folder)):
        return "", ()
    from initd.boot import config_disk

    return config_disk.look(drivers=drivers, waits=bool(command_line.config_disk))


def _disks(folder: str) -> bool:
    return any(not name.startswith(_NO_DISKS) for name in os.listdir(folder))


def complete(command_line: CommandLine) -> tuple[CommandLine, Done]:
    """With all there is."""
    if not (os.path.isdir(credentials.DOCUMENTS) or os.path.exists(f"{state()}/{_STORED}")):
        return command_line, Done("none")
    return _settle(command_line, (), (), final=True)


def state(disk: str = f"{data.PLACE}/{data.STATE}", run: str = _RUN) -> str:
    """The node's own folder, which outlives a boot where there is a data disk."""
    return disk if os.path.isdir(disk) else f"{run}/state"


def _settle(
    command_line: CommandLine,
    said: tuple[str, ...],
    problems: tuple[str, ...],
    *,
    final: bool = False,
) -> tuple[CommandLine, Done]:
    from initd.configuration import channels
    from initd.configuration import identity as identities

    places = channels.Places(_RUN, state())
    found = channels.gather(places)
    merged = channels.merge(found)
    names = (channel.name for channel in found if channel.name != "cmdline")
    written = identities.place(merged.values.get("identity", {}), credentials.FOLDER)
    if final:
        channels.write(f"{_RUN}/{_MERGED}", merged)
        channels.write(f"{_RUN}/{_BOOT}", merged)
        problems = (*problems, *merged.problems)
    text = " ".join(filter(None, (*names, *said)))
    after = configured(command_line, merged.values)
    if any("disks" in problem for problem in merged.problems):
        # What was meant is not known, so the default must not be made in its place.
        after = after._replace(data=after.data._replace(makes=False))
    return after, Done(text, (*problems, *written))


def configured(command_line: CommandLine, values: dict[str, Any]) -> CommandLine:
    """The same with what the document adds, in which the command line's own has its place."""
    watchdog = values.get("watchdog", command_line.watchdog)
    sysctls = {name: str(value) for name, value in values.get("sysctls", {}).items()}
    return command_line._replace(
        hostname=values.get("hostname", command_line.hostname),
        level=_LEVELS.get(values.get("log-level", ""), command_line.level),
        watchdog=0 if watchdog == "off" else watchdog,
        sysctls={**sysctls, **command_line.sysctls},
        data=command_line.data._replace(**values.get("disks", {}).get("data", {})),
    )


def in_effect(command_line: CommandLine, path: str = f"{_RUN}/{_BOOT}") -> CommandLine:
    """As `complete`, with what held at boot."""
    if not os.path.exists(path):
        return command_line
    from initd.configuration import channels

    return configured(command_line, channels.read(path).values)
