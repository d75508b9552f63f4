"""Who watches the runtime, and what feeds the watchdog. A machine tests the device itself."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from initd.watchdog import RECOVERY, STARTING, Vigil, Watchdog
from tests.unit.initd.owner import Owner
from tests.unit.initd.test_services import Supervised


class Watched:
    """A runtime under a vigil of 8 s, with a clock that the test moves."""

    def __init__(self, owner: Owner) -> None:
        self.owner = owner
        self.now = 1000.0
        self.item = Supervised(owner, "exec sleep 1000", "runtime")
        self.service = self.item.service
        self.service.start()
        self.vigil = Vigil(owner.loop, self.item.log, self.service, 8, lambda: self.now)
        self.vigil.look()

    def silent(self, seconds: float) -> None:
        """Time goes by, and PID 1 looks as often as it does."""
        end = self.now + seconds
        while self.now < end:
            self.now += min(self.vigil.every, end - self.now)
            self.vigil.look()

    def killed(self) -> bool:
        """Whether this run was ended and another has begun."""
        before = self.service.starts
        if "silent for" not in self.item.text():
            return False
        self.owner.until(lambda: self.service.starts == before + 1)
        return True


@pytest.fixture
def watched(owner: Owner) -> Iterator[Watched]:
    watched = Watched(owner)
    yield watched
    watched.item.close()


def test_a_runtime_that_says_it_is_well_is_left_alone(watched: Watched) -> None:
    watched.service.told_ready("serving")
    for _ in range(20):
        watched.silent(7)
        watched.vigil.hear()
    assert not watched.killed()
    assert watched.vigil.good


def test_a_silent_runtime_is_killed_and_its_next_run_has_time_to_start(watched: Watched) -> None:
    watched.service.told_ready("serving")
    watched.vigil.hear()
    watched.silent(10.1)
    assert watched.killed()
    watched.silent(STARTING - 10)
    assert not watched.killed()
    watched.silent(20)
    assert watched.killed()


def test_a_machine_that_stood_still_is_not_the_runtimes_fault(watched: Watched) -> None:
    watched.service.told_ready("serving")
    watched.vigil.hear()
    watched.now += 3600
    watched.vigil.look()
    watched.silent(6)
    assert not watched.killed()


def test_the_machine_is_given_up_only_when_no_runtime_came_back(watched: Watched) -> None:
    watched.vigil.hear()
    watched.now += RECOVERY - 1
    assert watched.vigil.good
    watched.now += 2
    assert not watched.vigil.good
    watched.vigil.hear()
    assert watched.vigil.good


def test_without_a_device_or_with_none_wanted_nothing_is_opened(
    owner: Owner, watched: Watched, tmp_path: Path
) -> None:
    node = tmp_path / "watchdog0"
    log = watched.item.log
    Watchdog(owner.loop, log, 30, lambda: True).look(node)
    node.touch()
    Watchdog(owner.loop, log, 0, lambda: True).look(node)
    assert "watchdog" not in watched.item.text()


def test_a_device_is_fed_while_all_is_well_and_said_when_not(
    owner: Owner, watched: Watched, tmp_path: Path
) -> None:
    """A file in its place takes neither timeout nor food, but the letter that disarms."""
    node = tmp_path / "watchdog0"
    node.touch()
    well = [True]
    watchdog = Watchdog(owner.loop, watched.item.log, 30, lambda: well[0])
    watchdog.look(node)
    text = watched.item.text()
    assert "cannot take 30 s" in text
    assert "resets this machine after 8 s without PID 1" in text
    well[0] = False
    watchdog._turn()
    assert "watchdog: not fed any more" in watched.item.text()
    watchdog._turn()
    assert "not fed" not in watched.item.text(), "said once"
    watchdog.disarm()
    assert node.read_bytes() == b"V"
