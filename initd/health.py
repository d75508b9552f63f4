"""Whether this boot is a good one, and what comes of it.

============  ====================  =============================================================
version       found                 what comes of it
============  ====================  =============================================================
any           API answers           the count of boots that came to nothing is cleared
new           and is healthy        its boot entry loses its counter: it is blessed, and only then
                                    told to be healthy
new           not in time           the machine starts again; after three boots the boot loader
                                    has the version before
blessed       not in time           it is logged: to start again would mend nothing
============  ====================  =============================================================

A new version is healthy when the API answers, at the addresses that the node had when it was
upgraded, with the data disk that it had, and the executables that it was told to start run or have
ended well.
"""

import json
import socket
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from initd.boot import copies, guard
from initd.boot.booted import Booted
from initd.boot.expected import Expected
from initd.log import Log
from initd.loop import Loop, Timer
from initd.processes.children import Children, Ending
from initd.processes.model import Process, State
from initd.values import NamedTuple

FILE: Final = Path("/run/aurae/health.json")
# Seconds between two looks.
EVERY: Final = 1.0
# Seconds that a connection to ourselves may take.
CONNECTING: Final = 0.5

_SETS: Final = ("/run/credentials/@system/aurae.cells.json", "/etc/aurae/cells.json")
_APPLIED: Final = "/run/aurae/cells.applied"
_STATE: Final = "/var/lib/aurae"


class Survey(NamedTuple):
    """What the boot disk says of the version that runs."""

    counted: bool = False
    """The boot loader counts its boots: it is new."""
    version: str = ""
    """By the name of its boot entry."""
    expected: Expected = Expected()


class Health:
    """Found once, from `start` on. A boot that is not from a slot is nobody's concern."""

    def __init__(
        self,
        loop: Loop,
        children: Children,
        log: Log,
        told: Booted,
        *,
        bound: float,
        look: Callable[[Expected], str],
        confirm: Callable[[bool], None],
        reboot: Callable[[str], None],
        survey: Callable[[Booted], Survey] | None = None,
        file: Path = FILE,
    ) -> None:
        """`look` says what is missing, empty: nothing. `confirm` is called once, with whether the
        version is new, and is to call `confirmed` at its end; `reboot` with the reason."""
        self._loop = loop
        self._children = children
        self._log = log
        self._told = told
        self._bound = bound
        self._look = look
        self._confirm = confirm
        self._reboot = reboot
        self._survey = survey or survey_disk
        self._file = file
        self._ready = False
        self._surveyed: Survey | None = None
        self._surveying = False
        self._expired = False
        self._decided = False
        self._reason = "the API does not answer"
        self._timer: Timer | None = None

    def start(self) -> str:
        """The time that it has runs from now on. Returns what there is to say."""
        if not self._told.slot:
            self._decided = True
            return "not asked for"
        self._tell("waiting")
        self._loop.later(self._bound, self._expire)
        return f"to be found in {self._bound:g} s"

    def ready(self) -> None:
        """The API answers."""
        if self._decided or self._ready:
            return
        self._ready = True
        self._begin_survey()

    def confirmed(self) -> None:
        """The disk has what comes of it, as far as it takes that."""
        self._tell("healthy")

    def _begin_survey(self) -> None:
        """In a copy of this process: a disk may answer late, or never."""
        if self._surveying:
            self._turn()
            return
        self._surveying = True
        try:
            copy = copies.start(lambda tell: tell(_survey_as_text(self._survey(self._told))))
        except OSError as error:
            self._log.warning(f"health: {error.strerror}")
            self._surveyed = Survey()
            self._turn()
            return

        def ended(_ending: Ending) -> None:
            self._surveyed = _survey_from(copies.told(copy.pipe))
            self._turn()

        self._children.add(copy.pid, ended)

    def _turn(self) -> None:
        self._timer = None
        if self._decided or self._surveyed is None:
            return
        self._reason = self._missing(self._surveyed)
        if not self._reason:
            self._decide()
            self._log.info("health: this boot is a good one")
            # Who is told so may upgrade or roll back, and an entry is yet to be renamed.
            self._reason = "its boot entry is not blessed yet"
            self._tell("waiting" if self._surveyed.counted else "healthy")
            self._confirm(self._surveyed.counted)
        elif self._expired:
            self._give_up(self._surveyed)
        else:
            self._tell("waiting")
            self._timer = self._loop.later(EVERY, self._turn)

    def _missing(self, survey: Survey) -> str:
        if not self._ready:
            return "the API does not answer"
        if not survey.counted:
            return ""
        expected = survey.expected
        if expected.root_hash != self._told.roothash:
            expected = Expected()
        return self._look(expected)

    def _expire(self) -> None:
        if self._decided:
            return
        self._expired = True
        if self._timer is not None:
            self._timer.cancel()
        self._begin_survey()

    def _decide(self) -> None:
        self._decided = True
        guard.end()

    def _give_up(self, survey: Survey) -> None:
        self._decide()
        self._tell("unhealthy")
        reason = f"not found healthy in {self._bound:g} s: {self._reason}"
        if survey.counted:
            self._log.error(f"health: this new version is {reason}; starting again")
            self._reboot(f"not healthy: {self._reason}")
        else:
            self._log.error(f"health: this boot is {reason}")

    def _tell(self, state: str) -> None:
        reason = "" if state == "healthy" else self._reason
        version = self._surveyed.version if self._surveyed else ""
        value = {"state": state, "reason": reason, "version": version}
        aside = self._file.with_name(f"{self._file.name}.new")
        with suppress(OSError):
            aside.write_text(json.dumps(value))
            aside.rename(self._file)


def undecided(file: Path = FILE) -> bool:
    """Whether an earlier program of this process was still to find out."""
    try:
        return bool(json.loads(file.read_text())["state"] == "waiting")
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _survey_as_text(found: Survey) -> str:
    return json.dumps([found.counted, found.version, found.expected._asdict()])


def _survey_from(text: str) -> Survey:
    try:
        counted, version, fields = json.loads(text)
    except ValueError:
        # It could not be read: then nobody counts on it either.
        return Survey()
    expected = Expected(**{**fields, "addresses": tuple(fields["addresses"])})
    return Survey(bool(counted), str(version), expected)


def survey_disk(told: Booted) -> Survey:
    """May block. OSError."""
    from initd.boot import attempts, confirm, esp, expected

    confirm.set_apart()
    started = esp.running_entry()
    counted, version = False, ""
    if started is not None:
        with esp.opened(esp.find_device(told.disk)) as partition:
            present = partition.find(started.version)
        if present is not None:
            counted, version = not present.entry.blessed, present.entry.version
    device = attempts.find_device(told.disk)
    said = Expected() if device is None else expected.read(device)
    return Survey(counted, version, said)


def missing(
    expected: Expected,
    processes: Iterable[Process],
    *,
    sets: tuple[str, ...] = _SETS,
    applied: str = _APPLIED,
    state: str = _STATE,
) -> str:
    """What a new version lacks; empty: nothing."""
    if expected.data and not Path(state).is_dir():
        return "the data disk is not there"
    for address in expected.addresses:
        if lack := unreachable(address, expected.port):
            return lack
    return not_running(sets, applied, processes)


def unreachable(address: str, port: int) -> str:
    """Why nobody can reach the API there; empty: we can."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.settimeout(CONNECTING)
        try:
            # Only an address of ours can be taken.
            probe.bind((address, 0))
        except OSError:
            return f"the node has no address {address}, which it had"
        if not port:
            return ""
        try:
            probe.connect((address, port))
        except OSError as error:
            return f"the API does not answer at {address}: {error.strerror or 'in time'}"
    return ""


def not_running(sets: tuple[str, ...], applied: str, processes: Iterable[Process]) -> str:
    """Which of the executables that the node was told to start does not run, nor has ended well."""
    file = next((name for name in map(Path, sets) if name.exists()), None)
    if file is None:
        return ""
    if not Path(applied).exists():
        return "its cells are not made yet"
    known = {process.id: process for process in processes}
    for id_ in declared(file):
        process = known.get(id_)
        if process is None:
            return f"executable {id_} was not started"
        if process.state is State.ENDED and process.code != 0:
            return f"executable {id_} has failed"
    return ""


def declared(file: Path) -> list[str]:
    """The executables in the JSON form of CellServiceApplyRequest, as PID 1 calls them. What cannot
    be read is the runtime's to complain of."""
    try:
        entries = json.loads(file.read_text())["executables"]
        return [_id_of(entry) for entry in entries]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []


def _id_of(entry: Mapping[str, Any]) -> str:
    cell = entry.get("cellName", entry.get("cell_name", ""))
    return f"{cell}:{entry['executable']['name']}"
