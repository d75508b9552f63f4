"""Executables that are started again and in order, also when the API dies in between."""

import itertools
from collections.abc import Callable
from typing import Any, Final

import grpc
from aurae.cells.v0 import cells_pb2 as pb
from aurae.node.v0 import node_pb2
from google.protobuf.duration_pb2 import Duration

from image.machine import Credential
from testkit.cells import Cell, forest
from testkit.machines import Machine
from testkit.refusals import refused
from testkit.trust import TrustDomain
from tests.integration.test_restart import kill_runtime

FAST: Final = Duration(nanos=200_000_000)
HOUR: Final = Duration(seconds=3600)


def restart(mode: str, **options: Any) -> pb.RestartPolicy:
    number = pb.RestartMode.Value(f"RESTART_MODE_{mode}")
    return pb.RestartPolicy(mode=number, **{"backoff": FAST, **options})


def readiness(kind: str, **options: Any) -> pb.Readiness:
    return pb.Readiness(kind=pb.ReadinessKind.Value(f"READINESS_KIND_{kind}"), **options)


def reaches(cell: Cell, executable: str, state: int) -> pb.ExecutableStatus:
    """Ask until it stands so: its runs end by themselves, and each call has a deadline."""
    for _ in range(2000):
        if (status := cell.status(executable)).state == state:
            return status
    raise AssertionError(f"{executable} is {status} and not {state}")


def test_what_fails_is_started_again_with_backoff_until_its_limit(machine: Machine) -> None:
    with machine.cell("c") as cell:
        cell.start("e", "echo run; exit 3", restart=restart("ON_FAILURE", limit=3))
        lines = list(cell.follow("e"))
        status = cell.wait("e")
        assert [item.line for item in lines] == ["run"] * 4
        assert (status.state, status.exit_code) == (pb.EXECUTABLE_STATE_FAILED, 3)
        assert status.restarts == 3
        # 0.2, 0.4 and 0.8 s, and no less.
        gaps = [b.timestamp - a.timestamp for a, b in itertools.pairwise(lines)]
        assert [gap >= least * 1e9 for gap, least in zip(gaps, (0.2, 0.4, 0.8), strict=True)] == [
            True
        ] * 3


def test_what_ends_well_is_started_again_only_if_always(machine: Machine) -> None:
    with machine.cell("c") as cell:
        cell.start("well", "echo run", restart=restart("ON_FAILURE"))
        assert [item.line for item in cell.follow("well")] == ["run"]
        cell.start("always", "echo run", restart=restart("ALWAYS", max_backoff=FAST))
        follower = cell.follow("always")
        assert [next(follower).line for _ in range(3)] == ["run"] * 3
        cell.stop("always")
        assert {item.line for item in follower} <= {"run"}
        assert cell.status("always").state == pb.EXECUTABLE_STATE_ENDED
        cell.start("never", "kill -9 $$", restart=restart("NEVER", backoff=None))
        status = cell.wait("never")
        assert (status.state, status.signal) == (pb.EXECUTABLE_STATE_ENDED, 9)


def test_a_set_starts_in_order_by_exit_and_by_listening(machine: Machine) -> None:
    with machine.cell("app") as app, machine.cell("app/db") as db:
        serve = "exec nc -l -p 5432 -e cat"
        # The server comes last, though it was asked for first.
        assert app.start("server", "echo up; exec sleep 1000", after=["db/db", "migrate"]).pid == 0
        app.start("migrate", "sleep 1", after=["db/db"], readiness=readiness("EXIT"))
        assert app.status("server").waiting_for == ["db/db", "migrate"]
        db.start("db", f"sleep 1; {serve}", readiness=readiness("LISTEN", listen="5432"), uid=1000)
        ready = app.wait("server", ready=True)
        assert (ready.state, ready.ready) == (pb.EXECUTABLE_STATE_RUNNING, True)
        began = [app.status("server"), app.status("migrate"), db.status("db")]
        times = [status.started_at.ToNanoseconds() for status in began]
        assert times == sorted(times, reverse=True)
        assert began[0].started_at.ToNanoseconds() > began[1].ended_at.ToNanoseconds()
        app.start("one", "true", after=["other"])
        with refused(grpc.StatusCode.INVALID_ARGUMENT, "other after one after other is a circle"):
            app.start("other", "true", after=["one"])


def test_a_unix_socket_counts_when_it_is_listened_on(machine: Machine) -> None:
    code = (
        "import socket, time; s = socket.socket(socket.AF_UNIX); s.bind('/run/t.sock'); "
        "time.sleep(1); s.listen(); print('listens', flush=True); time.sleep(1000)"
    )
    with machine.cell("c") as cell:
        listens = readiness("LISTEN", listen="/run/t.sock")
        cell.start("e", 'rm -f /run/t.sock; exec python3 -c "$1"', code, readiness=listens)
        assert cell.status("e").state == pb.EXECUTABLE_STATE_STARTING
        cell.wait("e", ready=True)
        assert next(cell.follow("e")).line == "listens"
        cell.start("late", "exec sleep 1000", readiness=readiness("EXIT", timeout=FAST))
        late = cell.wait("late")
        assert (late.state, late.reason) == (
            pb.EXECUTABLE_STATE_FAILED,
            "was not ready in 0.2 s",
        )
    machine.system.read("rm /run/t.sock")


def test_readiness_by_sd_notify_is_not_lost_while_the_api_is_away(machine: Machine) -> None:
    code = (
        "import os, socket, time; s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); "
        "s.connect(os.environ['NOTIFY_SOCKET'])\n"
        "while not os.path.exists('/run/tell'): time.sleep(0.1)\n"
        "s.send(b'READY=1\\nSTATUS=serving'); time.sleep(1000)"
    )
    with machine.cell("c") as cell:
        command = 'exec python3 -c "$1"'
        cell.start("tells", command, code, readiness=readiness("NOTIFY"), uid=1000)
        cell.start("told", "exit 8", after=["tells"])
        assert cell.status("tells").state == pb.EXECUTABLE_STATE_STARTING
        # It speaks when nobody but PID 1 hears it.
        machine.system.start("tell", "sleep 2; touch /run/tell")
        kill_runtime(machine)
        ready = cell.wait("tells", ready=True)
        assert (ready.state, ready.status_text) == (pb.EXECUTABLE_STATE_RUNNING, "serving")
        assert cell.wait("told").exit_code == 8
    machine.system.read("rm /run/tell")


def test_watchers_see_every_change_in_order(machine: Machine) -> None:
    watch = machine.api.cells.Watch(pb.CellServiceWatchRequest())
    assert next(watch).WhichOneof("change") == "snapshot"
    with machine.cell("c") as cell:
        cell.start("e", "exit 1", restart=restart("ON_FAILURE", limit=1))
        cell.wait("e")
    states = []
    for seen in watch:
        states.append(seen.executable.status.state)
        if seen.freed == "c":
            break
    assert states == [
        0,
        pb.EXECUTABLE_STATE_RUNNING,
        pb.EXECUTABLE_STATE_BACKOFF,
        pb.EXECUTABLE_STATE_WAITING,
        pb.EXECUTABLE_STATE_RUNNING,
        pb.EXECUTABLE_STATE_FAILED,
        0,
    ]
    watch.cancel()


def test_the_api_dies_while_one_is_in_backoff_one_waits_and_one_runs(machine: Machine) -> None:
    count = (
        "f=/run/count-runs; n=$(cat $f 2>/dev/null || echo 0); echo $((n + 1)) > $f;"
        ' echo "run $n"; i=0; while [ $i -lt 40 ]; do echo "$n $i"; i=$((i + 1)); sleep 0.1; done;'
        " exit 1"
    )
    with machine.cell("c") as cell:
        cell.start("waits", "echo waited", after=["gate"])
        cell.start(
            "backoff",
            "echo run; exit 1",
            restart=restart("ON_FAILURE", backoff=HOUR),
        )
        # It ends, and is started again, while the API is away or just back.
        cell.start("counts", count, restart=restart("ALWAYS", max_backoff=FAST, limit=2))
        before = reaches(cell, "backoff", pb.EXECUTABLE_STATE_BACKOFF)
        kill_runtime(machine)
        assert cell.status("waits").state == pb.EXECUTABLE_STATE_WAITING
        assert cell.status("backoff") == before
        status = cell.wait("counts", timeout=120)
        assert (status.state, status.restarts) == (pb.EXECUTABLE_STATE_FAILED, 2)
        lines = cell.lines("counts")["stdout"]
        assert lines == [
            line for n in range(3) for line in (f"run {n}", *(f"{n} {i}" for i in range(40)))
        ]
        cell.start("gate", "true")
        assert cell.wait("waits").exit_code == 0
        cell.stop("backoff")
        assert cell.lines("backoff")["stdout"] == ["run"]
    machine.system.read("rm /run/count-runs")
    assert machine.system.read("find /run/aurae/executables -name '*.json'") == ""


def test_pid_1_is_replaced_while_one_is_in_backoff_and_one_is_not_ready_yet(
    machine: Machine,
) -> None:
    code = (
        "import os, socket, time; s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); "
        "s.connect(os.environ['NOTIFY_SOCKET'])\n"
        "while not os.path.exists('/run/tell'): time.sleep(0.1)\n"
        "s.send(b'READY=1\\nSTATUS=serving'); time.sleep(1000)"
    )
    machine.system.read("mkfifo /run/go")
    with machine.cell("c") as cell:
        command = 'exec python3 -c "$1"'
        cell.start("tells", command, code, readiness=readiness("NOTIFY"))
        cell.start("runs", "echo one; read -r go < /run/go; exit 1", restart=restart("ALWAYS"))
        cell.start("backoff", "exit 1", restart=restart("ON_FAILURE", backoff=HOUR))
        before = reaches(cell, "backoff", pb.EXECUTABLE_STATE_BACKOFF)
        follower = cell.follow("runs")
        assert next(follower).line == "one"
        machine.api.node.ReloadDaemon(node_pb2.ReloadDaemonRequest())
        assert cell.status("backoff") == before
        machine.system.read("touch /run/tell; echo > /run/go")
        assert cell.wait("tells", ready=True).status_text == "serving"
        # The next run goes on in the log that the program before has begun.
        assert next(follower).line == "one"
        cell.stop("runs", grace=0)
        assert list(follower) == []
    machine.system.read("rm /run/tell /run/go")


def test_in_an_isolated_cell_it_is_all_the_same(machine: Machine) -> None:
    tells = (
        "import os, socket, time; s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); "
        "s.connect(os.environ['NOTIFY_SOCKET']); s.send(b'READY=1'); time.sleep(1000)"
    )
    listens = "import socket, time; s = socket.create_server(('', 80)); time.sleep(1000)"
    with machine.cell("own", isolate_process=True, isolate_network=True) as cell:
        command = 'exec python3 -c "$1"'
        cell.start("tells", command, tells, readiness=readiness("NOTIFY"))
        cell.start("listens", command, listens, readiness=readiness("LISTEN", listen="80"))
        cell.start(
            "fails", "exit 3", restart=restart("ALWAYS", limit=1), after=["tells", "listens"]
        )
        status = cell.wait("fails", timeout=120)
        assert (status.state, status.restarts) == (pb.EXECUTABLE_STATE_FAILED, 1)
        assert cell.status("tells").ready
        assert cell.status("listens").ready


SET: Final = """{
    "cells": [{"name": "web"}, {"name": "web/db", "memory": {"max": "67108864"}}, {"name": "b_d"}],
    "executables": [
        {"cell_name": "web", "executable": {"name": "server", "after": ["db/db"],
            "command": "exec sleep 1000", "restart": {"mode": "RESTART_MODE_ALWAYS"}}},
        {"cell_name": "web/db", "executable": {"name": "db",
            "command": "sleep 1", "readiness": {"kind": "READINESS_KIND_EXIT"}}},
        {"executable": {"name": "alone", "command": "true"}}
    ]
}"""


def test_a_node_makes_the_set_that_it_is_given_once(
    boot: Callable[..., Machine], trust_domain: TrustDomain
) -> None:
    given = Credential("aurae.cells.json", SET.encode())
    machine = boot(credentials=(*trust_domain.credentials(), given))
    machine.console.wait_for("aurae.cells.json: 5 of 6 entries made", timeout=60)
    assert "aurae.cells.json: cells[2]: cell.name: 'b_d'" in machine.console.text
    web = Cell(machine.api, "web")
    assert web.wait("server", ready=True).ready
    assert Cell(machine.api, "web/db").status("db").exit_code == 0
    assert Cell(machine.api, None).wait("alone").exit_code == 0
    web.free()
    kill_runtime(machine)
    assert [node.cell.name for node in forest(machine.api)] == ["_system"]
