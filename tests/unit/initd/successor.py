"""A process owner that replaces itself by exec(2), again and again, while its processes run.

`successor.py FOLDER TIMES`: starts processes, hands over TIMES times, waits until all have ended,
and prints what became of them.
"""

import json
import sys
import time
from pathlib import Path

from initd.handover import program
from initd.processes.model import Spawn, State
from tests.unit.initd.owner import Owner

ENV = {"PATH": "/usr/bin:/bin"}
COUNTERS = 8
LINES = 3000
# Seconds that each program looks after the processes.
SHIFT = 0.05


def sh(name: str, script: str) -> Spawn:
    return Spawn(id=name, argv=("sh", "-c", script), cgroup=name, env=ENV)


def start(owner: Owner) -> None:
    count = f"i=0; while [ $i -lt {LINES} ]; do i=$((i+1)); echo $i; echo e$i >&2; done; exit"
    for number in range(COUNTERS):
        owner.processes.spawn(sh(f"counter-{number}", f"{count} {number}"), {})
    owner.processes.spawn(sh("ended", "echo before; exit 9"), {})
    owner.until_ended("ended")
    owner.processes.spawn(sh("stubborn", "trap '' TERM; echo up; while :; do sleep 1; done"), {})
    owner.until(lambda: owner.output(owner.process("stubborn")) == b"up\n")
    owner.processes.stop("stubborn", 1.0)


def main() -> None:
    folder, times = Path(sys.argv[1]), int(sys.argv[2])
    fd = program.given(sys.argv[3:])
    if fd is None:
        owner = Owner(folder)
        start(owner)
    else:
        owner = Owner(folder, program.take(fd))
    owner.loop.watch_signals({})
    done = time.monotonic() + SHIFT
    while time.monotonic() < done:
        owner.turn(0.01)
    if times:
        # Some end now, while nobody looks.
        command = (sys.executable, __file__, str(folder), str(times - 1))
        with program.unheard():
            program.replace(owner.save(), command)
    owner.until(lambda: not list(owner.processes.living()))
    later = owner.processes.spawn(sh("later", "exit 1"), {})
    owner.until_ended("later")
    result = {
        "processes": [
            {**process._asdict(), "meta": dict(process.meta)} for process in owner.processes.list()
        ],
        "descriptors": len(list(Path("/proc/self/fd").iterdir())),
        "serial": later.serial,
        "ended": sum(p.state is State.ENDED for p in owner.processes.list()),
    }
    sys.stdout.write(json.dumps(result))


if __name__ == "__main__":
    main()
