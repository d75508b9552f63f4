"""How long the API is away when the runtime is killed, beside its own start at boot."""

import re

import grpc

from bench import boots
from bench.measurement import Measurement, median
from testkit.machines import Machine

PROCS = "/sys/fs/cgroup/auraed/runtime/cgroup.procs"
ENDED = boots.STAMP + r"runtime: ended by signal 9; starting it again (?:at once|in ([0-9.]+) s)"
READY = boots.STAMP + r"runtime ready"
# proc_pid_stat(5), field 22: when the process was started since boot, in ticks of which every
# machine that we run on has 100 a second.
START_TIME = f"cut -d' ' -f22 /proc/$(head -n 1 {PROCS})/stat"
TICKS = 100


def measure(machine: Machine, kills: int) -> list[Measurement]:
    """The first figure is of the machine's boot: measure before the runtime is killed otherwise."""
    started = int(machine.system.read(START_TIME)) / TICKS
    cold = _last(READY, machine.console.text) - started
    away = [_kill(machine) for _ in range(kills)]
    method = (
        f"kernel's clock, PID 1's lines on the console; median of {kills} kills, the first of "
        "which is followed by a start at once, the others by one that is put off, not counted"
    )
    return [
        Measurement(
            name="runtime's start at boot to API ready",
            value=cold,
            unit="s",
            method="start time of its process to PID 1's line, kernel's clock",
        ),
        Measurement(
            name="SIGKILL of the runtime to API ready", value=median(away), unit="s", method=method
        ),
        Measurement(
            name="API back over its start at boot",
            value=median(away) / cold,
            unit="ratio",
            bar=1.1,
            method=f"{method}, over the start at boot of the same machine",
        ),
    ]


def _kill(machine: Machine) -> float:
    """Seconds from the end of the runtime until the next one is ready, without those that PID 1
    puts off a start after several ends."""
    # Its own death is what the command does: the answer may not come any more.
    try:
        machine.system.start("kill", f"kill -9 $(cat {PROCS})")
    except grpc.RpcError as e:
        if e.code() is not grpc.StatusCode.UNAVAILABLE:
            raise
    said = machine.console.wait_for(ENDED, boots.BOOT_SECONDS)
    ended, put_off = float(said[1]), float(said[2] or 0)
    ready = float(machine.console.wait_for(READY, boots.BOOT_SECONDS)[1])
    machine.wait_until_serving()
    return ready - ended - put_off


def _last(pattern: str, text: str) -> float:
    return float(re.findall(pattern, text)[-1])
