"""The cgroup tree: auraed beside what it runs."""

import os
from pathlib import Path
from typing import Final

ROOT: Final = Path("/sys/fs/cgroup")
OURS: Final = "auraed"
CELLS: Final = "aurae"
CONTROLLERS: Final = ("cpu", "cpuset", "memory", "pids", "io")


def make_tree(root: Path = ROOT) -> list[str]:
    """Make both trees and move PID 1 into its place; returns the controllers that are missing."""
    (root / OURS / "initd").mkdir(parents=True, exist_ok=True)
    (root / CELLS).mkdir(exist_ok=True)
    # A cgroup with processes cannot hand controllers down; the root alone can.
    (root / OURS / "initd/cgroup.procs").write_text(str(os.getpid()))
    available = (root / "cgroup.controllers").read_text().split()
    wanted = [name for name in CONTROLLERS if name in available]
    for folder in (root, root / OURS, root / CELLS):
        (folder / "cgroup.subtree_control").write_text(" ".join(f"+{name}" for name in wanted))
    return [f"{name}: not in this kernel" for name in CONTROLLERS if name not in available]
