"""Kernel settings of the machine."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

# Names with dots, as sysctl(8) has them. What the command line asks for comes after these.
MACHINE: Final = {
    # PID 1 is gone for good after a panic: start anew, and let boot counting decide of which image.
    "kernel.panic": "10",
    # A kernel that has lost a thread amid its work holds locks that nobody will ever release.
    "kernel.panic_on_oops": "1",
    # Said, and not more: a disk or a server that answers no more must not end everything else.
    "kernel.hung_task_timeout_secs": "120",
    "kernel.hung_task_panic": "0",
    # As many as 64 bit allows: pids of short-lived processes come round late.
    "kernel.pid_max": "4194304",
    "kernel.kptr_restrict": "1",
    # Off by default in the kernel, on in every distribution: links and pipes in /tmp as a trap.
    "fs.protected_hardlinks": "1",
    "fs.protected_symlinks": "1",
    "fs.protected_fifos": "1",
    "fs.protected_regular": "2",
    "fs.inotify.max_user_instances": "8192",
    "fs.inotify.max_user_watches": "1048576",
    "vm.max_map_count": "1048576",
    # Anybody may ping, without a capability or a setuid program.
    "net.ipv4.ping_group_range": "0 2147483647",
}


def apply(settings: Mapping[str, str], root: Path = Path("/proc/sys")) -> list[str]:
    """Returns what went wrong, setting by setting."""
    problems = []
    for name, value in settings.items():
        # Interfaces may have a dot in their name, written as a slash, as sysctl(8) does.
        path = root / name.replace(".", "\0").replace("/", ".").replace("\0", "/")
        try:
            path.write_text(value)
        except OSError as error:
            problems.append(f"{name}={value}: {error.strerror}")
    return problems
