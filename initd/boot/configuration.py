"""What PID 1 makes of the node's configuration at boot.

Twice: before the data disk is there, as that may be chosen by it, and then with what is stored on
the disk. A node that nobody has given a document to pays for looking whether there is one.
"""

import os
from typing import TYPE_CHECKING, Any, Final

from initd.boot import credentials, data
from initd.boot.cmdline import CommandLine
from initd.boot.options import DataOptions
from initd.boot.plan import Done
from initd.log import Level

if TYPE_CHECKING:
    from initd.configuration.channels import Channel, Merged

_BLOCK: Final = "/sys/class/block"
_RUN: Final = "/run/aurae"
_MERGED: Final = "config.json"
_BOOT: Final = "config.boot.json"
_STORED: Final = "config.toml"
_LEVELS: Final = {"debug": Level.DEBUG, "info": Level.INFO, "warning": Level.WARNING}

# In memory, or not to be read before somebody has made them.
_NO_DISKS: Final = ("ram", "loop", "zram", "pmem", "nbd", "fd")


class Configuring:
    """`begin`, then `complete`; `command_line` is what the next step goes by."""

    def __init__(self, command_line: CommandLine) -> None:
        self.command_line = command_line
        self._searched = False

    def begin(self) -> Done:
        """With all but what comes later: by URL, from the data disk, and from a disk whose driver
        that loads."""
        disk, problems = self._look_for_disk()
        if not os.path.isdir(credentials.DOCUMENTS):
            return Done("none", problems)
        return self._settle((disk,), problems)

    def complete(self, data_disk: str = "") -> Done:
        """With all there is."""
        disk, problems = self._look_for_disk(data_disk)
        if not (os.path.isdir(credentials.DOCUMENTS) or os.path.exists(f"{state()}/{_STORED}")):
            return Done("none", problems)
        return self._settle((disk,), problems, final=True)

    def _look_for_disk(self, data_disk: str = "") -> tuple[str, tuple[str, ...]]:
        wanted = self.command_line.config_disk
        if self._searched or wanted == "off" or not (wanted or _disks(_BLOCK)):
            return "", ()
        self._searched = True
        from initd.boot import config_disk

        return config_disk.look(waits=bool(wanted), but=data_disk.partition(" ")[0].rstrip(","))

    def _settle(
        self, said: tuple[str, ...], problems: tuple[str, ...], *, final: bool = False
    ) -> Done:
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
            if said[0]:
                problems = (*problems, *_too_late(merged))
        self.command_line = configured(self.command_line, merged.values)
        if any(_may_be_about_disks(channel) for channel in found):
            # The default, which nobody may have asked for, must not be made in its place.
            data_options = self.command_line.data._replace(makes=False)
            self.command_line = self.command_line._replace(data=data_options)
        text = " ".join(filter(None, (*names, *said)))
        return Done(text, (*problems, *written))


def _too_late(merged: "Merged") -> tuple[str, ...]:
    """For a disk that was found after the data disk."""
    late = [path for path, of in merged.origin.items() if of == "disk" and _of_disks(path)]
    return tuple(
        f"{path}: comes after the data disk, so it does not count; add aurae.config-disk to the "
        "kernel command line"
        for path in late
    )


def _of_disks(path: str) -> bool:
    return path.startswith("disks")


def _may_be_about_disks(channel: "Channel") -> bool:
    return any(one.path == "" or one.path.startswith("disk") for one in channel.problems)


def _disks(folder: str) -> bool:
    return any(not name.startswith(_NO_DISKS) for name in os.listdir(folder))


def state(disk: str = f"{data.PLACE}/{data.STATE}", run: str = _RUN) -> str:
    """The node's own folder, which outlives a boot where there is a data disk."""
    return disk if os.path.isdir(disk) else f"{run}/state"


def configured(command_line: CommandLine, values: dict[str, Any]) -> CommandLine:
    """The same with what the document adds, in which the command line's own has its place."""
    watchdog = values.get("watchdog", command_line.watchdog)
    sysctls = {name: str(value) for name, value in values.get("sysctls", {}).items()}
    return command_line._replace(
        hostname=values.get("hostname", command_line.hostname),
        level=_LEVELS.get(values.get("log-level", ""), command_line.level),
        watchdog=0 if watchdog == "off" else watchdog,
        sysctls={**sysctls, **command_line.sysctls},
        data=_data_options(command_line.data, values.get("disks", {}).get("data", {})),
    )


def _data_options(given: DataOptions, values: dict[str, Any]) -> DataOptions:
    found = {name.replace("-", "_"): value for name, value in values.items()}
    if "tpm2_pcrs" in found:
        found["tpm2_pcrs"] = tuple(sorted(set(found["tpm2_pcrs"])))
    return given._replace(**found)


def in_effect(command_line: CommandLine, path: str = f"{_RUN}/{_BOOT}") -> CommandLine:
    """The same with what held at boot."""
    if not os.path.exists(path):
        return command_line
    from initd.configuration import channels

    return configured(command_line, channels.read(path).values)
