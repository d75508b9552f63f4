"""The next program: it is tried out beside us, and then it takes our place."""

import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final, NoReturn

from initd.handover import codec
from initd.handover.model import State
from initd.linux import memfd

INIT: Final = "/sbin/init"
# Its first argument, before the number of the state's descriptor: take over, or only try to read.
TAKE_OVER: Final = "handover"
CHECK: Final = "check"

_NAME: Final = "auraed-state"


def write(state: State) -> int:
    """A descriptor with the state, ours to close."""
    return memfd.write(_NAME, codec.encode(state))


def given(arguments: list[str]) -> int | None:
    """The state's descriptor, where we were started to take over. The kernel passes words of its
    command line that it does not know to PID 1, so the word alone says nothing."""
    match arguments:
        case [word, number] if word == TAKE_OVER and number.isascii() and number.isdigit():
            return int(number) if memfd.is_sealed(int(number)) else None
        case _:
            return None


def take(fd: int) -> State:
    """The state in `fd`, which is closed; what it keeps open is ours alone from now on.

    Raises StateError."""
    try:
        state = codec.decode(memfd.read(fd))
    finally:
        os.close(fd)
    for descriptor in codec.descriptors(state):
        os.set_inheritable(descriptor, False)
    return state


def check(number: str) -> int:
    """Whether this program, run beside PID 1, can take its state over: 0, or 1 and says why."""
    # What PID 1 would import, too: a module that is missing or broken shows here.
    from initd import fallback, first, machine  # noqa: F401
    from initd.processes import confined, inits  # noqa: F401

    try:
        codec.decode(memfd.read(int(number)))
    except (codec.StateError, OSError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def replace(state: State, command: Sequence[str] = (INIT,)) -> NoReturn:
    """Become the next program. Call it with all signals blocked (`unheard`): what comes meanwhile
    waits. Raises OSError when there is none, and then nothing has changed."""
    fd = write(state)
    kept = [fd, *codec.descriptors(state)]
    try:
        for descriptor in kept:
            os.set_inheritable(descriptor, True)
        os.execv(command[0], [*command, TAKE_OVER, str(fd)])
    finally:
        for descriptor in kept:
            os.set_inheritable(descriptor, False)
        os.close(fd)


@contextmanager
def unheard() -> Iterator[None]:
    """No signal is delivered within. A blocked one waits, also over exec(2), where one that is
    not would meet the default handling, which for PID 1 is to drop it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
