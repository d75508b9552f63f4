"""`make lock`, Debian's part: which version of each package, and which bytes.

`requirements/debian.txt` has a line `NAME=VERSION sha256:DIGEST` for each package of the trees that
the image is made with and of, in all profiles. A mirror forgets old versions, so what a build finds
may differ: then it takes what there is and says so (`LOCKED=1`: it ends). See
docs/decisions/0106-provenance.md.
"""

import configparser
import hashlib
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import unquote

from image import profile
from image.apt import Apt, private
from image.debian import NoMirrorError
from image.errors import BuildError

FILE: Final = Path("requirements/debian.txt")
ARCHITECTURES: Final = ("amd64", "all")

# What mkosi itself asks for first.
_FIRST: Final = ("?essential", "base-files")
# Above 1000: also where a later version is there.
_PRIORITY: Final = 1001


@dataclass(frozen=True, slots=True)
class Package:
    """A Debian package in one version."""

    name: str
    version: str
    sha256: str

    def line(self) -> str:
        return f"{self.name}={self.version} sha256:{self.sha256}"


def read(project: Path) -> dict[str, Package]:
    """The lock by name; empty where there is none. Raises `BuildError`."""
    path = project / FILE
    if not path.exists():
        return {}
    return parse(path.read_text(), path)


def parse(text: str, path: Path = FILE) -> dict[str, Package]:
    packages = {}
    for number, line in enumerate(text.splitlines(), 1):
        what, _, digest = line.partition(" sha256:")
        name, _, version = what.partition("=")
        if not (name and version and len(digest) == 64):
            raise BuildError(f"{path}: line {number} is not NAME=VERSION sha256:…; make lock")
        packages[name] = Package(name, version, digest)
    return packages


def preferences(lock: Mapping[str, Package]) -> str:
    """What makes apt take these versions where it finds them (apt_preferences(5))."""
    return "\n".join(
        f"Package: {package.name}\nPin: version {package.version}\nPin-Priority: {_PRIORITY}\n"
        for package in lock.values()
    )


def installed(tree: Path) -> dict[str, str]:
    """The version of each package that a tree has."""
    return {name: fields["Version"] for name, fields in status(tree).items()}


def status(tree: Path) -> dict[str, dict[str, str]]:
    """What dpkg knows of each package of a tree: its fields, of those of one line."""
    packages = {}
    for paragraph in (tree / "var/lib/dpkg/status").read_text().split("\n\n"):
        lines = (line.partition(":") for line in paragraph.splitlines() if line[:1].strip())
        fields = {name: value.strip() for name, _, value in lines}
        if fields.get("Status", "").endswith(" installed"):
            packages[fields["Package"]] = fields
    return packages


def differences(lock: Mapping[str, Package], found: Mapping[str, str]) -> list[str]:
    """What of a tree is not as it is locked: `NAME VERSION (locked: …)`."""
    return [
        f"{name} {version} (locked: {lock[name].version if name in lock else 'not'})"
        for name, version in sorted(found.items())
        if name not in lock or lock[name].version != version
    ]


def check_files(lock: Mapping[str, Package], files: Iterable[Path]) -> None:
    """Raise `BuildError` for a package file that has a locked version and other bytes."""
    for path in files:
        name, version = _named(path.name)
        package = lock.get(name)
        if package is None or package.version != version:
            continue
        with path.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
        if digest != package.sha256:
            raise BuildError(
                f"{path}: is not what {FILE} has under this version; remove it, and see where"
                " it came from"
            )


def wanted(configuration: Path) -> list[str]:
    """The packages that a configuration of mkosi asks for."""
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.read_string(configuration.read_text())
    return parser.get("Content", "Packages", fallback="").split()


def resolve(apt: Apt, packages: Iterable[str]) -> list[Package]:
    """These and all they need, each in the version that apt would install."""
    lines = apt.addresses("install", *_FIRST, *packages)
    return [_printed(line) for line in lines]


def renew(project: Path) -> None:
    """Write the lock anew, by what the mirror has today."""
    sets = [wanted(project / "image/tools/mkosi.conf")]
    for kind in profile.PROFILES.values():
        files = profile.configurations(project, kind)
        sets.append([package for file in files for package in wanted(file)])
    before = read(project)
    with private() as apt:
        found = [package for names in sets for package in resolve(apt, names)]
        found += [_printed(line) for line in apt.addresses("download", "mkosi")]
    now = {package.name: package for package in sorted(found, key=lambda found: found.name)}
    (project / FILE).write_text("".join(f"{package.line()}\n" for package in now.values()))
    changed = [package.line() for package in now.values() if before.get(package.name) != package]
    print(f"{FILE}: {len(now)} packages, {len(changed)} of them new or in another version")


def _printed(line: str) -> Package:
    _, file, _, digest = line.split()
    kind, _, value = digest.partition(":")
    if kind != "SHA256":
        raise BuildError(f"{file}: apt knows it by {kind} and not by SHA256; use a later apt")
    name, version = _named(file)
    return Package(name, version, value)


def _named(file: str) -> tuple[str, str]:
    """Name and version of `NAME_VERSION_ARCHITECTURE.deb`, where a colon is %3a."""
    name, _, rest = file.removesuffix(".deb").partition("_")
    return name, unquote(rest.rpartition("_")[0])


def main() -> None:
    try:
        renew(Path(__file__).resolve().parent.parent)
    except (BuildError, NoMirrorError, OSError) as e:
        sys.exit(f"make lock: {e}")


if __name__ == "__main__":
    main()
