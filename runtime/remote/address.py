"""The URL of the node's configuration: what stands in it for this very node."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, quote, urlsplit, urlunsplit

# Network cards in the order in which the network service prefers them: see initd/network.
_SYS: Final = Path("/sys")

NAMES: Final = ("mac", "uuid", "serial", "hostname")
_VARIABLE: Final = re.compile(r"\$\{([^}]*)\}")
# As pxelinux has it and iPXE can say it: the kind of hardware, 1 for Ethernet, and the address.
_BOOTIF: Final = re.compile(r"01((?:-[0-9a-f]{2}){6})", re.IGNORECASE)


def check(url: str) -> None:
    """Raises ValueError with the rule that `url` breaks."""
    parts = _split(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("must be http://HOST/… or https://HOST/…")
    if parts.username is not None:
        raise ValueError("a user's name in it is not supported")
    for name in _VARIABLE.findall(url):
        if name not in NAMES:
            known = ", ".join(f"${{{one}}}" for one in NAMES)
            raise ValueError(f"${{{name}}} is unknown; there are {known}")


def signature(url: str) -> str:
    """Where the signature of what is at `url` is: `.sig` at the end of the path."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(path=f"{parts.path}.sig", fragment=""))


def expand(url: str, node: Mapping[str, str]) -> str:
    """Raises ValueError where this node does not have what stands in it."""

    def value(found: re.Match[str]) -> str:
        if not (text := node.get(found[1], "")):
            raise ValueError(f"{found[0]}: this node has none")
        return quote(text, safe=":")

    return _VARIABLE.sub(value, url)


def candidates(url: str, boot_card: str = "", sys: Path = _SYS) -> list[str]:
    """The URL with all that stands in it; one for each card with a cable where it has `${mac}`.

    `boot_card` is the MAC address of the card that the machine was booted by, if that is known.
    Raises ValueError where there is none.
    """
    node = {
        "uuid": _read(sys / "class/dmi/id/product_uuid").lower(),
        "serial": _read(sys / "class/dmi/id/product_serial"),
        "hostname": os.uname().nodename,
    }
    if "${mac}" not in url:
        return [expand(url, node)]
    macs = [boot_card] if boot_card else cards(sys)
    if not macs:
        raise ValueError("${mac}: no network card has a cable")
    return [expand(url, {**node, "mac": mac}) for mac in macs]


def booted_by(parameter: str) -> str:
    """The MAC address in the kernel parameter `BOOTIF=`; empty where it has none."""
    found = _BOOTIF.fullmatch(parameter)
    return found[1][1:].replace("-", ":").lower() if found else ""


def cards(sys: Path = _SYS) -> list[str]:
    """MAC addresses of the cards that have a cable, the first to appear in front."""
    found = [
        (int(_read(card / "ifindex") or 0), _read(card / "address"))
        for card in (sys / "class/net").glob("*")
        # What workloads make has no device.
        if (card / "device").exists() and _read(card / "carrier") == "1"
    ]
    return list(dict.fromkeys(mac for _, mac in sorted(found) if mac))


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        # A card that is down has no carrier to be read; and not every machine has a serial number.
        return ""


def _split(url: str) -> SplitResult:
    # What stands for something is no part of the rules of a URL.
    return urlsplit(_VARIABLE.sub("x", url))
