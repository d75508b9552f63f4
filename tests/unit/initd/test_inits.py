"""Inits as processes of PID 1's. Without namespaces, which need privileges: the rest is real.

The process owner runs in a process of its own: it forks without executing, as only a process
without threads can.
"""

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from initd.errors import FailedPrecondition, InvalidArgument, NotFound
from initd.linux import peer
from initd.processes import wire
from initd.processes.model import Confinement, Isolation, Process, Spawn, State
from tests.unit.runtime import node

PLAIN: Final = Isolation(hostname="cell", cgroup="cell")
CONFINED: Final = Confinement(no_new_privileges=True)
SECONDS: Final = 30.0


class Asked:
    """A process owner that is asked over its socket."""

    def __init__(self, folder: Path, pid: int) -> None:
        self.root = folder / "cgroup"
        self.pid = pid
        self._folder = folder
        self._requests = self._connected()
        self._events = self._connected()
        self._exchange(self._events, {"op": "subscribe"})

    def _connected(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        connection.settimeout(SECONDS)
        connection.connect(str(self._folder / "initd.sock"))
        return connection

    def _exchange(self, connection: socket.socket, request: wire.Object) -> wire.Object:
        peer.send(connection, wire.encode(request))
        return wire.result(wire.decode(connection.recv(wire.ANSWER_LIMIT)))

    def ask(self, op: str, **fields: Any) -> wire.Object:
        return self._exchange(self._requests, {"op": op, **fields})

    def spawn(self, wanted: Spawn) -> Process:
        answer = self.ask("spawn", **wire.spawn_to_object(wanted), fds={})
        return wire.process_from_object(answer["process"])

    def begin(self, name: str = "init") -> Process:
        return self.spawn(Spawn(id=name, argv=(), cgroup=f"cell/{name}", isolation=PLAIN))

    def begun(self, name: str = "init") -> Process:
        self.begin(name)
        return self.until(name, State.RUNNING)

    def until(self, name: str, state: State) -> Process:
        """The next change of that process to that state."""
        while True:
            event = wire.decode(self._events.recv(wire.ANSWER_LIMIT))
            process = wire.process_from_object(event["process"])
            if (process.id, process.state) == (name, state):
                return process

    def process(self, name: str) -> Process:
        found = map(wire.process_from_object, self.ask("list")["processes"])
        return {process.id: process for process in found}[name]

    def output(self, process: Process, name: str = "stdout") -> str:
        return (self._folder / "logs" / str(process.serial) / name).read_text()

    def children(self) -> dict[int, str]:
        """What the owner's children call themselves."""
        pids = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return {int(pid): Path(f"/proc/{pid}/comm").read_text().strip() for pid in pids}

    def close(self) -> None:
        self._requests.close()
        self._events.close()


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[Asked]:
    with node.owner(tmp_path) as program:
        asked = Asked(tmp_path, program.pid)
        cell = asked.root / "cell"
        cell.mkdir()
        (cell / "cgroup.procs").touch()
        try:
            yield asked
        finally:
            asked.close()


def test_an_init_is_starting_and_then_runs(owner: Asked) -> None:
    began = owner.begin()
    assert (began.state, began.init) == (State.STARTING, True)
    assert owner.until("init", State.STARTING).serial == began.serial
    assert owner.until("init", State.RUNNING).pid == began.pid
    assert owner.children()[began.pid] == "cell-init"


def test_an_init_ends_by_sigkill_only(owner: Asked) -> None:
    pid = owner.begun().pid
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGALRM):
        owner.ask("signal", id="init", signal=number)
    os.kill(pid, signal.SIGKILL)
    assert owner.until("init", State.ENDED).signal == signal.SIGKILL


def test_an_init_holds_no_descriptor(owner: Asked) -> None:
    pid = owner.begun().pid
    # The report's end is closed after the word that it sends; the signal comes after that.
    owner.ask("signal", id="init", signal=signal.SIGCHLD)
    left = [entry.name for entry in Path(f"/proc/{pid}/fd").iterdir()]
    assert len(left) <= 1


def test_an_init_without_its_cell_is_not_made(owner: Asked) -> None:
    (owner.root / "cell" / "cgroup.procs").unlink()
    (owner.root / "cell").rmdir()
    with pytest.raises(NotFound):
        owner.begin()
    assert owner.ask("list")["processes"] == []


def test_a_template_that_was_killed_is_made_anew(owner: Asked) -> None:
    first = owner.begun()
    (template,) = (pid for pid, name in owner.children().items() if name == "auraed-template")
    os.kill(template, signal.SIGKILL)
    second = owner.begun("second")
    assert owner.children()[first.pid] == owner.children()[second.pid] == "cell-init"
    assert owner.process("init").state is State.RUNNING


def test_a_process_is_not_made_inside_what_does_not_run(owner: Asked) -> None:
    def inside(name: str) -> None:
        owner.spawn(Spawn(id="in", argv=("/bin/true",), cgroup="in", inside=name))

    with pytest.raises(NotFound):
        inside("nobody")
    owner.begun()
    owner.ask("stop", id="init", grace=0)
    owner.until("init", State.ENDED)
    with pytest.raises(FailedPrecondition, match="ended"):
        inside("init")
    owner.spawn(Spawn(id="plain", argv=("/bin/sleep", "99"), cgroup="plain"))
    with pytest.raises(FailedPrecondition, match="no init"):
        inside("plain")
    assert not (owner.root / "in").exists()


def test_a_stopped_init_without_anybody_inside_ends_at_once(owner: Asked) -> None:
    owner.begun()
    owner.ask("stop", id="init", grace=3600)
    assert owner.until("init", State.ENDED).signal == signal.SIGKILL


def test_no_new_privileges_hold_in_the_process(owner: Asked) -> None:
    argv = ("sh", "-c", "grep NoNewPrivs /proc/self/status; echo $0; pwd", "a name")
    environment = {"PATH": os.environ["PATH"]}
    owner.spawn(
        Spawn(id="a", argv=argv, cgroup="a", cwd="/usr", env=environment, confinement=CONFINED)
    )
    assert owner.output(owner.until("a", State.ENDED)) == "NoNewPrivs:\t1\na name\n/usr\n"


def test_a_confined_process_has_no_descriptor_of_ours(owner: Asked) -> None:
    argv = ("/bin/ls", "/proc/self/fd")
    owner.spawn(Spawn(id="a", argv=argv, cgroup="a", confinement=CONFINED))
    # Three, and the folder that ls reads.
    assert owner.output(owner.until("a", State.ENDED)).split() == ["0", "1", "2", "3"]


@pytest.mark.parametrize(
    ("argv", "cwd", "code", "said"),
    [
        (("/nowhere",), "/", 127, "cannot execute: /nowhere: No such file or directory"),
        (("/etc/passwd",), "/", 126, "cannot execute: /etc/passwd: Permission denied"),
        (("/bin/true",), "/nowhere", 127, "/nowhere: No such file or directory"),
    ],
)
def test_a_confined_process_says_itself_what_keeps_it(
    owner: Asked, argv: tuple[str, ...], cwd: str, code: int, said: str
) -> None:
    owner.spawn(Spawn(id="a", argv=argv, cgroup="a", cwd=cwd, confinement=CONFINED))
    ended = owner.until("a", State.ENDED)
    assert ended.code == code
    assert said in owner.output(ended, "stderr")


def test_a_spawn_with_all_its_fields_comes_back_from_the_wire() -> None:
    everything = Spawn(
        id="a",
        argv=("a", "b"),
        cgroup="a/b",
        inside="c",
        isolation=Isolation(
            hostname="h",
            cgroup="a",
            process=True,
            network=True,
            read_only_root=True,
            private_tmp=True,
            private_dev=True,
            users=65536,
        ),
        confinement=Confinement(no_new_privileges=True, capabilities=("CAP_KILL",), seccomp=True),
    )
    message = wire.decode(wire.encode(wire.spawn_to_object(everything)))
    assert wire.spawn_from_object(message) == everything


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"isolation": 1}, "isolation: must be an object"),
        ({"isolation": {"cgroup": "a"}}, "isolation.hostname"),
        ({"isolation": {"cgroup": "../a", "hostname": "a"}}, "cgroup ../a"),
        ({"isolation": {"cgroup": "a", "hostname": "a" * 65}}, "1 to 64"),
        ({"isolation": {"cgroup": "a", "hostname": "a", "network": 1}}, "isolation.network"),
        ({"isolation": {"cgroup": "a", "hostname": "a", "users": 2**32 - 9}}, "65536 IDs"),
        ({"isolation": {"cgroup": "a", "hostname": "a", "x": True}}, "isolation.x: unknown"),
        ({"confinement": {"capabilities": ["kill"]}}, "'kill': unknown"),
        ({"confinement": {"capabilities": "all"}}, "must be a list"),
        ({"confinement": {"seccomp": "yes"}}, "confinement.seccomp"),
        ({"inside": 3}, "inside: must be text"),
        ({"argv": []}, "argv"),
    ],
)
def test_a_bad_field_is_refused_by_name_and_rule(fields: dict[str, Any], said: str) -> None:
    message = {"id": "a", "argv": ["true"], "cgroup": "a", **fields}
    with pytest.raises(InvalidArgument, match=said):
        wire.spawn_from_object(message)
