"""How often a change is tried."""

from initd.network.desired import SetLink
from initd.network.pace import Pace

UP = SetLink(2, up=True)
MTU = SetLink(2, mtu=9000)


def test_what_is_new_is_due() -> None:
    assert Pace().due(UP, 0.0)
    assert Pace().deadline is None


def test_what_failed_waits_ever_longer() -> None:
    pace, now, waits = Pace(), 0.0, []
    for failures in range(1, 10):
        assert pace.failed(UP, now) == failures
        pace.settled({UP}, now)
        assert pace.deadline is not None
        waits.append(pace.deadline - now)
        assert not pace.due(UP, pace.deadline - 0.1)
        now = pace.deadline
        assert pace.due(UP, now)
    assert waits == [1, 2, 4, 8, 16, 32, 64, 64, 64]


def test_what_was_done_and_did_not_help_is_done_again_only_after_a_while() -> None:
    pace = Pace()
    pace.done(UP, 0.0)
    pace.settled(set(), 0.0)
    assert pace.deadline is None
    pace.settled({UP}, 0.1)
    assert not pace.due(UP, 0.1)
    assert pace.deadline == 1.0


def test_success_ends_a_row_of_failures() -> None:
    pace = Pace()
    pace.failed(UP, 0.0)
    pace.done(UP, 1.0)
    assert pace.failed(UP, 2.0) == 1


def test_what_is_no_longer_wanted_is_forgotten() -> None:
    pace = Pace()
    for _ in range(3):
        pace.failed(MTU, 0.0)
    pace.settled({UP}, 5.0)
    assert pace.failed(MTU, 5.0) == 1
