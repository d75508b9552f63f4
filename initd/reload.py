"""The operation `reload`: PID 1 becomes the program that is installed now."""

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from initd.control import Control
from initd.errors import FailedPrecondition
from initd.linux.spawn import Spawner
from initd.linux.splice import make_pipe
from initd.log import Log
from initd.loop import Loop
from initd.processes import wire
from initd.processes.children import Children, Ending
from initd.version import VERSION

if TYPE_CHECKING:
    from initd.handover.model import State

# Seconds that the next program has to show that it can read our state.
TRIAL: Final = 60.0
_STATE_FD: Final = 3
_SAID: Final = 4096


class Reload:
    """One at a time: `begin` tries the next program out beside us; once `due`, `replace` runs it.

    Nothing has changed until then, and a program that does not start changes nothing at all."""

    def __init__(
        self,
        loop: Loop,
        children: Children,
        spawner: Spawner,
        log: Log,
        save: Callable[[], "State"],
        init: str = "",
    ) -> None:
        """`init` is the program to try out, the machine's own if it is empty."""
        self.due = False
        self._loop = loop
        self._children = children
        self._spawner = spawner
        self._log = log
        self._save = save
        self._init = init
        self._control: Control | None = None

    def begin(self, control: Control) -> None:
        """Answers later, by `control`. FailedPrecondition: one is under way."""
        if self._control is not None:
            raise FailedPrecondition("reload: another one is under way: wait for it")
        pid, said = self._start_trial()
        # A trial that hangs is killed, which is an end like another.
        timer = self._loop.later(TRIAL, lambda: _kill(pid))

        def ended(ending: Ending) -> None:
            timer.cancel()
            self._tried(ending, said)

        self._children.add(pid, ended)
        control.owe()
        self._control = control

    def replace(self) -> None:
        """Become the next program. Returns only when that cannot be done; with signals blocked."""
        from initd.handover import program

        self.due = False
        self._log.info("reload: handing over to the next program")
        if self._log.console is not None:
            self._log.console.flush()
        try:
            program.replace(self._save())
        except Exception as error:  # Nothing has changed: whatever it was, we go on.
            self.refuse(error)

    def refuse(self, error: Exception) -> None:
        """Tell whoever asked."""
        self._log.error(f"reload: {error}")
        control, self._control = self._control, None
        self.due = False
        if control is not None:
            control.answer(wire.error_answer(error))

    def _start_trial(self) -> tuple[int, int]:
        from initd.handover import program

        init = self._init or program.INIT
        read, write = make_pipe()
        null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        state = program.write(self._save())
        fds = {0: null, 1: write, 2: write, _STATE_FD: state}
        argv = (init, program.CHECK, str(_STATE_FD))
        try:
            return self._spawner(init, argv, {}, cwd="/", fds=fds, cgroup=None), read
        except BaseException:
            os.close(read)
            raise
        finally:
            for fd in (null, write, state):
                os.close(fd)

    def _tried(self, ending: Ending, said: int) -> None:
        try:
            text = os.read(said, _SAID).decode(errors="replace")
        except BlockingIOError:
            text = ""
        finally:
            os.close(said)
        if ending == Ending(0, None):
            self.due = True
            return
        # The last line of a traceback is its fact.
        fact = text.strip().rpartition("\n")[2] or f"it ended with {ending}"
        self.refuse(
            FailedPrecondition(f"PID 1: the next program does not start, this one goes on: {fact}")
        )


def answer(control: Control, began: float) -> float:
    """Tell whoever asked that this program has taken over. Seconds since `began`."""
    pause = time.monotonic() - began
    control.answer({"ok": {"version": VERSION, "pause": pause}})
    return pause


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
