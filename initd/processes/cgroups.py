"""The leaf cgroups that processes live in."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import ClassVar


class Cgroups:
    """Paths are below `root`, a folder of the cgroup2 file system that is mounted on MOUNT."""

    MOUNT: ClassVar = Path("/sys/fs/cgroup")

    def __init__(self, root: Path) -> None:
        self.root = root
        above = root.relative_to(self.MOUNT) if root.is_relative_to(self.MOUNT) else Path()
        self._above = "" if above == Path() else f"{above}/"

    def make(self, path: str) -> None:
        """FileExistsError; FileNotFoundError: its parent does not exist."""
        (self.root / path).mkdir()

    def open(self, path: str) -> int:
        """A descriptor of the folder, to spawn into; ours to close."""
        return os.open(self.root / path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def enter(self, path: str, pid: int) -> None:
        """Move a process, with all of its threads, into it."""
        (self.root / path / "cgroup.procs").write_text(str(pid))

    def open_procs(self, path: str) -> int:
        """A descriptor to write pids to, also by who cannot see this cgroup; ours to close."""
        return os.open(self.root / path / "cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)

    def populated(self, path: str) -> bool:
        """Whether anything lives in it or below."""
        try:
            events = (self.root / path / "cgroup.events").read_text()
        except FileNotFoundError:
            return False
        return "populated 1" in events

    def kill(self, path: str) -> None:
        """SIGKILL to all in it and below, those being born included."""
        with suppress(FileNotFoundError):
            (self.root / path / "cgroup.kill").write_text("1")

    def signal(self, path: str, number: int) -> None:
        """To every process in it and below that can be seen now."""
        for pid in self.processes(path):
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def of(self, pid: int) -> str:
        """The cgroup that a process lives in; "" for one outside of ours. OSError: it is gone."""
        path = Path(f"/proc/{pid}/cgroup").read_text().strip().rpartition("0::/")[2]
        return path.removeprefix(self._above) if path.startswith(self._above) else ""

    def processes(self, path: str) -> Iterator[int]:
        for folder, _, _ in os.walk(self.root / path):
            with suppress(OSError):
                # Zero: a process that our namespace does not show.
                yield from filter(None, map(int, Path(folder, "cgroup.procs").read_text().split()))

    def remove(self, path: str) -> None:
        """With all below. OSError(EBUSY): something lives in it."""
        for folder, _, _ in os.walk(self.root / path, topdown=False):
            with suppress(FileNotFoundError):
                Path(folder).rmdir()
