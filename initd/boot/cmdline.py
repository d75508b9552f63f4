"""What the kernel command line asks of PID 1."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

from initd.boot import options
from initd.boot.options import DataOptions
from initd.log import Level
from initd.values import NamedTuple

# Seconds that PID 1 or the runtime may be silent.
WATCHDOG: Final = 60
_WATCHDOG_LIMITS: Final = (5, 3600)
# Seconds in which a new version must be found healthy.
HEALTH: Final = 120
_HEALTH_LIMITS: Final = (10, 3600)
_LEVELS: Final = {"debug": Level.DEBUG, "info": Level.INFO, "warning": Level.WARNING}


class CommandLine(NamedTuple):
    """Parameters that are not there have their default; mistakes are told in `problems`."""

    hostname: str = "aurae"
    level: Level = Level.INFO
    sysctls: Mapping[str, str] = MappingProxyType({})
    watchdog: int = WATCHDOG
    """Seconds; 0: no device is used."""
    health: int = HEALTH
    """Seconds that a new version has to be found healthy."""
    data: DataOptions = DataOptions()
    unclaim: bool = False
    """Whether what is stored of who the node is is moved away."""
    config_disk: str = ""
    """`wait`: a disk with the node's configuration is waited for; `off`: none is looked for."""
    screen: bool = True
    """Whether what the node is and how it is is shown on the display and serial lines."""
    emergency: bool = False
    """The emergency entry was started."""
    problems: tuple[str, ...] = ()


def parse(text: str) -> CommandLine:
    """The last one counts where a parameter stands twice."""
    found: dict[str, Any] = {}
    data: dict[str, Any] = {}
    sysctls: dict[str, str] = {}
    problems: list[str] = []
    for word in words(text):
        name, _, value = word.partition("=")
        try:
            if name in _READERS:
                field, read = _READERS[name]
                found[field] = read(value)
            elif name in _OF_DATA:
                data |= _of_data(name, value)
            elif name.startswith("aurae.sysctl."):
                sysctls[_sysctl(name.removeprefix("aurae.sysctl."))] = value
        except ValueError as error:
            problems.append(f"{word}: {error}")
            if name in _OF_DATA:
                # The default, which nobody asked for, must not be made in its place.
                data["makes"] = False
    return CommandLine(**found, data=DataOptions(**data), sysctls=sysctls, problems=tuple(problems))


def _hostname(value: str) -> str:
    if not _is_hostname(value):
        raise ValueError("a host name has 1 to 64 of a-z A-Z 0-9 - and .")
    return value


def _level(value: str) -> Level:
    if value not in _LEVELS:
        raise ValueError(f"must be one of {', '.join(_LEVELS)}")
    return _LEVELS[value]


def _watchdog(value: str) -> int:
    if value == "off":
        return 0
    low, high = _WATCHDOG_LIMITS
    if value.isascii() and value.isdigit() and low <= int(value) <= high:
        return int(value)
    raise ValueError(f"must be off, or {low} to {high} seconds")


def _health(value: str) -> int:
    low, high = _HEALTH_LIMITS
    if value.isascii() and value.isdigit() and low <= int(value) <= high:
        return int(value)
    raise ValueError(f"must be {low} to {high} seconds")


def _of_data(name: str, value: str) -> dict[str, Any]:
    field, read = _OF_DATA[name]
    return {field: read(value)}


def _screen(value: str) -> bool:
    if value not in ("on", "off"):
        raise ValueError("must be on or off")
    return value == "on"


def _flag(value: str) -> bool:
    if value:
        raise ValueError("takes no value")
    return True


def _config_disk(value: str) -> str:
    if value not in ("", "off"):
        raise ValueError("must be off, or have no value: then the disk is waited for")
    return value or "wait"


def _sysctl(key: str) -> str:
    if not key or ".." in key or "/" in key:
        raise ValueError("a sysctl's name has parts with dots between them")
    return key


# Which field of CommandLine a parameter is, and how its value is read.
_READERS: Final[Mapping[str, tuple[str, Callable[[str], Any]]]] = {
    "aurae.hostname": ("hostname", _hostname),
    "aurae.log": ("level", _level),
    "aurae.watchdog": ("watchdog", _watchdog),
    "aurae.health": ("health", _health),
    "aurae.screen": ("screen", _screen),
    "aurae.unclaim": ("unclaim", _flag),
    "aurae.emergency": ("emergency", _flag),
    "aurae.config-disk": ("config_disk", _config_disk),
}

_OF_DATA: Final[Mapping[str, tuple[str, Callable[[str], Any]]]] = {
    "aurae.data": ("device", options.device),
    "aurae.data.filesystem": ("filesystem", options.filesystem),
    "aurae.data.encryption": ("encryption", options.encryption),
    "aurae.data.tpm2-pcrs": ("tpm2_pcrs", options.tpm2_pcrs),
}


def words(text: str) -> list[str]:
    """As the kernel splits: at blanks outside of double quotes, which vanish."""
    found: list[str] = []
    word, quoted = "", False
    for character in text.strip():
        if character == '"':
            quoted = not quoted
        elif character.isspace() and not quoted:
            found.append(word)
            word = ""
        else:
            word += character
    return [word for word in [*found, word] if word]


def _is_hostname(name: str) -> bool:
    labels = name.split(".")
    return len(name) <= 64 and all(
        label
        and label.isascii()
        and label.replace("-", "").isalnum()
        and not label.startswith("-")
        and not label.endswith("-")
        for label in labels
    )
