"""The road down: one plan, whoever asked for it, and bounded in whole."""

import os
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from initd.linux import power, spawn
from initd.linux.mount import MountFlag, mount, umount
from initd.log import Log
from initd.loop import Loop
from initd.processes.model import How
from initd.processes.processes import Processes
from initd.services import Service
from initd.watchdog import Watchdog

# Seconds that each part may take; what does not end in them is killed.
DRAIN: Final = 10.0
GRACE: Final = 10.0
KILL: Final = 3.0
WRITE: Final = 20.0

_KEXEC_LOADED: Final = Path("/sys/kernel/kexec_loaded")

ACTIONS: Final = {
    How.POWEROFF: power.Action.POWER_OFF,
    How.REBOOT: power.Action.RESTART,
    How.HALT: power.Action.HALT,
    How.KEXEC: power.Action.KEXEC,
}

_LAST_WORDS: Final = {
    How.POWEROFF: "power off",
    How.REBOOT: "restart",
    How.HALT: "halted",
    How.KEXEC: "next kernel",
}


def stop_all(loop: Loop, log: Log, processes: Processes, services: Sequence[Service]) -> None:
    """Refuse work, end the workloads, and then the services in their order, the API first: until
    then it answers whoever asks what the machine waits for."""
    _refuse(processes, services)
    living = list(processes.living())
    if living:
        _timed(log, f"stop {len(living)} processes", lambda: _end_processes(loop, log, processes))
    stop_services(loop, log, processes, services)


def stop_services(loop: Loop, log: Log, processes: Processes, services: Sequence[Service]) -> None:
    """As `stop_all`, and let the workloads run on."""
    _refuse(processes, services)
    for service in services:
        _end_service(loop, log, service)


def _refuse(processes: Processes, services: Sequence[Service]) -> None:
    processes.close()
    for service in services:
        service.retire()


def finish(log: Log, how: How, watchdog: Watchdog) -> None:
    """Write and unmount the file systems, and end the machine. Returns only where that fails.

    The watchdog stays for a restart that hangs. A machine that is to stand still does without."""
    watchdog.feed()
    # Whatever is left, wherever it lives: nothing may write any more.
    with suppress(ProcessLookupError):
        os.kill(-1, signal.SIGKILL)
    _timed(log, "file systems", lambda: _write_file_systems(log, watchdog))
    log.info(_LAST_WORDS[how])
    if log.console is not None:
        log.console.flush()
    if how is not How.REBOOT:
        watchdog.disarm()
    power.reboot(ACTIONS[how])


def kexec_is_loaded() -> bool:
    """Whether there is a kernel that KEXEC would start."""
    try:
        return _KEXEC_LOADED.read_text().strip() == "1"
    except FileNotFoundError:
        # A kernel without kexec.
        return False


def wait(loop: Loop, seconds: float, done: Callable[[], bool]) -> bool:
    """Run the loop until `done`, at most so long; whether it was done."""
    deadline = time.monotonic() + seconds
    while not done():
        left = deadline - time.monotonic()
        if left <= 0:
            return False
        loop.turn(left)
    return True


def _end_service(loop: Loop, log: Log, service: Service) -> None:
    service.terminate()

    def run() -> None:
        if not wait(loop, DRAIN, lambda: service.pid is None):
            log.warning(f"{service.name}: did not end in {DRAIN:g} s: killed")
            service.kill()
            wait(loop, KILL, lambda: service.pid is None)

    _timed(log, f"stop {service.name}", run)


def _end_processes(loop: Loop, log: Log, processes: Processes) -> None:
    for process in processes.living():
        processes.stop(process.id, GRACE)
    if wait(loop, GRACE, lambda: not processes.living()):
        return
    # The grace of each has ended by now, too: this is for what was being stopped with more.
    processes.kill_all()
    if not wait(loop, KILL, lambda: not processes.living()):
        names = ", ".join(process.id for process in processes.living())
        log.warning(f"still there after SIGKILL: {names}")


def _write_file_systems(log: Log, watchdog: Watchdog) -> None:
    """In a child: a disk that answers no more blocks sync(2) for ever, but must not block us."""
    child = spawn.in_child(_sync_and_unmount)
    deadline = time.monotonic() + WRITE
    while os.waitpid(child, os.WNOHANG)[0] == 0:
        if time.monotonic() > deadline:
            log.error(f"file systems: not written in {WRITE:g} s: going on without")
            return
        watchdog.feed()
        time.sleep(0.01)


def _sync_and_unmount() -> None:
    os.sync()
    # Those of the kernel itself hold nothing to write.
    lines = Path("/proc/self/mounts").read_text().splitlines()
    fields = [line.split() for line in lines]
    devices = [target for source, target, *_ in fields if source.startswith("/dev/")]
    for target in reversed(devices):
        if target != "/":
            try:
                umount(target)
            except OSError:
                # Somebody holds it: then at least nothing is written any more.
                with suppress(OSError):
                    mount("", target, flags=MountFlag.REMOUNT | MountFlag.RDONLY)
    os.sync()


def _timed(log: Log, name: str, run: Callable[[], None]) -> None:
    began = time.monotonic()
    run()
    log.info(f"{name:<18}{(time.monotonic() - began) * 1000:6.0f} ms")
