"""Kinds of image: a folder of `mkosi.profiles/` each. See docs/decisions/0108-profiles.md."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final


@dataclass(frozen=True, slots=True)
class Profile:
    """What of an image is not the same in all of them."""

    name: str
    folders: tuple[str, ...]
    """The profiles of mkosi that the Debian tree is made with."""
    shell: bool = False
    """Whoever sits at the console is root."""
    lean: bool = False
    """Data disks are made with ext4 only."""


DEFAULT: Final = Profile("default", ("default",))
PROFILES: Final = {
    profile.name: profile
    for profile in (
        DEFAULT,
        Profile("cloud", ("cloud",), lean=True),
        Profile("debug", ("default", "debug"), shell=True),
    )
}


def configurations(project: Path, profile: Profile) -> tuple[Path, ...]:
    """The files of mkosi that name the profile's packages."""
    folder = project / "mkosi.profiles"
    return (project / "mkosi.conf", *(folder / name / "mkosi.conf" for name in profile.folders))
