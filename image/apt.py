"""apt in a root of its own: the mirror of this host, and nothing else of it."""

import os
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from image import debian
from image.errors import BuildError


@dataclass(frozen=True, slots=True)
class Apt:
    """apt with the lists of the mirror, and nothing installed."""

    root: Path

    def get(self, *arguments: str) -> str:
        """Run `apt-get` in the root's folder. Raises `BuildError`."""
        environment = {**os.environ, "APT_CONFIG": str(self.root / "apt.conf"), "LC_ALL": "C"}
        done = subprocess.run(
            ["apt-get", "-qq", *arguments],
            cwd=self.root,
            env=environment,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise BuildError(f"apt-get {arguments[0]}: {done.stderr.strip()}")
        return done.stdout

    def addresses(self, *arguments: str) -> list[str]:
        """What `--print-uris` says: `'ADDRESS' FILE SIZE SHA256:DIGEST` a line."""
        options = ("--print-uris", "--option", "Acquire::ForceHash=SHA256")
        return [line for line in self.get(*arguments, *options).splitlines() if line]


@contextmanager
def private(preferences: str = "") -> Iterator[Apt]:
    """apt that verifies by Debian's keyring. `preferences` is what apt_preferences(5) says."""
    with tempfile.TemporaryDirectory(prefix="aurae-apt-") as name:
        root = Path(name)
        for folder in ("etc/preferences.d", "state/lists/partial", "cache/archives/partial"):
            (root / folder).mkdir(parents=True)
        (root / "etc/mkosi.sources").write_text(debian.find_mirror().sources())
        (root / "etc/preferences.d/lock").write_text(preferences)
        (root / "status").touch()
        (root / "apt.conf").write_text("".join(f"{line}\n" for line in _settings(root)))
        apt = Apt(root)
        apt.get("update")
        yield apt


def _settings(root: Path) -> Sequence[str]:
    return (
        f'Dir::Etc "{root}/etc";',
        # Away: hooks that the host runs after an update are not ours to run.
        f'Dir::Etc::parts "{root}/none";',
        f'Dir::Etc::sourcelist "{root}/none";',
        f'Dir::Etc::sourceparts "{root}/etc";',
        f'Dir::Etc::preferencesparts "{root}/etc/preferences.d";',
        f'Dir::State "{root}/state";',
        f'Dir::State::status "{root}/status";',
        f'Dir::Cache "{root}/cache";',
        'APT::Architecture "amd64";',
        'APT::Install-Recommends "false";',
        'APT::Sandbox::User "root";',
        debian.find_acquire_settings(),
    )
