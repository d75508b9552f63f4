import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from initd import shutdown
from initd.console import Console
from initd.linux import spawn
from initd.linux.splice import make_pipe
from initd.log import Level, Log
from initd.processes.model import Spawn, State
from initd.services import Service
from tests.unit.initd.owner import Owner


class Supervised:
    """A service that runs a line of shell, on the loop of an owner."""

    def __init__(self, owner: Owner, script: str, name: str = "svc") -> None:
        self.owner = owner
        screen, writer = os.pipe2(os.O_NONBLOCK)
        self.screen = screen
        self.log = Log(Console(writer), Level.DEBUG)
        read, write = make_pipe()
        owner.root.joinpath("auraed").mkdir(exist_ok=True)
        owner.cgroups.make(f"auraed/{name}")
        owner.logs.mkdir(exist_ok=True)

        def start() -> int:
            leaf = owner.cgroups.open(f"auraed/{name}")
            try:
                argv = ("/bin/sh", "-c", script)
                fds = {1: write, 2: write}
                return spawn.by_fork(argv[0], argv, {}, cwd="/", fds=fds, cgroup=leaf)
            finally:
                os.close(leaf)

        self.service = Service(
            name,
            start,
            read,
            loop=owner.loop,
            children=owner.children,
            cgroups=owner.cgroups,
            log=self.log,
            logs=owner.logs,
            budget=owner.budget,
        )

    def text(self) -> str:
        try:
            return os.read(self.screen, 1 << 20).decode()
        except BlockingIOError:
            return ""

    def output(self) -> bytes:
        return (self.owner.logs / self.service.name).read_bytes()

    def close(self) -> None:
        self.service.kill()
        self.owner.until(lambda: self.service.pid is None)


Make = Callable[[str], Supervised]


@pytest.fixture
def make(owner: Owner) -> Iterator[Make]:
    made: list[Supervised] = []

    def supervised(script: str) -> Supervised:
        made.append(Supervised(owner, script))
        return made[-1]

    yield supervised
    for item in made:
        item.close()


def test_a_service_that_ends_is_started_again(owner: Owner, make: Make) -> None:
    item = make("echo run; exit 3")
    item.service.start()
    owner.until(lambda: item.service.starts == 4)
    owner.until(lambda: item.output().count(b"run\n") >= 4)
    text = item.text()
    assert "svc: ended with exit code 3; starting it again at once" in text
    assert "starting it again in 0.1 s" in text
    assert "starting it again in 0.2 s" in text


def test_a_service_that_ran_well_is_started_again_at_once(
    owner: Owner, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("initd.services.GOOD_RUN", 0.0)
    item = make("exit 3")
    item.service.start()
    owner.until(lambda: item.service.starts == 4)
    text = item.text()
    assert text.count("again at once") >= 3
    assert "again in" not in text


def test_a_service_that_was_ready_is_not_put_off_for_long(
    owner: Owner, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("initd.services.READY_LIMIT", 0.2)
    item = make("exec sleep 1000")
    item.service.start()
    for starts in (2, 3, 4, 5):
        item.service.told_ready("serving")
        assert item.service.pid is not None
        os.kill(item.service.pid, signal.SIGKILL)
        owner.until(lambda starts=starts: item.service.starts == starts)  # type: ignore[misc]
    text = item.text()
    assert text.count("again in 0.2 s") == 2
    assert "again in 0.4 s" not in text


def test_what_a_service_says_is_kept_and_shown(owner: Owner, make: Make) -> None:
    item = make("echo one >&2; printf two; exec sleep 1000")
    item.service.start()
    owner.until(lambda: item.output() == b"one\ntwo")
    text = item.text()
    assert "svc: one\r\n" in text
    assert "two" not in text, "a line is shown when it is whole"


def test_a_killed_service_comes_back(owner: Owner, make: Make) -> None:
    item = make("exec sleep 1000")
    item.service.start()
    assert item.service.pid is not None
    os.kill(item.service.pid, signal.SIGKILL)
    owner.until(lambda: item.service.starts == 2)
    assert "svc: ended by signal 9" in item.text()


def test_a_service_told_to_end_does_not_come_back(owner: Owner, make: Make) -> None:
    item = make("exec sleep 1000")
    item.service.start()
    item.service.terminate()
    owner.until(lambda: item.service.pid is None)
    item.service.start()
    assert item.service.starts == 1


def test_a_service_is_ready_until_it_ends(owner: Owner, make: Make) -> None:
    item = make("exec sleep 1000")
    item.service.start()
    item.service.told_ready("serving")
    assert item.service.report().ready == "serving"
    assert item.service.pid is not None
    os.kill(item.service.pid, signal.SIGTERM)
    owner.until(lambda: item.service.starts == 2)
    assert item.service.report().ready == ""


def test_the_road_down_ends_services_and_processes_and_refuses_work(
    owner: Owner, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutdown, "DRAIN", 5.0)
    monkeypatch.setattr(shutdown, "GRACE", 0.3)
    item = make("exec sleep 1000")
    item.service.start()
    env = {"PATH": os.environ["PATH"]}
    stubborn = "trap '' TERM; echo ready; while :; do sleep 0.1; done"
    for name, script in (("polite", "exec sleep 1000"), ("stubborn", stubborn)):
        owner.processes.spawn(Spawn(id=name, argv=("sh", "-c", script), cgroup=name, env=env), {})
    owner.until(lambda: owner.output(owner.process("stubborn")) == b"ready\n")
    owner.loop.watch_signals({signal.SIGCHLD: owner.children.reap})
    try:
        shutdown.stop_all(owner.loop, item.log, owner.processes, [item.service])
    finally:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    assert item.service.pid is None
    endings = {process.id: process.signal for process in owner.processes.list()}
    assert endings == {"polite": signal.SIGTERM, "stubborn": signal.SIGKILL}
    assert {process.state for process in owner.processes.list()} == {State.ENDED}
    text = item.text()
    # The service, which is the API, answers until the workloads have ended.
    assert text.index("stop 2 processes") < text.index("stop svc")


def test_the_services_of_the_machine_can_be_imported_without_the_site_module() -> None:
    from initd.first import SERVICES
    from initd.headstart import command

    for module in SERVICES.values():
        argv = command(module, sys.executable)
        assert argv[:2] == (sys.executable, "-IS")
        compile(argv[-1], "command", "exec")
        assert f"import {module} as m" in argv[-1]
        assert (Path(__file__).parents[3] / (module.replace(".", "/") + ".py")).exists()
