"""PID 1's program is replaced; nothing that it owns notices."""

import gc
import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from initd.handover import codec, program
from initd.handover.codec import StateError
from initd.handover.model import (
    ControlState,
    Descriptor,
    EndingState,
    HardwareState,
    LoadingState,
    OwnedState,
    ProcessesState,
    PumpState,
    ReportState,
    ServiceState,
    State,
    StreamState,
    WatchdogState,
)
from initd.linux import memfd, spawn
from initd.log import Log
from initd.processes import wire
from initd.processes.model import Process, StepReport
from initd.processes.model import State as ProcessState
from initd.reload import Reload
from tests.unit.initd import successor
from tests.unit.initd.owner import Owner

_STREAM = StreamState(
    data_file=Descriptor(20),
    index_file=Descriptor(21),
    start=4096,
    size=5000,
    lost_lines=3,
    entries=7,
    index_start=0,
)
_PROCESS = Process(
    serial=4,
    id="web:server",
    pid=77,
    state=ProcessState.STOPPING,
    started=1_700_000_000_000_000_000,
    uid=5,
    gid=6,
    cgroup="aurae/web/_server",
    log=2,
    revision=5,
    ready=True,
    status="up",
    meta={"cell": "web", "executable": {"args": ["\u00e9", None, 1.5]}},
)
FULL = State(
    version="1.2",
    began=12.5,
    steps=(StepReport(name="mounts", milliseconds=3.5, error=""),),
    log=_STREAM,
    services=(
        ServiceState(
            name="runtime",
            pid=80,
            ready="serving",
            starts=2,
            backoff=0.2,
            started=3.0,
            due=None,
            output=Descriptor(30),
            pump=PumpState(pipe=Descriptor(31), stream=_STREAM),
            partial="\u00ff half a line",
        ),
    ),
    processes=ProcessesState(
        serial=9,
        owned=(
            OwnedState(
                process=_PROCESS,
                folder="/run/aurae/logs/4",
                pumps=(PumpState(pipe=None, stream=_STREAM),),
                kill_at=20.0,
                pending=True,
                recheck=0.02,
                log_open=True,
                said="half way",
                ending=EndingState(code=None, signal=9),
                report=ReportState(connection=Descriptor(22), users=65536),
            ),
        ),
        ended=("web:server",),
    ),
    control=ControlState(
        listener=Descriptor(40),
        connections=(Descriptor(41), Descriptor(42)),
        subscribers=(42,),
        owed=41,
    ),
    hardware=HardwareState(
        listener=Descriptor(50),
        waiting=("pci:x",),
        look_again=True,
        due=3.0,
        loading=LoadingState(pid=90, began=1.0, pipe=Descriptor(51)),
    ),
    notify=Descriptor(43),
    buttons={"/dev/input/event0": Descriptor(60)},
    watchdog=WatchdogState(device=Descriptor(70), every=15.0),
)


def test_a_state_comes_back_as_it_was() -> None:
    assert codec.decode(codec.encode(FULL)) == FULL


def test_every_descriptor_of_a_state_is_found() -> None:
    found = sorted(set(codec.descriptors(FULL)))
    assert found == [20, 21, 22, 30, 31, 40, 41, 42, 43, 50, 51, 60, 70]


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"format": 2}, "state: has format 2, this program reads 1"),
        ({"format": None}, "state: has format None"),
        ({"new": 1}, "state.new: unknown to this program"),
        ({"version": 1}, "state.version: 1 is not str"),
        ({"version": None}, "state.version: None is not str"),
        ({"services": {}}, "state.services: not a list"),
        ({"services": [1]}, r"state.services\[0\]: not an object"),
        ({"buttons": []}, "state.buttons: not an object"),
        ({"buttons": {"a": "b"}}, "state.buttons.a: 'b' is not int"),
        ({"processes": {"serial": 1, "owned": []}}, "state.processes: .*'ended'"),
        ({"processes": {"serial": True, "owned": [], "ended": []}}, "serial: True is not int"),
    ],
)
def test_a_state_that_cannot_be_taken_over_is_refused_by_field(
    change: dict[str, Any], rule: str
) -> None:
    value = {**json.loads(codec.encode(FULL)), **change}
    with pytest.raises(StateError, match=rule):
        codec.decode(json.dumps(value).encode())


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"1", b"\xff", b"[" * 100_000])
def test_what_is_no_state_is_refused(data: bytes) -> None:
    with pytest.raises(StateError, match="state: "):
        codec.decode(data)


def test_only_a_sealed_memfd_is_a_state() -> None:
    with Path(os.devnull).open() as null:
        assert program.given(["handover", str(null.fileno())]) is None
    assert program.given(["handover", "9999"]) is None
    assert program.given(["handover"]) is None
    assert program.given(["quiet", "3"]) is None
    fd = memfd.write("state", b"x")
    try:
        assert program.given(["handover", str(fd)]) == fd
        with pytest.raises(PermissionError):
            os.pwrite(fd, b"y", 0)
    finally:
        os.close(fd)


def test_a_program_says_whether_it_can_take_over(capfd: pytest.CaptureFixture[str]) -> None:
    good, bad = memfd.write("state", codec.encode(FULL)), memfd.write("state", b"{}")
    try:
        assert program.check(str(good)) == 0
        assert program.check(str(bad)) == 1
        assert "state: has format None" in capfd.readouterr().err
    finally:
        os.close(good)
        os.close(bad)


def test_without_a_next_program_nothing_has_changed(tmp_path: Path) -> None:
    read, write = os.pipe()
    # What tests before this one have left goes now, and not while it counts.
    gc.collect()
    before = set(Path("/proc/self/fd").iterdir())
    state = FULL._replace(
        log=None,
        services=(),
        processes=ProcessesState(serial=0, owned=(), ended=()),
        control=None,
        hardware=FULL.hardware._replace(listener=Descriptor(read), loading=None),
        notify=None,
        buttons={},
        watchdog=None,
    )
    with pytest.raises(FileNotFoundError), program.unheard():
        program.replace(state, (str(tmp_path / "nothing"),))
    assert not os.get_inheritable(read)
    assert set(Path("/proc/self/fd").iterdir()) == before
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == set()
    os.close(read)
    os.close(write)


def succeed(folder: Path, times: int) -> tuple[dict[str, Any], int]:
    """What the programs said in the end, and how many answers a client of theirs has got."""
    folder.mkdir()
    argv = [sys.executable, successor.__file__, str(folder), str(times)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    answers = 0
    with (
        subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=environment) as process,
        socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client,
    ):
        assert process.stdout is not None
        client.settimeout(30)
        deadline = time.monotonic() + 30
        while client.connect_ex(str(folder / "initd.sock")) != 0:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        # Until the last program ends, with a request of ours unread perhaps.
        with suppress(BrokenPipeError, ConnectionResetError):
            client.send(wire.encode({"op": "list"}))
            while answer := client.recv(wire.ANSWER_LIMIT):
                assert "ok" in wire.decode(answer)
                answers += 1
                client.send(wire.encode({"op": "list"}))
        result = json.loads(process.stdout.read())
    assert process.returncode == 0
    return result, answers


def test_processes_go_on_over_five_programs(tmp_path: Path) -> None:
    """Real exec(2): a client stays connected; no line, exit code or descriptor is lost."""
    result, answers = succeed(tmp_path / "five", 5)
    assert answers > 5
    by_id = {p["id"]: p for p in result["processes"]}
    assert result["serial"] == result["ended"] == len(by_id) == successor.COUNTERS + 3
    for number in range(successor.COUNTERS):
        counter = by_id[f"counter-{number}"]
        assert (counter["code"], counter["signal"]) == (number, None)
        logs = tmp_path / "five/logs" / str(counter["serial"])
        lines = range(1, successor.LINES + 1)
        assert (logs / "stdout").read_text().splitlines() == [str(n) for n in lines]
        assert (logs / "stderr").read_text().splitlines() == [f"e{n}" for n in lines]
    assert by_id["ended"]["code"] == 9
    stubborn = by_id["stubborn"]
    assert stubborn["signal"] == signal.SIGKILL
    assert 0.9e9 < stubborn["ended"] - stubborn["started"] < 20e9
    alone, _ = succeed(tmp_path / "alone", 0)
    assert result["descriptors"] == alone["descriptors"]


class Asked:
    """A connection to the owner that asks and looks whether there is an answer."""

    def __init__(self, owner: Owner) -> None:
        self.owner = owner
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.connect(str(owner.socket))
        self.socket.setblocking(False)

    def ask(self, op: str) -> None:
        self.socket.send(wire.encode({"op": op}))

    def answer(self) -> wire.Object:
        answers: list[bytes] = []

        def came() -> bool:
            with suppress(BlockingIOError):
                answers.append(self.socket.recv(wire.ANSWER_LIMIT))
            return bool(answers)

        self.owner.until(came)
        return wire.decode(answers[0])


def reloads(owner: Owner, folder: Path, script: str) -> Reload:
    """The operation, with a shell script for the next program."""
    init = folder / "init"
    init.write_text(f"#!/bin/sh\n{script}\n")
    init.chmod(0o755)
    reload = Reload(
        owner.loop, owner.children, spawn.by_fork, Log(None), owner.save, init=str(init)
    )
    owner.control._operations["reload"] = lambda *_: reload.begin(owner.control)
    return reload


def test_a_next_program_that_does_not_start_is_refused(owner: Owner, tmp_path: Path) -> None:
    go = tmp_path / "go"
    reload = reloads(
        owner,
        tmp_path,
        f"while [ ! -e {go} ]; do sleep 0.01; done; echo Traceback; echo 'ImportError: x' >&2; "
        'test "$1 $2" = "check 3" && test -s /proc/self/fd/3; exit 1',
    )
    first, second = Asked(owner), Asked(owner)
    with first.socket, second.socket:
        first.ask("reload")
        # This one waits for its turn on the connection; others are served.
        first.ask("list")
        second.ask("reload")
        assert "another one is under way" in second.answer()["error"]["message"]
        second.ask("list")
        assert second.answer() == {"ok": {"processes": [], "more": False}}
        go.touch()
        error = first.answer()["error"]
        assert error["kind"] == "FailedPrecondition"
        assert error["message"] == (
            "PID 1: the next program does not start, this one goes on: ImportError: x"
        )
        assert first.answer() == {"ok": {"processes": [], "more": False}}
    assert not reload.due


def test_a_next_program_that_starts_is_due(owner: Owner, tmp_path: Path) -> None:
    reload = reloads(owner, tmp_path, "exit 0")
    asked = Asked(owner)
    with asked.socket:
        asked.ask("reload")
        owner.until(lambda: reload.due)
        # Nobody takes it over here.
        reload.refuse(OSError(2, "No such file or directory"))
        assert asked.answer()["error"]["errno"] == 2
        # Another try is as good as the first.
        asked.ask("reload")
        owner.until(lambda: reload.due)


def test_who_asks_and_leaves_does_no_harm(owner: Owner, tmp_path: Path) -> None:
    reload = reloads(owner, tmp_path, "exit 1")
    asked = Asked(owner)
    with asked.socket:
        asked.ask("reload")
        owner.turn(1)
        owner.turn(1)
    owner.until(lambda: owner.control._owed is None)
    other = Asked(owner)
    with other.socket:
        other.ask("list")
        assert "ok" in other.answer()
    owner.until(lambda: reload._control is None)


def test_only_who_is_admitted_is_answered(owner: Owner) -> None:
    owner.admitted = lambda pid: pid != os.getpid()
    asked = Asked(owner)
    with asked.socket:
        error = asked.answer()["error"]
        assert error["kind"] == "PermissionDenied"
        assert f"not for pid {os.getpid()}" in error["message"]
