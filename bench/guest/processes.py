"""Runs inside the guest, as an executable: how long other ways to start a process take there.

Prints one JSON object: seconds of each run, by name. `crun run` runs `true` in a container of all
the namespaces that crun sets up by default; `vfork` is glibc's posix_spawn, which is C and does
clone(CLONE_VM|CLONE_VFORK) and exec, followed by the wait.
"""

import json
import os
import sys
import time
from pathlib import Path

PEERS = Path(sys.argv[1])
RUNS = int(sys.argv[2])
ENVIRONMENT = {
    "PATH": "/usr/bin:/bin",
    "LD_LIBRARY_PATH": str(PEERS / "usr/lib/x86_64-linux-gnu"),
    "XDG_RUNTIME_DIR": "/run",
}
BUNDLE = Path("/run/bench-bundle")


def timed(argv: list[str], environment: dict[str, str]) -> float:
    begin = time.perf_counter()
    pid = os.posix_spawn(argv[0], argv, environment)
    _, status = os.waitpid(pid, 0)
    taken = time.perf_counter() - begin
    if status != 0:
        sys.exit(f"{' '.join(argv)}: wait status {status}")
    return taken


def make_bundle() -> None:
    namespaces = [{"type": t} for t in ("pid", "mount", "ipc", "uts", "cgroup")]
    config = {
        "ociVersion": "1.0.2",
        "process": {"args": ["/usr/bin/busybox", "true"], "cwd": "/", "user": {"uid": 0, "gid": 0}},
        "root": {"path": str(PEERS), "readonly": True},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs"},
        ],
        "linux": {"namespaces": namespaces, "cgroupsPath": "/bench/crun"},
    }
    BUNDLE.mkdir(exist_ok=True)
    (BUNDLE / "config.json").write_text(json.dumps(config))


make_bundle()
busybox = str(PEERS / "usr/bin/busybox")
crun = [str(PEERS / "usr/bin/crun"), "--cgroup-manager=cgroupfs", "run"]
crun += ["--bundle", str(BUNDLE)]
timed([*crun, "warm-up"], ENVIRONMENT)
unshare = [str(PEERS / "usr/bin/unshare"), "-mpiuC", "--fork", busybox, "true"]
timed(unshare, ENVIRONMENT)
print(
    json.dumps(
        {
            "unshare": [timed(unshare, ENVIRONMENT) for _ in range(RUNS)],
            "crun": [timed([*crun, f"bench-{n}"], ENVIRONMENT) for n in range(RUNS)],
            "vfork": [timed([busybox, "true"], {}) for n in range(RUNS)],
        }
    )
)
