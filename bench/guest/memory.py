"""Runs inside the guest, as an executable: the memory of auraed's own processes.

Prints one JSON object: kB of PSS by process (`initd`, `network`, `runtime`), from smaps_rollup.
"""

import json
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup/auraed")


def pss(pid: str) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    raise SystemExit(f"process {pid}: smaps_rollup has no Pss line")


print(
    json.dumps(
        {
            folder.name: sum(pss(pid) for pid in (folder / "cgroup.procs").read_text().split())
            for folder in CGROUPS.iterdir()
            if folder.is_dir()
        }
    )
)
