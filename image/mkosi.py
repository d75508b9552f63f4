"""mkosi and the tools that it installs: fetched by apt, run without touching the host's system."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from image import apt, debian
from image.errors import BuildError as BuildError

# In Debian trixie; what image/ relies on was tried with it.
VERSION: Final = "25.3"

# Times in what we build. A constant, so that two builds of one commit are the same bytes.
EPOCH: Final = 1735689600


def fetch(target: Path, preferences: str = "") -> None:
    """Unpack Debian's mkosi into `target`, verified by apt, in a private apt root."""
    with apt.private(preferences) as own:
        own.get("download", "mkosi")
        [package] = own.root.glob("mkosi_*.deb")
        if not package.name.startswith(f"mkosi_{VERSION}-"):
            raise BuildError(
                f"{package.name}: mkosi {VERSION} was expected; set VERSION in {__file__}"
            )
        with replaced(target) as unpacked:
            subprocess.run(["dpkg-deb", "--extract", package, unpacked], check=True)


class replaced:  # noqa: N801 (reads as a verb in `with`)
    """A new folder that takes the place of `target` when the block ends well."""

    def __init__(self, target: Path) -> None:
        self._target = target
        self._new = target.with_name(target.name + ".new")

    def __enter__(self) -> Path:
        self._target.parent.mkdir(parents=True, exist_ok=True)
        remove(self._new)
        self._new.mkdir()
        return self._new

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            remove(self._target)
            self._new.rename(self._target)


def remove(path: Path) -> None:
    """Remove a folder, and what mkosi made in it as another user of its namespace."""
    if not path.exists():
        return
    shutil.rmtree(path, ignore_errors=True)
    if path.exists():
        subprocess.run(["unshare", "--map-auto", "--map-root-user", "rm", "-rf", path], check=True)


def build(
    mkosi: Path,
    directory: Path,
    output: Path,
    log: Path,
    *,
    cache: Path,
    tools: Path | None,
    preferences: str = "",
    profiles: Sequence[str] = (),
) -> None:
    """Run mkosi on the configuration in `directory`; the tree becomes `output`.

    `preferences` is what apt_preferences(5) says.
    """
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="mkosi-", dir=cache) as name:
        work = Path(name)
        settings = work / "sandbox/etc/apt"
        for part in ("sources.list.d", "apt.conf.d", "preferences.d"):
            (settings / part).mkdir(parents=True)
        # mkosi's own list names archives that a mirror need not have.
        (settings / "sources.list.d/mkosi.sources").write_text(debian.find_mirror().sources())
        (settings / "apt.conf.d/50-host").write_text(debian.find_acquire_settings())
        (settings / "preferences.d/lock").write_text(preferences)
        options: dict[str, Path | str] = {
            "directory": directory,
            "sandbox-tree": work / "sandbox",
            "workspace-directory": work,
            "package-cache-dir": cache / "packages",
            "output-directory": work / "out",
            "source-date-epoch": str(EPOCH),
        }
        if tools:
            options["tools-tree"] = tools
        if profiles:
            options["profile"] = ",".join(profiles)
        for folder in (cache / "packages", work / "out"):
            folder.mkdir(exist_ok=True)
        command = [f"--{name}={value}" for name, value in options.items()]
        _logged([*_privilege(), *_python(mkosi), "-m", "mkosi", *command, "build"], log)
        [tree] = [
            path for path in (work / "out").iterdir() if path.is_dir() and not path.is_symlink()
        ]
        remove(output)
        tree.rename(output)


@dataclass(frozen=True, slots=True)
class Workshop:
    """Where the image is made: the trees of mkosi and of its tools, and the folder for the work."""

    mkosi: Path
    tools: Path
    folder: Path
    environment: Mapping[str, str] | None = None
    """Further variables for the tools."""

    def tool(
        self,
        command: Sequence[str | Path],
        *,
        readable: Iterable[Path] = (),
        mounted: Mapping[str, Path] | None = None,
    ) -> str:
        """Run a program of the tools tree, and return what it prints. Of the host it sees the build
        folder and `readable`; and `mounted`, folders by where they are mounted."""
        options: list[str | Path] = ["--ro-bind", self.tools / "usr", "/usr"]
        options += ["--dev", "/dev", "--proc", "/proc", "--tmpfs", "/tmp", "--become-root"]
        options += ["--tmpfs", "/var/tmp"]
        for link in ("bin", "sbin", "lib", "lib64"):
            options += ["--symlink", f"usr/{link}", f"/{link}"]
        for path in readable:
            options += ["--ro-bind", path, path]
        options += ["--bind", self.folder.parent, self.folder.parent]
        for place, path in (mounted or {}).items():
            options += ["--bind", path, place]
        environment = {"SOURCE_DATE_EPOCH": str(EPOCH), "PATH": "/usr/bin:/usr/sbin", "TZ": "UTC"}
        environment |= self.environment or {}
        for name, value in environment.items():
            options += ["--setenv", name, value]
        sandbox = [*_python(self.mkosi), "-m", "mkosi.sandbox", *options, "--"]
        result = subprocess.run([*sandbox, *command], capture_output=True, text=True)
        if result.returncode:
            raise BuildError(f"{command[0]}: {(result.stderr or result.stdout).strip()[-1000:]}")
        return result.stdout


def _python(mkosi: Path) -> list[str | Path]:
    return ["env", f"PYTHONPATH={mkosi / 'usr/lib/python3/dist-packages'}", sys.executable]


def _privilege() -> list[str]:
    """What a command needs in front of it to make a tree with more than one owner."""
    probe = [
        "unshare",
        "--map-auto",
        "--map-root-user",
        "--mount",
        "mount",
        "-t",
        "tmpfs",
        "t",
        "/mnt",
    ]
    if os.geteuid() == 0 or subprocess.run(probe, capture_output=True).returncode == 0:
        return []
    return ["sudo", "--preserve-env=MIRROR,MIRROR_SECURITY"]


def _logged(command: list[str | Path], log: Path) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as output:
        failed = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT).returncode
    if failed:
        tail = "\n".join(log.read_text().splitlines()[-15:])
        raise BuildError(f"{log}: mkosi failed; its last lines:\n{tail}")
