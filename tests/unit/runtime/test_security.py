"""What is left of privileges where cells lie in each other, and cells as JSON."""

import json

from initd.processes.model import Confinement
from runtime.cells import security
from runtime.cells.model import Cell, Io, IoMax, Pids
from runtime.cells.security import Profile, Seccomp, Security, together

RESTRICTED = Security(profile=Profile.RESTRICTED)


def test_the_restricted_profile_sets_every_field() -> None:
    resolved = RESTRICTED.resolved()
    flags = set(Security._fields) - {"profile", "keep_capabilities", "seccomp"}
    assert {name for name in flags if getattr(resolved, name)} == flags
    assert resolved.kept == frozenset()
    assert resolved.seccomp is Seccomp.DEFAULT


def test_a_cell_below_can_take_away_and_not_give_back() -> None:
    above = Security(no_new_privileges=True, keep_capabilities=("CAP_KILL", "CAP_CHOWN"))
    below = Security(private_tmp=True, keep_capabilities=("CAP_KILL", "CAP_SYS_ADMIN"))
    both = together([above, below])
    assert both == together([below, above])
    assert both.no_new_privileges
    assert both.private_tmp
    assert both.kept == frozenset(["CAP_KILL"])
    assert together([RESTRICTED, below]).kept == frozenset()
    assert together([]) == Security()
    assert security.confinement(together([])) == Confinement()


def test_nothing_in_common_is_nothing_kept() -> None:
    one, other = (Security(keep_capabilities=(name,)) for name in ("CAP_KILL", "CAP_CHOWN"))
    assert together([one, other]).kept == frozenset()
    assert security.confinement(together([one, other])).capabilities == ()


def test_the_restricted_profile_bounds_processes_unless_a_limit_is_given() -> None:
    assert Cell(name="a", security=RESTRICTED).files() == {"pids.max": "1024"}
    limited = Cell(name="a", security=RESTRICTED, pids=Pids(max=7))
    assert limited.files() == {"pids.max": "7"}
    assert limited.own_process


def test_a_cell_comes_back_from_its_file() -> None:
    cell = Cell(
        name="a/b",
        pids=Pids(max=3),
        io=Io(weight=7, max=(IoMax(device="8:0", rbps=1), IoMax(device="8:16"))),
        isolate_process=True,
        isolate_network=True,
        security=Security(
            profile=None,
            user_namespace=True,
            keep_capabilities=("CAP_KILL",),
            seccomp=Seccomp.DEFAULT,
        ),
    )
    assert Cell.from_json(json.loads(json.dumps(cell.to_json()))) == cell
    restricted = Cell(name="r", security=RESTRICTED)
    assert Cell.from_json(json.loads(json.dumps(restricted.to_json()))) == restricted


def test_a_file_of_an_earlier_version_is_read() -> None:
    old = {"name": "old", "cpu": None, "cpuset": None, "memory": None}
    assert Cell.from_json(old) == Cell(name="old")
