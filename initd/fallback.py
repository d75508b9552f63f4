"""What is left of PID 1 when nothing else works: it reaps, and it can end the machine.

Every fatal error of PID 1 ends here, and so does a program that cannot go on with the state of the
one before it: if PID 1 ended instead, the kernel would panic, and take every workload along. It
needs `os` and `signal` of Python, and neither a file nor memory that it does not have yet.

Workloads run on. Their output is thrown away, or they would wait for ever at a full pipe. The API
cannot reach PID 1 any more. A watchdog that was started is not fed, so it resets the machine.
"""

import os
import signal
import stat
import time
from contextlib import suppress
from typing import Final, NoReturn

# What a signal asks for: the name of an action of `initd.linux.power`, and the letter of
# /proc/sysrq-trigger for where that module cannot be had.
ROADS: Final = {
    signal.SIGTERM: ("POWER_OFF", "o"),
    signal.SIGINT: ("RESTART", "b"),
    signal.SIGPWR: ("POWER_OFF", "o"),
}
# Seconds between two looks at the pipes, and those that processes have to end.
TURN: Final = 0.1
GRACE: Final = 10.0
_CHUNK: Final = 1 << 18
_ATTEMPT: Final = 5.0


def run(reason: str) -> NoReturn:
    """Until the machine ends. Nothing that fails here ends it."""
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    with suppress(Exception):
        _say(f"fatal: {reason}")
        _say("workloads run on without API and logs; SIGTERM to PID 1 or ctrl-alt-del end it")
    with suppress(Exception):
        _hang_up()
    while True:
        try:
            road = turn()
            if road is not None:
                _go_down(*road)
        except Exception as error:
            with suppress(Exception):
                _say(f"minimal loop: {error}")
            time.sleep(TURN)


def turn(seconds: float = TURN) -> tuple[str, str] | None:
    """Wait for a signal, reap and empty the pipes. The road that was asked for, if any."""
    heard = signal.sigtimedwait(set(ROADS), seconds)
    reap()
    drain(pipes())
    return ROADS.get(signal.Signals(heard.si_signo)) if heard is not None else None


def reap() -> bool:
    """All that have ended by now; whether there are other children."""
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return False
        if pid == 0:
            return True


def pipes() -> list[int]:
    """The read ends that we hold. PID 1 made them such that they do not block; the write ends that
    it keeps for services do."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        # The folder's own descriptor is closed by now.
        with suppress(OSError):
            if stat.S_ISFIFO(os.fstat(int(name)).st_mode) and not os.get_blocking(int(name)):
                found.append(int(name))
    return found


def drain(descriptors: list[int]) -> None:
    """Throw away what they hold."""
    for fd in descriptors:
        with suppress(OSError):
            # One piece of each, so that a writer that never rests does not keep us from the others.
            os.read(fd, _CHUNK)


def _hang_up() -> None:
    """Whoever asks PID 1 must hear that nobody answers, and not wait."""
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            if stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                os.close(int(name))


def _go_down(action: str, letter: str) -> None:
    _say(f"going down: {action}")
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.kill(-1, number)
        deadline = time.monotonic() + GRACE
        while reap() and time.monotonic() < deadline:
            drain(pipes())
            time.sleep(TURN)
    os.sync()
    try:
        from initd.linux import power

        power.reboot(power.Action[action])
    except Exception as error:
        _say(f"reboot: {error}")
    fd = os.open("/proc/sysrq-trigger", os.O_WRONLY)
    os.write(fd, letter.encode())
    os.close(fd)
    # The kernel needs a moment; if it does not do it, we are asked again.
    time.sleep(_ATTEMPT)


def _say(text: str) -> None:
    """To the console and the kernel's log."""
    line = "".join(c if c.isprintable() else " " for c in text)[:900]
    said = {"/dev/kmsg": f"<2>auraed: {line}\n", "/dev/console": f"auraed: {line}\r\n"}
    for path, data in said.items():
        with suppress(OSError):
            fd = os.open(path, os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                os.write(fd, data.encode(errors="replace"))
            finally:
                os.close(fd)
