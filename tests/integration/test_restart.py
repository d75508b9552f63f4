"""The runtime dies and comes back; PID 1 and every workload do not notice."""

import os
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from typing import Any, Final

import grpc
from aurae.cells.v0 import cells_pb2 as pb
from aurae.discovery.v0 import discovery_pb2
from google.protobuf.duration_pb2 import Duration
from grpc_health.v1 import health_pb2

from testkit.api import Api
from testkit.cells import forest
from testkit.machines import Machine
from testkit.refusals import refused
from tests.integration.descriptors import COUNT_DESCRIPTORS

# With AURAE_SOAK=1 the counts are large.
SOAK: Final = bool(os.environ.get("AURAE_SOAK"))
LOGGING, CALLERS, KILLS = (50, 20, 100) if SOAK else (10, 4, 3)

# What one call may take in all. gRPC's client tries an address that was often gone ever less often.
LOAD_SECONDS: Final = 300.0 + 60.0 * KILLS

# Descriptors that PID 1 may open by itself meanwhile: the watchdog's, once its driver is there, and
# that of its look at the API. One lost with each kill would be more.
COMING: Final = 2

RUNTIME = "/sys/fs/cgroup/auraed/runtime/cgroup.procs"
NETWORK = "/sys/fs/cgroup/auraed/network/cgroup.procs"


def kill_runtime(machine: Machine) -> int:
    """Kill it and wait until another one answers. The process ID of the one that was killed.

    Whoever is asked while it is away hears UNAVAILABLE."""
    pid = int(machine.system.read(f"cat {RUNTIME}").split()[0])
    # Its own death is what the command does: the answer may not come any more.
    try:
        machine.system.start("kill", f"sleep 1; kill -9 {pid}")
        codes = set()
        while True:
            try:
                machine.api.discovery.Discover(discovery_pb2.DiscoverRequest(), timeout=10)
            except grpc.RpcError as e:
                codes.add(e.code())
                break
        assert codes == {grpc.StatusCode.UNAVAILABLE}
    finally:
        machine.wait_until_serving()
    return pid


def test_cells_executables_and_logs_are_there_after_the_runtime_was_killed(
    machine: Machine,
) -> None:
    limits = {"cpu": pb.CpuController(weight=77), "memory": pb.MemoryController(low=0)}
    with machine.cell("kept", **limits) as kept, machine.cell("kept/child") as child:
        kept.start("ended", "echo before; exit 9")
        kept.wait("ended")
        kept.start("counts", "n=0; while :; do n=$((n+1)); echo $n; sleep 0.2; done")
        child.start("sleeps", "exec sleep 1000", "an argument", uid=5)
        # Ends while nobody is there to see it.
        child.start("meanwhile", "sleep 3; echo done; exit 6")
        before = {node.cell.name: node for node in forest(machine.api)}

        old = kill_runtime(machine)

        after = {node.cell.name: node for node in forest(machine.api)}
        assert after["kept"].cell == before["kept"].cell
        assert after["kept"].executables == before["kept"].executables
        assert after["kept/child"].executables[0] == before["kept/child"].executables[0]
        assert child.wait("meanwhile").exit_code == 6
        assert child.lines("meanwhile")["stdout"] == ["done"]
        assert kept.lines("ended")["stdout"] == ["before"]
        numbers = []
        for item in kept.follow("counts"):
            numbers.append(int(item.line))
            if len(numbers) == 30:
                break
        assert numbers == list(range(1, 31))
        assert int(machine.system.read(f"cat {RUNTIME}").split()[0]) != old
        assert f"kill -9 {old}" not in machine.console.text


def test_what_was_kept_can_be_stopped_and_freed_afterwards(machine: Machine) -> None:
    with machine.cell("kept") as kept:
        kept.start("sleeps", "exec sleep 1000")
        kill_runtime(machine)
        kept.stop("sleeps", grace=1)
        kept.start("sleeps", "echo again")
        assert kept.lines("sleeps")["stdout"] == ["again"]
        kept.free()


def test_the_console_says_that_it_ended_and_is_started_again(machine: Machine) -> None:
    said = "runtime: ended by signal 9; starting it again"
    before = machine.console.text.count(said)
    kill_runtime(machine)
    assert machine.console.text.count(said) == before + 1


def test_the_network_service_comes_back_too_and_the_address_stays(machine: Machine) -> None:
    pid = machine.system.read(f"cat {NETWORK}").split()[0]
    address = "ip -4 -o addr show eth0"
    before = machine.system.read(address).split()[3]
    machine.system.read(f"kill -9 {pid}; while grep -qx {pid} {NETWORK}; do sleep 0.1; done")
    machine.console.wait_for("network: ended by signal 9", timeout=30)
    machine.console.wait_for("network: eth0: going on with", timeout=60)
    assert machine.system.read(address).split()[3] == before


def test_pid_1_cannot_be_killed_by_a_workload_as_root(machine: Machine) -> None:
    machine.system.run("kill -9 1; kill -STOP 1; kill -SEGV 1")
    assert machine.system.read("cat /proc/1/comm; echo alive").split()[-1] == "alive"


# Writes a number a line, for ever; fast enough that every kill comes between two lines.
COUNT = """
import itertools, time
for number in itertools.count(1):
    print(number, flush=True)
    time.sleep(0.02)
"""

# Kills the runtime again and again: each time once it has served for a moment, never the same one.
KILL = """
import os, random, signal, socket, sys, time
kills, seed = map(int, sys.argv[1:])
random.seed(seed)

def runtime():
    with open("/sys/fs/cgroup/auraed/runtime/cgroup.procs") as file:
        return int((file.read().split() or ["0"])[0])

def serves():
    with socket.socket(socket.AF_UNIX) as there:
        there.settimeout(60)
        try:
            there.connect("/run/aurae/aurae.sock")
            return bool(there.recv(1))
        except OSError:
            return False

for _ in range(kills):
    while not serves():
        time.sleep(0.05)
    time.sleep(random.uniform(0.1, 3))
    old = runtime()
    began = time.monotonic()
    os.kill(old, signal.SIGKILL)
    while runtime() in (0, old) or not serves():
        time.sleep(0.01)
    print(f"{time.monotonic() - began:.3f}", flush=True)
"""


def wait_for_api(api: Api) -> None:
    """Until somebody listens again, or for some time: without asking in a loop."""
    with suppress(grpc.RpcError):
        api.health.Check(health_pb2.HealthCheckRequest(), timeout=30, wait_for_ready=True)


class Caller:
    """Calls again what the runtime's death cut short; anything else that fails is a failure."""

    def __init__(self, machine: Machine, number: int) -> None:
        self.cell = f"load-{number}"
        self.isolated = number % 2 == 1
        self.unavailable = 0
        self.rounds = 0
        self._channel = machine.connect()
        self._api = Api.on(self._channel)
        self._random = random.Random(number)

    def close(self) -> None:
        self._channel.close()

    def call(self, method: Any, request: Any, *excused: grpc.StatusCode) -> Any:
        """`excused`: what the answer may be if an earlier try may have been carried out."""
        deadline = time.monotonic() + LOAD_SECONDS
        again = False
        while True:
            try:
                return method(request, timeout=60)
            except grpc.RpcError as e:
                if again and e.code() in excused:
                    return None
                if e.code() is not grpc.StatusCode.UNAVAILABLE or time.monotonic() > deadline:
                    raise
                self.unavailable += 1
                again = True
                wait_for_api(self._api)

    def round(self) -> None:
        """A cell's life: one executable that ends by itself, one that is stopped."""
        cells, code = self._api.cells, self._random.randrange(256)
        name: dict[str, Any] = {"cell_name": self.cell}
        there = grpc.StatusCode.ALREADY_EXISTS
        gone = grpc.StatusCode.NOT_FOUND
        cell = pb.Cell(name=self.cell, isolate_process=self.isolated)
        self.call(cells.Allocate, pb.CellServiceAllocateRequest(cell=cell), there)
        for executable in (
            pb.Executable(name="ends", command=f"echo said; exit {code}"),
            pb.Executable(name="stays", command="exec sleep 1000"),
        ):
            self.call(cells.Start, pb.CellServiceStartRequest(executable=executable, **name), there)
        wait = pb.CellServiceWaitRequest(executable_name="ends", **name)
        assert self.call(cells.Wait, wait).status.exit_code == code
        self.call(cells.Stop, pb.CellServiceStopRequest(executable_name="stays", **name))
        wait.executable_name = "stays"
        assert self.call(cells.Wait, wait).status.signal == 15
        self.call(cells.Free, pb.CellServiceFreeRequest(**name), gone)
        self.rounds += 1

    def until(self, done: threading.Event) -> None:
        while not done.is_set():
            self.round()


def descriptors(machine: Machine) -> int:
    """How many PID 1 has. The executable is the same each time, and so is what it costs."""
    machine.system.start("descriptors", COUNT_DESCRIPTORS)
    return int(machine.system.lines("descriptors")["stdout"][0])


def test_under_load_nothing_is_lost_doubled_or_left(machine: Machine) -> None:
    # Those that have ended keep their output, by as many descriptors: let both be there before.
    machine.system.start("killer", "true")
    machine.system.wait("killer")
    descriptors(machine)
    before = descriptors(machine)
    done = threading.Event()
    names = [f"count-{number}" for number in range(LOGGING)]
    with machine.cell("logging") as logging, ExitStack() as stack:
        for name in names:
            logging.start(name, 'exec python3 -ISc "$1"', COUNT)
        callers = [Caller(machine, number) for number in range(CALLERS)]
        for caller in callers:
            stack.callback(caller.close)
        with ThreadPoolExecutor(CALLERS) as pool:
            calling = [pool.submit(caller.until, done) for caller in callers]
            try:
                seed = random.randrange(1 << 32)
                machine.system.start(
                    "killer", 'exec python3 -ISc "$@"', KILL, str(KILLS), str(seed)
                )
                killer = await_end(machine, "killer", timeout=60.0 * KILLS)
            finally:
                done.set()
            for future in calling:
                future.result(timeout=LOAD_SECONDS + 100)
        assert killer.exit_code == 0, f"seed {seed}"
        assert len(machine.system.lines("killer")["stdout"]) == KILLS
        # Each was cut short at least once, and went on.
        assert sum(caller.unavailable for caller in callers) >= KILLS, f"seed {seed}"
        for name in names:
            assert logging.status(name).state == pb.EXECUTABLE_STATE_RUNNING
            logging.stop(name)
            assert logging.wait(name).signal == 15
            numbers = list(map(int, logging.lines(name)["stdout"]))
            assert numbers == list(range(1, len(numbers) + 1)), f"seed {seed}"
            assert len(numbers) > KILLS
    until(lambda: descriptors(machine) <= before + COMING)
    # That no cell, cgroup or process is left is looked at after each test.


def await_end(machine: Machine, executable: str, timeout: float) -> pb.ExecutableStatus:
    """As `wait`, by somebody whose wait is cut short by what he waits for."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            return machine.system.wait(executable, timeout=deadline - time.monotonic())
        except grpc.RpcError as e:
            if e.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
            wait_for_api(machine.api)


def test_a_free_is_finished_by_the_next_runtime(machine: Machine) -> None:
    with ExitStack() as stack:
        going = stack.enter_context(machine.cell("going"))
        inside = stack.enter_context(machine.cell("going/inside"))
        inside.start("deaf", "trap '' TERM; echo up; while :; do sleep 0.1; done")
        assert next(inside.follow("deaf")).line == "up"
        going.start("stays", "exec sleep 1000")
        machine.system.start(
            "kills",
            f"until [ -e /run/aurae/cells/going.freeing ]; do sleep 0.02; done; "
            f"kill -9 $(cat {RUNTIME})",
        )
        free = machine.api.cells.Free.future(
            pb.CellServiceFreeRequest(cell_name="going", grace=Duration(seconds=3)), timeout=60
        )
        error = free.exception()
        assert isinstance(error, grpc.RpcError)
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        machine.wait_until_serving()
        until(lambda: not [n for n in forest(machine.api) if n.cell.name.startswith("going")])
        assert machine.system.read("ls /run/aurae/cells").split() == []
        stack.pop_all()


def until(happened: Callable[[], bool], timeout: float = 60) -> None:
    deadline = time.monotonic() + timeout
    while not happened():
        assert time.monotonic() < deadline, "did not happen in time"


def test_a_runtime_that_cannot_start_is_tried_again_and_the_console_says_why(
    machine: Machine,
) -> None:
    package = "/usr/lib/python3/dist-packages/runtime"
    fails = "parts of the runtime are missing"
    with machine.cell("works") as works:
        works.start("counts", 'exec python3 -ISc "$1"', COUNT)
        # What it would be is hidden by something that fails; uncovered when that was tried often.
        machine.system.start(
            "breaks",
            f"sleep 1; mount -t tmpfs broken {package} && echo 'raise SystemExit(\"{fails}\")' "
            f"> {package}/__init__.py && kill -9 $(cat {RUNTIME}); "
            f"until [ $(grep -c '{fails}' /run/aurae/logs/auraed/runtime) -ge 4 ]; "
            f"do sleep 0.1; done; umount {package}",
        )
        machine.console.wait_for(fails, timeout=120)
        again = r"runtime: ended with exit code 1; starting it again in ([0-9.]+) s"
        first, second = (float(machine.console.wait_for(again, timeout=120)[1]) for _ in range(2))
        assert second == 2 * first
        machine.wait_until_serving()
        assert machine.console.text.count(fails) >= 4
        assert await_end(machine, "breaks", 60).exit_code == 0
        works.stop("counts")
        numbers = list(map(int, works.lines("counts")["stdout"]))
        assert numbers == list(range(1, len(numbers) + 1))


def test_cgroups_that_others_changed_are_told_and_harm_nobody(machine: Machine) -> None:
    top = "/sys/fs/cgroup/aurae"
    with machine.cell("web") as web, machine.cell("pulled") as pulled:
        web.start("own", f"mkdir {top}/web/own && echo $$ > {top}/web/own/cgroup.procs; sleep 1000")
        web.start("away", f"echo $$ > {top}/_system/cgroup.procs; trap '' TERM; exec sleep 1000")
        machine.system.read(f"until grep -q . {top}/web/own/cgroup.procs; do sleep 0.1; done")
        machine.system.read(f"mkdir {top}/foreign; rmdir {top}/pulled")
        with refused(grpc.StatusCode.FAILED_PRECONDITION, "cell foreign: somebody else has made"):
            machine.api.cells.Allocate(pb.CellServiceAllocateRequest(cell=pb.Cell(name="foreign")))
        with refused(grpc.StatusCode.FAILED_PRECONDITION, "cell pulled: somebody else has removed"):
            pulled.start("x", "true")
        kill_runtime(machine)
        assert {"web", "pulled"} >= {n.cell.name for n in forest(machine.api)} - {"_system"}
        assert web.status("own").state == pb.EXECUTABLE_STATE_RUNNING
        assert machine.system.run(f"rmdir {top}/foreign").exit_code == 0
        web.stop("away", grace=0.2)
        assert web.wait("away").signal == 9
