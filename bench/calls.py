"""Latency and throughput of the API for a remote caller, beside other ways to start a process."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from aurae.cells.v0 import cells_pb2 as cells
from aurae.discovery.v0 import discovery_pb2 as discovery
from aurae.node.v0 import node_pb2 as node
from google.protobuf.duration_pb2 import Duration

from bench.measurement import Measurement, median, p99
from testkit.machines import Machine

GUEST: Final = Path(__file__).parent / "guest"
SCRIPT_SECONDS: Final = 300.0
CELL: Final = "bench"
REMOTE: Final = "by the client's clock, over mTLS from the host, one call at a time"
THROUGHPUT_SECONDS: Final = 5.0
RELOADS: Final = 5


def measure(machine: Machine, runs: int) -> list[Measurement]:
    """All figures of calls. `runs` samples each."""
    latencies = _latencies(machine, runs)
    peers: dict[str, list[float]] = _script(
        machine, "processes.py", "/run/bench", str(runs), mount=True
    )
    found = []
    for name, samples in latencies.items():
        for which, value in (("median", median(samples)), ("p99", p99(samples))):
            found.append(
                Measurement(
                    name=f"{name} {which}",
                    value=value * 1e3,
                    unit="ms",
                    method=f"{runs}x, {REMOTE}",
                )
            )
    for name, title in (
        ("crun", "crun run, to its end"),
        ("unshare", "unshare -mpiuC --fork and exec, to its end"),
        ("vfork", "C vfork+exec, to its end"),
    ):
        found.append(
            Measurement(
                name=f"{title}, median",
                value=median(peers[name]) * 1e3,
                unit="ms",
                method=f"{runs}x in the same guest, after the calls; see bench/guest/processes.py",
            )
        )
    crun = median(peers["crun"])
    found += [
        Measurement(
            name="Start over crun run",
            value=median(latencies["Start"]) / crun,
            unit="ratio",
            bar=1.0,
            method="medians of the same run: Start in an allocated cell over crun run of true",
        ),
        Measurement(
            name="Start to Wait over crun run",
            value=median(latencies["Start to Wait"]) / crun,
            unit="ratio",
            method="the same, with the executable (true) run to its end",
        ),
        Measurement(
            name="Allocate and Start of an isolated cell over unshare",
            value=median(
                [
                    allocate + start
                    for allocate, start in zip(
                        latencies["Allocate, isolated"], latencies["Start, isolated"], strict=True
                    )
                ]
            )
            / median(peers["unshare"]),
            unit="ratio",
            bar=3.0,
            method="medians of the same run: both calls over unshare -mpiuC --fork and true",
        ),
        _throughput(machine),
        *_reload(machine),
    ]
    return found


def memory(machine: Machine) -> list[Measurement]:
    """PSS of auraed's own processes, while nothing else is asked of them."""
    kib: dict[str, float] = _script(machine, "memory.py")
    bars = {"initd": 12.0}
    method = "sum of Pss in /proc/PID/smaps_rollup by cgroup, after boot and a few calls"
    each = [
        Measurement(
            name=f"memory of {name}",
            value=kib[name] / 1024,
            unit="MiB",
            bar=bars.get(name),
            method=method,
        )
        for name in ("initd", "network", "runtime")
    ]
    total = sum(m.value for m in each)
    return [
        *each,
        Measurement(name="memory of all", value=total, unit="MiB", bar=100, method=method),
    ]


def _latencies(machine: Machine, runs: int) -> dict[str, list[float]]:
    rounds = [_round(machine, f"{CELL}-{number}") for number in range(runs + 1)]
    # The first round warms up.
    return {name: [taken[name] for taken in rounds[1:]] for name in rounds[0]}


def _round(machine: Machine, cell: str) -> dict[str, float]:
    """Seconds of each call in the life of one cell."""
    api = machine.api.cells
    sleeper = cells.Executable(name="sleeper", command="exec sleep 1000")
    short = cells.Executable(name="short", command="true")
    five_seconds = Duration(seconds=5)

    def start_to_wait() -> None:
        api.Start(cells.CellServiceStartRequest(cell_name=cell, executable=short))
        api.Wait(cells.CellServiceWaitRequest(cell_name=cell, executable_name="short"))

    allocate = cells.CellServiceAllocateRequest(cell=cells.Cell(name=cell))
    start = cells.CellServiceStartRequest(cell_name=cell, executable=sleeper)
    stop = cells.CellServiceStopRequest(
        cell_name=cell, executable_name="sleeper", grace=five_seconds
    )
    free = cells.CellServiceFreeRequest(cell_name=cell)
    taken = {
        "Allocate": _timed(lambda: api.Allocate(allocate)),
        "Start": _timed(lambda: api.Start(start)),
        "Stop": _timed(lambda: api.Stop(stop)),
        "Start to Wait": _timed(start_to_wait),
        "Free": _timed(lambda: api.Free(free)),
    }
    allocate.cell.isolate_process = True
    return taken | {
        "Allocate, isolated": _timed(lambda: api.Allocate(allocate)),
        "Start, isolated": _timed(lambda: api.Start(start)),
        "Free, isolated": _timed(lambda: api.Free(free)),
    }


def _throughput(machine: Machine) -> Measurement:
    """Discover, as many at a time as hide the round trip."""
    stub = machine.api.discovery
    request = discovery.DiscoverRequest()
    waiting = 16
    end = time.monotonic() + THROUGHPUT_SECONDS
    begin = time.monotonic()
    done = 0
    while time.monotonic() < end:
        for call in [stub.Discover.future(request) for _ in range(waiting)]:
            call.result()
            done += 1
    rate = done / (time.monotonic() - begin)
    return Measurement(
        name="calls per second",
        value=rate,
        unit="1/s",
        method=f"Discover from one host client, {waiting} at a time, {THROUGHPUT_SECONDS:g} s",
    )


def _reload(machine: Machine) -> list[Measurement]:
    """PID 1 replaced by itself: until the next program answers, nothing is started."""
    request = node.ReloadDaemonRequest()
    pauses = [
        machine.api.node.ReloadDaemon(request).pause.ToNanoseconds() / 1e9
        for _ in range(RELOADS + 1)
    ][1:]
    starts: list[float] = _script(machine, "interpreter.py", str(RELOADS))
    method = f"{RELOADS}x in one guest, median"
    return [
        Measurement(
            name="reload of PID 1, pause", value=median(pauses) * 1e3, unit="ms", method=method
        ),
        Measurement(
            name="reload of PID 1 over a start of Python",
            value=median(pauses) / median(starts),
            unit="ratio",
            # 500 ms, where Python starts in 12 ms.
            bar=40,
            method=f"medians of the same guest, {RELOADS}x each: pause over python3 -I -S -c pass",
        ),
    ]


def _script(machine: Machine, name: str, *args: str, mount: bool = False) -> Any:
    """Run a script of `guest/` in the guest; what it printed as JSON."""
    command = 'exec python3 -I -S -c "$@"'
    if mount:
        command = f"mkdir -p /run/bench && mount -t erofs -o ro /dev/vda /run/bench && {command}"
    done = machine.system.run(command, (GUEST / name).read_text(), *args, timeout=SCRIPT_SECONDS)
    if done.exit_code != 0:
        raise RuntimeError(f"{name} in the guest: {done}")
    return json.loads(done.stdout)


def _timed(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin
