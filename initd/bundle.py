"""auraed as a container: an OCI bundle (runtime specification 1.0) of an Aurae root.

Any OCI runtime can run it, with auraed as its PID 1 (see initd/guest.py). Nothing in it is secret,
and nothing of the node that wrote it.
"""

import json
import shutil
from pathlib import Path
from typing import Any, Final

VERSION: Final = "1.0.2"
INIT: Final = "/sbin/init"
# Of the root: what is mounted over, or holds what is written at run time, and what only a machine
# needs.
MOUNTED: Final = ("dev", "mnt", "proc", "run", "sys", "tmp", "var")
LEFT_OUT: Final = frozenset((*MOUNTED, "boot", "efi", "sysroot", "usr/lib/modules"))

# To make cells and processes of other users in them. Isolated cells take CAP_SYS_ADMIN besides.
CAPABILITIES: Final = (
    *("CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL"),
    *("CAP_NET_BIND_SERVICE", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID", "CAP_SYS_CHROOT"),
    *("CAP_SYS_PTRACE", "CAP_SYS_RESOURCE"),
)
NAMESPACES: Final = ("cgroup", "ipc", "mount", "network", "pid", "uts")

_SAFE: Final = ("nosuid", "noexec", "nodev")
# Target, type, options. auraed itself mounts nothing in a container.
MOUNTS: Final = (
    ("/proc", "proc", _SAFE),
    ("/dev", "tmpfs", ("nosuid", "strictatime", "mode=755", "size=65536k")),
    ("/dev/pts", "devpts", ("nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620")),
    ("/dev/shm", "tmpfs", (*_SAFE, "mode=1777", "size=65536k")),
    ("/dev/mqueue", "mqueue", _SAFE),
    ("/sys", "sysfs", (*_SAFE, "ro")),
    # Writable: its cells are cgroups.
    ("/sys/fs/cgroup", "cgroup", (*_SAFE, "relatime", "rw")),
    ("/run", "tmpfs", ("nosuid", "nodev", "mode=755")),
    ("/tmp", "tmpfs", ("nosuid", "nodev", "mode=1777")),
    ("/var", "tmpfs", ("nosuid", "nodev", "mode=755")),
)


class Unusable(Exception):
    """The bundle cannot be written. The message says why."""


def config() -> dict[str, Any]:
    """What config.json holds."""
    capabilities = list(CAPABILITIES)
    return {
        "ociVersion": VERSION,
        "process": {
            "terminal": False,
            "user": {"uid": 0, "gid": 0},
            "args": [INIT],
            "env": ["PATH=/usr/bin", "container=oci"],
            "cwd": "/",
            "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), capabilities),
            "noNewPrivileges": False,
        },
        "root": {"path": "rootfs", "readonly": True},
        "hostname": "aurae",
        "mounts": [
            {"destination": target, "type": kind, "source": kind, "options": list(options)}
            for target, kind, options in MOUNTS
        ],
        "linux": {
            "namespaces": [{"type": name} for name in NAMESPACES],
            "resources": {"devices": [{"allow": False, "access": "rwm"}]},
            "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sysrq-trigger"],
        },
    }


def write(output: Path, root: Path = Path("/")) -> None:
    """Write the bundle to the folder `output`, which must not exist yet. Either all of it exists
    afterwards, or nothing. Raises `Unusable`, OSError."""
    if not (root / "usr/bin/init").exists() or "ID=aurae\n" not in _os_release(root):
        raise Unusable(f"{root}: is no Aurae root: run this on a node, or name one with --root")
    if output.exists():
        raise Unusable(f"{output}: exists: name a new folder")
    partial = output.with_name(f".{output.name}.partial")
    if partial.exists():
        shutil.rmtree(partial)
    partial.mkdir(parents=True, mode=0o755)
    try:
        copy(root, partial / "rootfs")
        (partial / "config.json").write_text(json.dumps(config(), indent=2) + "\n")
        partial.rename(output)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def copy(root: Path, target: Path) -> None:
    """The root without what is `LEFT_OUT`, and without the machine's identity."""

    def ignore(folder: str, names: list[str]) -> set[str]:
        above = Path(folder).relative_to(root)
        return {name for name in names if str(above / name) in LEFT_OUT}

    shutil.copytree(root, target, symlinks=True, ignore=ignore)
    for name in MOUNTED:
        (target / name).mkdir()
    (target / "etc/machine-id").write_text("")


def _os_release(root: Path) -> str:
    try:
        return (root / "usr/lib/os-release").read_text()
    except OSError:
        return ""
