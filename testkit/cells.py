"""A cell of a machine under test: start, stop, wait for and read what runs in it."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import grpc
from aurae.cells.v0 import cells_pb2 as pb
from aurae.observe.v0 import observe_pb2
from google.protobuf.duration_pb2 import Duration

from testkit.api import Api

COMMAND_SECONDS: Final = 60.0
SYSTEM: Final = "_system"

_numbers: Final = itertools.count(1)


class CommandError(Exception):
    """An executable that was to succeed did not."""


@dataclass(frozen=True, slots=True)
class Output:
    """What an executable said and how it ended."""

    stdout: str
    stderr: str
    exit_code: int | None
    signal: int | None


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell by its name; None is the system's own."""

    api: Api
    name: str | None

    def start(
        self,
        executable: str,
        command: str,
        *args: str,
        uid: int | None = None,
        gid: int | None = None,
        environment: Mapping[str, str] | None = None,
        working_directory: str = "",
        restart: pb.RestartPolicy | None = None,
        after: Sequence[str] = (),
        readiness: pb.Readiness | None = None,
    ) -> pb.CellServiceStartResponse:
        """Start a shell command."""
        wanted = pb.Executable(
            name=executable,
            command=command,
            args=args,
            environment=environment or {},
            working_directory=working_directory,
            restart=restart,
            after=after,
            readiness=readiness,
        )
        request = pb.CellServiceStartRequest(
            cell_name=self.name, executable=wanted, uid=uid, gid=gid
        )
        return self.api.cells.Start(request)

    def stop(self, executable: str, grace: float | None = None) -> None:
        """End its whole tree; `grace` in seconds."""
        self.api.cells.Stop(
            pb.CellServiceStopRequest(
                cell_name=self.name, executable_name=executable, grace=duration(grace)
            )
        )

    def wait(
        self, executable: str, timeout: float = COMMAND_SECONDS, *, ready: bool = False
    ) -> pb.ExecutableStatus:
        """Wait for its rest, or until it is ready."""
        request = pb.CellServiceWaitRequest(
            cell_name=self.name, executable_name=executable, ready=ready
        )
        return self.api.cells.Wait(request, timeout=timeout).status

    def status(self, executable: str) -> pb.ExecutableStatus:
        """How List shows it. Raises LookupError if it does not."""
        for status in self.node().executables:
            if status.executable.name == executable:
                return status
        raise LookupError(f"List shows no executable {executable} in cell {self.name}")

    def node(self) -> pb.CellGraphNode:
        """How List shows the cell. Raises LookupError if it does not."""
        for node in forest(self.api):
            if node.cell.name == (self.name or SYSTEM):
                return node
        raise LookupError(f"List shows no cell {self.name}")

    def run(
        self,
        command: str,
        *args: str,
        uid: int | None = None,
        gid: int | None = None,
        timeout: float = COMMAND_SECONDS,
    ) -> Output:
        """Run a shell command and wait for its end."""
        name = f"run-{next(_numbers)}"
        self.start(name, command, *args, uid=uid, gid=gid)
        ended = self.wait(name, timeout)
        lines = self.lines(name)
        return Output(
            stdout="".join(f"{line}\n" for line in lines["stdout"]),
            stderr="".join(f"{line}\n" for line in lines["stderr"]),
            exit_code=ended.exit_code if ended.HasField("exit_code") else None,
            signal=ended.signal if ended.HasField("signal") else None,
        )

    def read(self, command: str, *args: str) -> str:
        """The output of a shell command that succeeds. Raises `CommandError`."""
        done = self.run(command, *args)
        if done.exit_code != 0:
            raise CommandError(f"{command}: {done}")
        return done.stdout

    def lines(self, executable: str) -> dict[str, list[str]]:
        """All that it says until its end, by `stdout` and `stderr`."""
        said: dict[str, list[str]] = {"stdout": [], "stderr": []}
        for item in self.follow(executable):
            said[item.channel].append(item.line)
        return said

    def follow(
        self, executable: str, *, batch: bool = True, no_follow: bool = False
    ) -> Iterator[observe_pb2.LogItem]:
        """Its lines from the first on, until its end."""
        request = observe_pb2.GetSubProcessStreamRequest(
            executable_name=executable, cell_name=self.name, batch=batch, no_follow=no_follow
        )
        for message in self.api.observe.GetSubProcessStream(request):
            yield message.item
            yield from message.more

    def free(self, grace: float | None = None) -> None:
        self.api.cells.Free(
            pb.CellServiceFreeRequest(cell_name=self.name or "", grace=duration(grace))
        )


@contextmanager
def allocated(
    api: Api,
    name: str,
    **asked: Any,
) -> Iterator[Cell]:
    """A cell that is freed at the end, and at once, with all that is left in it. `asked` are fields
    of the message Cell."""
    wanted = pb.Cell(name=name, **asked)
    api.cells.Allocate(pb.CellServiceAllocateRequest(cell=wanted))
    cell = Cell(api, name)
    try:
        yield cell
    finally:
        try:
            cell.free(grace=0)
        except grpc.RpcError as e:
            if e.code() is not grpc.StatusCode.NOT_FOUND:  # the test freed it
                raise


def forest(api: Api) -> list[pb.CellGraphNode]:
    """Every cell of the node, parents before children."""

    def flat(nodes: Sequence[pb.CellGraphNode]) -> Iterator[pb.CellGraphNode]:
        for node in nodes:
            yield node
            yield from flat(node.children)

    return list(flat(api.cells.List(pb.CellServiceListRequest()).cells))


def duration(seconds: float | None) -> Duration | None:
    if seconds is None:
        return None
    made = Duration()
    made.FromNanoseconds(round(seconds * 1e9))
    return made
