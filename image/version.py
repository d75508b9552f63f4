"""The version of what is built: that of the last release, and which commit of after it.

`initd/version.py` says the last release. A commit that is tagged with it (`v0.2.0`) has that
version; any other one has its time and its name after it: `0.2.0-20260131.235959.g0123456789ab`.
So every version can stand in os-release, in names of files and of boot entries, and is later than
the ones before it in the order of the UAPI version format, by which systemd-boot chooses. A clone
without history says the same as one with it: nothing but the commit counts.
"""

import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from image.errors import BuildError

# What os-release(5) allows in VERSION_ID, so that no name of a file needs quoting; no `+`, which
# begins a counter of boots in the name of a boot entry.
_VALID: Final = re.compile(r"[0-9][0-9a-z.-]{0,63}")
_RELEASE: Final = re.compile(r'^VERSION: Final = "(.*)"$', re.MULTILINE)
_COMMIT_DIGITS: Final = 12


@dataclass(frozen=True, slots=True)
class Commit:
    """What a working tree is made from."""

    name: str
    """All of its hexadecimal digits."""
    time: int
    """Seconds since the epoch, the committer's."""
    tags: tuple[str, ...] = ()
    changed: bool = False
    """A file of it is not as it was committed."""


def find(project: Path, environment: Mapping[str, str] | None = None) -> str:
    """The version of the working tree; `VERSION` in the environment goes before it.

    Raises `BuildError` for one that names of files could not have.
    """
    environment = os.environ if environment is None else environment
    if given := environment.get("VERSION"):
        return checked(given)
    release = released(project)
    commit = commit_of(project)
    return checked(version_of(release, commit) if commit else release)


def checked(version: str) -> str:
    if not _VALID.fullmatch(version) or ".." in version:
        raise BuildError(
            f"version {version}: cannot stand in a file's name; write digits, small letters,"
            " `.` and `-`, a digit first, 64 at most"
        )
    return version


def released(project: Path) -> str:
    """The version that `initd/version.py` says."""
    if said := _RELEASE.search(_file(project / "initd").read_text()):
        return said[1]
    raise BuildError(f"{_file(project / 'initd')}: says no version; write VERSION: Final = …")


def version_of(release: str, commit: Commit) -> str:
    """The version of a commit, after the last release. Raises `BuildError` for a tag that says
    another one."""
    wrong = [tag for tag in commit.tags if re.match(r"v\d", tag) and tag != f"v{release}"]
    if wrong:
        raise BuildError(
            f"tag {wrong[0]}: initd/version.py says {release}; raise it in the commit that you tag"
        )
    if commit.tags and not commit.changed:
        return release
    when = datetime.fromtimestamp(commit.time, UTC).strftime("%Y%m%d.%H%M%S")
    changed = ".changed" if commit.changed else ""
    return f"{release}-{when}.g{commit.name[:_COMMIT_DIGITS]}{changed}"


def commit_of(project: Path) -> Commit | None:
    """The commit of the working tree; None where git does not know it, as in an archive."""
    top = _git(project, "rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() != project.resolve():
        return None
    head = _git(project, "show", "--no-patch", "--format=%H %ct", "HEAD")
    if head is None:
        return None
    name, _, time = head.partition(" ")
    tags = _git(project, "tag", "--points-at", "HEAD", "v[0-9]*") or ""
    changed = _git(project, "status", "--porcelain", "--untracked-files=no")
    return Commit(name, int(time), tuple(tags.split()), changed=bool(changed))


def write(package: Path, version: str) -> None:
    """Have the installed package `initd` say this version."""
    text = _file(package).read_text()
    _file(package).write_text(_RELEASE.sub(f'VERSION: Final = "{version}"', text))


def _file(package: Path) -> Path:
    return package / "version.py"


def _git(project: Path, *arguments: str) -> str | None:
    """What git says; None where it is missing or fails."""
    try:
        done = subprocess.run(
            ["git", "-C", project, *arguments], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None
