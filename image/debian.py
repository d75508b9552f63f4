"""Where Debian's packages come from: the mirror this host's apt uses, and how it reaches it.

No host name is written here. apt verifies every package against Debian's own keyring.
"""

import os
import re
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

SUITE: Final = "trixie"
# Firmware is not free software; nothing else of the second is taken.
COMPONENTS: Final = "main non-free-firmware"
KEYRING: Final = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
DEBOOTSTRAP: Final = Path("/usr/sbin/debootstrap")

# One line an index that apt knows: address, origin, label.
_INDEX_FORMAT: Final = "$(REPO_URI)|$(ORIGIN)|$(LABEL)"


class NoMirrorError(Exception):
    """This host gives no hint where Debian's packages are."""


@dataclass(frozen=True, slots=True)
class Mirror:
    """Addresses of Debian's archive and of its security archive, without a slash at the end."""

    archive: str
    security: str | None

    def sources(self) -> str:
        """The deb822 sources of our release."""
        entries = [(self.archive, f"{SUITE} {SUITE}-updates")]
        if self.security:
            entries.append((self.security, f"{SUITE}-security"))
        return "\n".join(
            f"Types: deb\nURIs: {uri}\nSuites: {suites}\nComponents: {COMPONENTS}\n"
            f"Signed-By: {KEYRING}\n"
            for uri, suites in entries
        )


def mirror_of(environment: Mapping[str, str], indexes: Iterable[str], debootstrap: str) -> Mirror:
    """Choose: `MIRROR` (and `MIRROR_SECURITY`), else the host's apt, else debootstrap's default.

    `indexes` are lines of `apt-get indextargets` in our format, `debootstrap` is the text of that
    program. Raises `NoMirrorError`.
    """
    if given := environment.get("MIRROR"):
        security = environment.get("MIRROR_SECURITY")
        return Mirror(given.rstrip("/"), security.rstrip("/") if security else None)
    found: dict[str, str] = {}
    for line in indexes:
        uri, _, origin_and_label = line.strip().partition("|")
        found.setdefault(origin_and_label, uri.rstrip("/"))
    if archive := found.get("Debian|Debian"):
        return Mirror(archive, found.get("Debian|Debian-Security"))
    if default := re.search(r'^DEF_MIRROR="?([^"\s]+)', debootstrap, re.MULTILINE):
        # Debian's own host serves both archives side by side.
        return Mirror(default[1].rstrip("/"), default[1].rstrip("/") + "-security")
    raise NoMirrorError("Debian's mirror: unknown to this host; give it as MIRROR=ADDRESS")


def find_mirror() -> Mirror:
    """The mirror to use here and now. Raises `NoMirrorError`."""
    indexes = _output("apt-get", "indextargets", "--format", _INDEX_FORMAT, "Created-By: Packages")
    debootstrap = DEBOOTSTRAP.read_text() if DEBOOTSTRAP.exists() else ""
    return mirror_of(os.environ, indexes.splitlines(), debootstrap)


def acquire_settings(dump: Iterable[str], environment: Mapping[str, str]) -> str:
    """How this host's apt reaches a mirror (proxies, dates, retries), as apt configuration.

    `dump` is what `apt-config dump` prints. What the host cleans up after a run stays behind.
    """
    wanted = re.compile(r"Acquire::(https?::|Check-|Retries|Max-|ForceIPv)")
    lines = [line for line in dump if wanted.match(line) and not line.endswith('"";')]
    lines += [
        f'Acquire::{scheme}::Proxy "{environment[f"{scheme}_proxy"]}";'
        for scheme in ("http", "https")
        if environment.get(f"{scheme}_proxy")
    ]
    return "".join(f"{line}\n" for line in [*lines, 'Acquire::Languages "none";'])


def find_acquire_settings() -> str:
    return acquire_settings(_output("apt-config", "dump").splitlines(), os.environ)


def _output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
