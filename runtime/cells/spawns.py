"""What PID 1 is asked to execute for an executable, and whose a process is."""

from typing import Any, Final

from initd.errors import InvalidArgument
from initd.processes import wire
from initd.processes.model import Process, Spawn
from runtime.cells.cgroups import leaf
from runtime.cells.model import SYSTEM, Executable, identity

# What an executable finds in its environment, before what was given with it.
ENVIRONMENT: Final = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/",
    # Where the SPIFFE standard has workloads look for their identity.
    "SPIFFE_ENDPOINT_SOCKET": "unix:///run/aurae/spiffe.sock",
}


def spawn_of(cell: str, executable: Executable, *, uid: int, gid: int) -> Spawn:
    environment = ENVIRONMENT | {
        "AURAE_CELL": "" if cell == SYSTEM else cell,
        "AURAE_EXECUTABLE": executable.name,
    }
    spawn = Spawn(
        id=identity(cell, executable.name),
        # The name is $0, which is what `sh` calls itself in its messages.
        argv=("/bin/sh", "-c", executable.command, executable.name, *executable.args),
        env=environment | dict(executable.environment),
        cwd=executable.working_directory or "/",
        uid=uid,
        gid=gid,
        cgroup=leaf(cell, executable.name),
        meta={"cell": cell, "executable": executable.to_json()},
    )
    size = len(wire.encode({"op": "spawn", **wire.spawn_to_object(spawn), "fds": {}}))
    if size > wire.REQUEST_LIMIT:
        raise InvalidArgument(
            f"executable: command, args and environment make a request of {size} bytes to PID 1, "
            f"which takes {wire.REQUEST_LIMIT}; pass long data in a file"
        )
    return spawn


def cell_of(process: Process) -> str | None:
    """The cell that a process was started in; None for what no cell holds."""
    cell: Any = process.meta.get("cell")
    return cell if isinstance(cell, str) else None


def runs_in(process: Process) -> str | None:
    """The cell that a process is an executable of."""
    return None if process.init else cell_of(process)
