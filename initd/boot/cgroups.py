"""The cgroup tree: auraed beside what it runs."""

import os
from typing import Final

# A parent's memory.min covers its children; a delegated subtree cannot leave itself; moving a
# process into its leaf does not wait for all processors (cgroup-v2.rst, "favordynmods").
OPTIONS: Final = "nsdelegate,memory_recursiveprot,favordynmods"

ROOT: Final = "/sys/fs/cgroup"
OURS: Final = "auraed"
CELLS: Final = "aurae"
CONTROLLERS: Final = ("cpu", "cpuset", "memory", "pids", "io")

# Shares of the processor, of 100 that others have: a busy cell must not hold up the API. Drivers
# are not below that: starved, they would hold locks that everybody else waits for.
WEIGHTS: Final = {"initd": 500, "runtime": 500, "network": 200, "hardware": 100}
# Of both trees: in the one are a few processes, in the other may be a fork bomb.
_OURS_WEIGHT: Final = 500

# The kernel patches its scheduler, on all processors at once, when the first limit of CPU time
# comes and when the last one goes. This one holds nothing up, is there first, and never goes.
_NO_LIMIT: Final = "1000000000000 1000000"
_LIMITED: Final = "hardware"


def make_tree(root: str = ROOT) -> list[str]:
    """Make both trees and move PID 1 into its place; returns the controllers that are missing."""
    for name in (f"{OURS}/initd", CELLS):
        os.makedirs(f"{root}/{name}", exist_ok=True)
    # A cgroup with processes cannot hand controllers down; the root alone can.
    _write(f"{root}/{OURS}/initd/cgroup.procs", str(os.getpid()))
    available = hand_down(root)
    for folder in (f"{root}/{OURS}", f"{root}/{CELLS}"):
        hand_down(folder)
    for name, weight in WEIGHTS.items():
        os.makedirs(f"{root}/{OURS}/{name}", exist_ok=True)
        if "cpu" in available:
            _write(f"{root}/{OURS}/{name}/cpu.weight", str(weight))
    if "cpu" in available:
        _write(f"{root}/{OURS}/cpu.weight", str(_OURS_WEIGHT))
        # Not in a kernel without CONFIG_CFS_BANDWIDTH.
        if os.path.exists(limit := f"{root}/{OURS}/{_LIMITED}/cpu.max"):
            _write(limit, _NO_LIMIT)
    return [f"{name}: not in this kernel" for name in CONTROLLERS if name not in available]


def hand_down(folder: str) -> list[str]:
    """Give the cgroups in it every controller that it has; returns those."""
    with open(f"{folder}/cgroup.controllers") as file:
        available = file.read().split()
    wanted = " ".join(f"+{name}" for name in CONTROLLERS if name in available)
    _write(f"{folder}/cgroup.subtree_control", wanted)
    return available


def leave(root: str) -> None:
    """Undo `make_tree`, once nothing else lives in it. Raises OSError."""
    with open(f"{root}/cgroup.controllers") as file:
        available = file.read().split()
    unwanted = " ".join(f"-{name}" for name in CONTROLLERS if name in available)
    # Only a cgroup that hands no controllers down may hold processes.
    for folder in (f"{root}/{OURS}", root):
        _write(f"{folder}/cgroup.subtree_control", unwanted)
    _write(f"{root}/cgroup.procs", str(os.getpid()))
    for name in (f"{OURS}/initd", OURS):
        os.rmdir(f"{root}/{name}")


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)
