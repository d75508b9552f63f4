"""A node without a machine under it: the real API and the real process owner on plain folders."""

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import grpc
from aurae.audit.v0 import audit_pb2_grpc
from aurae.cells.v0 import cells_pb2, cells_pb2_grpc
from aurae.discovery.v0 import discovery_pb2, discovery_pb2_grpc
from aurae.node.v0 import node_pb2_grpc
from aurae.observe.v0 import observe_pb2, observe_pb2_grpc
from grpc_health.v1 import health_pb2_grpc

from initd.linux import inotify
from runtime.cells.cgroups import Cgroups

CONTROLLERS: Final = "cpu cpuset io memory pids"
DEADLINE: Final = 20.0


class FolderCgroups(Cgroups):
    """Plain folders for cgroups. It makes and removes the files that the kernel would."""

    def __init__(self, root: Path, *, cpus: str = "0-3", mems: str = "0") -> None:
        super().__init__(root)
        root.mkdir(exist_ok=True)
        if not (root / "cgroup.controllers").exists():
            self._appear(root, CONTROLLERS, cpus, mems)

    def _appear(self, folder: Path, controllers: str, cpus: str, mems: str) -> None:
        (folder / "cgroup.controllers").write_text(controllers)
        (folder / "cgroup.subtree_control").write_text("")
        (folder / "cgroup.kill").write_text("")
        (folder / "cpuset.cpus.effective").write_text(cpus + "\n")
        (folder / "cpuset.mems.effective").write_text(mems + "\n")

    def _mkdir(self, folder: Path) -> None:
        super()._mkdir(folder)
        above = folder.parent
        self._appear(
            folder,
            (above / "cgroup.subtree_control").read_text().replace("+", ""),
            (above / "cpuset.cpus.effective").read_text().strip(),
            (above / "cpuset.mems.effective").read_text().strip(),
        )

    def write(self, cell: str, file: str, value: str) -> None:
        super().write(cell, file, value)
        if file in ("cpuset.cpus", "cpuset.mems"):
            super().write(cell, f"{file}.effective", value)

    def _rmdir(self, folder: Path) -> None:
        for file in folder.iterdir():
            if file.is_file() and file.name != "cgroup.procs":
                file.unlink()
        super()._rmdir(folder)


def appears(path: Path) -> None:
    """Wait until the file is there."""
    watch = inotify.init()
    try:
        inotify.watch(watch, str(path.parent), inotify.CREATE | inotify.MOVED_TO)
        while not path.exists():
            assert select.select([watch], [], [], DEADLINE)[0], f"{path} is not there in time"
            inotify.read(watch)
    finally:
        os.close(watch)


def until(happened: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + DEADLINE
    while not happened():
        assert time.monotonic() < deadline, f"not in time: {what}"


@contextmanager
def program(name: str, *arguments: str | Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A script of this folder, until the end of the block; then SIGTERM, and it must end well."""
    script = Path(__file__).with_name(f"{name}.py")
    with (
        log.open("ab") as output,
        subprocess.Popen([sys.executable, script, *arguments], stderr=output) as process,
    ):
        try:
            yield process
        finally:
            process.terminate()
            code = process.wait(DEADLINE)
        assert code in (0, -9), f"{name}: exit {code}: {log.read_text()}"


class Node:
    """The API as clients see it, over its Unix socket."""

    def __init__(self, folder: Path, channel: grpc.Channel) -> None:
        self.folder = folder
        self.cgroups = folder / "cgroup" / "aurae"
        self.audit = audit_pb2_grpc.AuditServiceStub(channel)
        self.cells = cells_pb2_grpc.CellServiceStub(channel)
        self.discovery = discovery_pb2_grpc.DiscoveryServiceStub(channel)
        self.health = health_pb2_grpc.HealthStub(channel)
        self.node = node_pb2_grpc.NodeServiceStub(channel)
        self.observe = observe_pb2_grpc.ObserveServiceStub(channel)
        self.channel = channel

    @property
    def log(self) -> str:
        return (self.folder / "api.log").read_text()

    def asked(self) -> list[dict[str, Any]]:
        """What the API asked PID 1 to do with the node."""
        return [json.loads(line) for line in (self.folder / "asked").read_text().splitlines()]

    def allocate(self, name: str, **limits: Any) -> None:
        cell = cells_pb2.Cell(name=name, **limits)
        self.cells.Allocate(cells_pb2.CellServiceAllocateRequest(cell=cell), timeout=DEADLINE)

    def free(self, name: str, **options: Any) -> None:
        request = cells_pb2.CellServiceFreeRequest(cell_name=name, **options)
        self.cells.Free(request, timeout=DEADLINE)

    def start(self, cell: str | None, name: str, command: str, **options: Any) -> int:
        """Its process ID."""
        request = cells_pb2.CellServiceStartRequest(
            cell_name=cell, executable=cells_pb2.Executable(name=name, command=command, **options)
        )
        return self.cells.Start(request, timeout=DEADLINE).pid

    def stop(self, cell: str | None, name: str, **options: Any) -> None:
        request = cells_pb2.CellServiceStopRequest(cell_name=cell, executable_name=name, **options)
        self.cells.Stop(request, timeout=DEADLINE)

    def wait(
        self, cell: str | None, name: str, *, ready: bool = False
    ) -> cells_pb2.ExecutableStatus:
        request = cells_pb2.CellServiceWaitRequest(
            cell_name=cell, executable_name=name, ready=ready
        )
        return self.cells.Wait(request, timeout=DEADLINE).status

    def status(self, cell: str, name: str) -> cells_pb2.ExecutableStatus:
        """How List shows it."""
        (status,) = [s for s in self.list()[cell].executables if s.executable.name == name]
        return status

    def lines(self, cell: str | None, name: str, **options: Any) -> Iterator[str]:
        """Its output, followed until the end of its log."""
        request = observe_pb2.GetSubProcessStreamRequest(
            cell_name=cell, executable_name=name, **options
        )
        for response in self.observe.GetSubProcessStream(request, timeout=DEADLINE):
            yield response.item.line

    def list(self) -> dict[str, cells_pb2.CellGraphNode]:
        """Every cell by name, of any depth."""
        answer = self.cells.List(cells_pb2.CellServiceListRequest(), timeout=DEADLINE)
        nodes, todo = {}, list(answer.cells)
        while todo:
            node = todo.pop(0)
            nodes[node.cell.name] = node
            todo += node.children
        return nodes


@contextmanager
def owner(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    with program("owner", folder, log=folder / "owner.log") as process:
        appears(folder / "owner-ready")
        yield process
    (folder / "owner-ready").unlink()


@contextmanager
def api(folder: Path, listen: str = "127.0.0.1:0") -> Iterator[subprocess.Popen[bytes]]:
    """The API alone, until it has told the owner of its readiness."""
    (folder / "asked").unlink(missing_ok=True)
    with program("api", folder, listen, log=folder / "api.log") as process:
        appears(folder / "asked")
        yield process


@contextmanager
def client(folder: Path) -> Iterator[Node]:
    # A pool of its own: channels with equal arguments share connections.
    options = [("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(f"unix:{folder}/aurae.sock", options) as channel:
        yield Node(folder, channel)


@contextmanager
def inside(folder: Path, cell: str, **identity: int) -> Iterator[Node]:
    """The API as seen by a process in an executable's cgroup in `cell`, of that `uid` and `gid`."""
    caller = folder / "caller"
    caller.write_text(json.dumps({"cgroup": f"/aurae/{cell}/_test", **identity}))
    try:
        with client(folder) as there:
            there.discovery.Discover(discovery_pb2.DiscoverRequest(), timeout=DEADLINE)
            caller.unlink()
            yield there
    finally:
        caller.unlink(missing_ok=True)


@contextmanager
def node(folder: Path) -> Iterator[Node]:
    with owner(folder), api(folder), client(folder) as there:
        yield there
