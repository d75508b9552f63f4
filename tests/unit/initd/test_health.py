"""Whether a boot is a good one: the decision, and what it is made from."""

import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from initd import health
from initd.boot import attempts, expected
from initd.boot.booted import Booted
from initd.boot.expected import Expected
from initd.health import Health, Survey
from initd.log import Log
from initd.loop import Loop
from initd.processes.children import Children
from initd.processes.model import Process, State

TOLD = Booted("a", "vda", "f" * 64, "/dev/dm-0")
NEW = Survey(counted=True, version="2.0", expected=Expected("f" * 64, ("127.0.0.1",)))


class Boot:
    """PID 1's loop and what is asked of it."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "health.json"
        self.lacks = ""
        self.confirmed: list[bool] = []
        self.reboots: list[str] = []
        self.seen: list[Expected] = []
        self._children = Children()

        def fail(error: BaseException) -> None:
            raise error

        self.loop = Loop(fail)

    def health(self, survey: Survey, bound: float = 60.0, told: Booted = TOLD) -> Health:
        def look(wanted: Expected) -> str:
            self.seen.append(wanted)
            return self.lacks

        return Health(
            self.loop,
            self._children,
            Log(None),
            told,
            bound=bound,
            look=look,
            confirm=self.confirmed.append,
            reboot=self.reboots.append,
            survey=lambda _: survey,
            file=self.file,
        )

    def until(self, done: Callable[[], object]) -> None:
        deadline = time.monotonic() + 20
        while not done():
            assert time.monotonic() < deadline
            self.loop.turn(0.02)
            self._children.reap()

    @property
    def said(self) -> dict[str, str]:
        said: dict[str, str] = json.loads(self.file.read_text())
        return said


@pytest.fixture
def boot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Boot]:
    monkeypatch.setattr(health, "EVERY", 0.02)
    made = Boot(tmp_path)
    yield made
    made.loop.close()


def test_a_new_version_is_blessed_once_it_lacks_nothing(boot: Boot) -> None:
    boot.lacks = "the node has no address 10.0.0.1, which it had"
    found = boot.health(NEW)
    found.start()
    assert boot.said["state"] == "waiting"
    assert health.undecided(boot.file)
    found.ready()
    boot.until(lambda: len(boot.seen) > 2)
    assert boot.said["reason"] == boot.lacks
    assert not boot.confirmed
    boot.lacks = ""
    boot.until(lambda: boot.confirmed)
    assert boot.confirmed == [True]
    # An upgrade and a rollback, which want a healthy node, do not meet the blessing.
    assert boot.said["state"] == "waiting"
    assert "not blessed yet" in boot.said["reason"]
    found.confirmed()
    assert boot.said == {"state": "healthy", "reason": "", "version": "2.0"}
    assert not boot.reboots
    assert not health.undecided(boot.file)


def test_a_new_version_that_is_not_healthy_in_time_starts_the_machine_again(boot: Boot) -> None:
    boot.lacks = "the data disk is not there"
    found = boot.health(NEW, bound=0.2)
    found.start()
    found.ready()
    boot.until(lambda: boot.reboots)
    assert boot.reboots == ["not healthy: the data disk is not there"]
    assert boot.said["state"] == "unhealthy"
    assert not boot.confirmed


def test_a_new_version_whose_api_never_answers_starts_the_machine_again(boot: Boot) -> None:
    found = boot.health(NEW, bound=0.05)
    found.start()
    boot.until(lambda: boot.reboots)
    assert boot.reboots == ["not healthy: the API does not answer"]


def test_a_version_that_was_blessed_is_good_when_the_api_answers(boot: Boot) -> None:
    boot.lacks = "anything"
    found = boot.health(NEW._replace(counted=False))
    found.start()
    found.ready()
    boot.until(lambda: boot.confirmed)
    assert boot.confirmed == [False]
    assert not boot.seen


def test_a_version_that_was_blessed_is_never_started_again(boot: Boot) -> None:
    found = boot.health(Survey(), bound=0.05)
    found.start()
    boot.until(lambda: boot.said["state"] == "unhealthy")
    assert not boot.reboots


def test_what_another_version_had_does_not_matter(boot: Boot) -> None:
    found = boot.health(NEW, told=TOLD._replace(roothash="0" * 64))
    found.start()
    found.ready()
    boot.until(lambda: boot.confirmed)
    assert boot.seen == [Expected()]


def test_a_boot_that_is_from_no_slot_is_not_looked_at(boot: Boot) -> None:
    found = boot.health(NEW, bound=0.01, told=Booted(root="/root.erofs"))
    assert found.start() == "not asked for"
    found.ready()
    assert not boot.file.exists()


def test_what_is_expected_is_read_as_it_was_written(tmp_path: Path) -> None:
    disk = tmp_path / "attempts"
    disk.write_bytes(bytes(1 << 20))
    assert expected.read(str(disk)) == Expected()
    assert attempts.add(str(disk), "a" * 64) == 0
    said = Expected("b" * 64, ("10.0.0.1", "2001:db8::1"), 8080, data=True)
    expected.write(str(disk), said)
    assert expected.read(str(disk)) == said
    assert attempts.add(str(disk), "a" * 64) == 1
    many = said._replace(addresses=tuple(f"2001:db8::{n:x}" for n in range(1000)))
    expected.write(str(disk), many)
    assert expected.read(str(disk)).addresses == many.addresses[:32]


def test_an_address_is_reached_or_why_not_is_said() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        port = listener.getsockname()[1]
        assert health.unreachable("127.0.0.1", port) == ""
    assert "does not answer at 127.0.0.1" in health.unreachable("127.0.0.1", port)
    assert health.unreachable("127.0.0.1", 0) == ""
    assert "has no address 192.0.2.1" in health.unreachable("192.0.2.1", 0)


def process(id_: str, state: State = State.RUNNING, code: int | None = None) -> Process:
    return Process(
        serial=1, id=id_, pid=2, state=state, started=0, uid=0, gid=0, cgroup="", log=1, code=code
    )


def test_executables_that_were_declared_run_or_have_ended_well(tmp_path: Path) -> None:
    declared = tmp_path / "cells.json"
    declared.write_text(
        json.dumps(
            {
                "executables": [
                    {"cellName": "web", "executable": {"name": "server"}},
                    {"cell_name": "web", "executable": {"name": "setup"}},
                ]
            }
        )
    )
    applied = tmp_path / "applied"
    sets = (str(tmp_path / "none"), str(declared))

    def lacks(*processes: Process) -> str:
        return health.not_running(sets, str(applied), processes)

    assert "not made yet" in lacks()
    applied.touch()
    assert "web:server was not started" in lacks()
    done = process("web:setup", State.ENDED, 0)
    assert lacks(process("web:server"), done) == ""
    assert "web:setup has failed" in lacks(process("web:server"), done._replace(code=1))
    assert health.not_running((str(tmp_path / "none"),), str(applied), ()) == ""
    declared.write_text("no JSON")
    assert lacks() == ""


def test_a_data_disk_that_was_there_is_missed(tmp_path: Path) -> None:
    wanted = Expected("f" * 64, (), 0, data=True)
    assert "data disk" in health.missing(wanted, (), state=str(tmp_path / "none"))
    assert health.missing(wanted, (), sets=(), state=str(tmp_path)) == ""
