"""What the kernel command line asks of PID 1."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from initd.log import Level
from initd.values import NamedTuple

# Seconds that PID 1 or the runtime may be silent.
WATCHDOG: Final = 60
_WATCHDOG_LIMITS: Final = (5, 3600)
_LEVELS: Final = {"debug": Level.DEBUG, "info": Level.INFO, "warning": Level.WARNING}


class CommandLine(NamedTuple):
    """Parameters that are not there have their default; mistakes are told in `problems`."""

    hostname: str = "aurae"
    level: Level = Level.INFO
    sysctls: Mapping[str, str] = MappingProxyType({})
    watchdog: int = WATCHDOG
    """Seconds; 0: no device is used."""
    problems: tuple[str, ...] = ()


def parse(text: str) -> CommandLine:
    """The last one counts where a parameter stands twice."""
    hostname, level, watchdog = "aurae", Level.INFO, WATCHDOG
    sysctls: dict[str, str] = {}
    problems: list[str] = []
    for word in words(text):
        name, _, value = word.partition("=")
        if name == "aurae.hostname":
            if _is_hostname(value):
                hostname = value
            else:
                problems.append(f"{word}: a host name has 1 to 64 of a-z A-Z 0-9 - and .")
        elif name == "aurae.log":
            if value in _LEVELS:
                level = _LEVELS[value]
            else:
                problems.append(f"{word}: must be one of {', '.join(_LEVELS)}")
        elif name == "aurae.watchdog":
            seconds = _watchdog(value)
            if seconds is None:
                low, high = _WATCHDOG_LIMITS
                problems.append(f"{word}: must be off, or {low} to {high} seconds")
            else:
                watchdog = seconds
        elif name.startswith("aurae.sysctl."):
            key = name.removeprefix("aurae.sysctl.")
            if key and ".." not in key and "/" not in key:
                sysctls[key] = value
            else:
                problems.append(f"{word}: a sysctl's name has parts with dots between them")
    return CommandLine(
        hostname=hostname,
        level=level,
        sysctls=sysctls,
        watchdog=watchdog,
        problems=tuple(problems),
    )


def _watchdog(value: str) -> int | None:
    if value == "off":
        return 0
    low, high = _WATCHDOG_LIMITS
    if value.isascii() and value.isdigit() and low <= int(value) <= high:
        return int(value)
    return None


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
