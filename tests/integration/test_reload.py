"""PID 1 is replaced while everything runs on; a program that cannot take over changes nothing, or
is left with the minimal loop, which reaps and ends the machine."""

import os
import sys
import time
from collections.abc import Callable
from typing import Final

import grpc
import pytest
from aurae.cells.v0 import cells_pb2 as pb
from aurae.node.v0 import node_pb2

from testkit.machines import Machine
from testkit.refusals import refused
from tests.integration.descriptors import COUNT_DESCRIPTORS

Boot = Callable[..., Machine]

# With AURAE_SOAK=1 the counts are large.
SOAK: Final = bool(os.environ.get("AURAE_SOAK"))
RELOADS: Final = 50 if SOAK else 3
COUNTERS: Final = 50 if SOAK else 8
SECONDS: Final = 120

PACKAGE: Final = "/usr/lib/python3/dist-packages/initd"


def reload(machine: Machine) -> float:
    """Seconds without PID 1."""
    request = node_pb2.ReloadDaemonRequest()
    answer = machine.api.node.ReloadDaemon(request, timeout=SECONDS)
    assert answer.version
    return answer.pause.ToNanoseconds() / 1e9


def descriptors(machine: Machine) -> int:
    return int(machine.system.read(COUNT_DESCRIPTORS))


def test_pid_1_is_replaced_and_no_line_exit_or_descriptor_is_lost(machine: Machine) -> None:
    with machine.cell("load") as cell:
        cell.start("ended", "echo before; exit 9")
        cell.wait("ended")
        cell.start("stubborn", "trap '' TERM; echo up; while :; do sleep 1; done")
        assert next(cell.follow("stubborn")).line == "up"
        reload(machine)
        before = descriptors(machine)
        done = "/tmp/reloads-are-done"
        for number in range(COUNTERS):
            cell.start(
                f"counter-{number}",
                f"n=0; while [ ! -e {done} ]; do n=$((n+1)); echo $n; "
                f"usleep {COUNTERS * 12500}; done; echo last $n; exit {number}",
            )
        during = descriptors(machine)
        pauses = []
        for turn in range(RELOADS):
            # Some end while there is no PID 1.
            cell.start(f"brief-{turn}", f"echo brief; usleep 500000; exit {turn % 100}")
            pauses.append(reload(machine))
        ended = [cell.wait(f"brief-{turn}") for turn in range(RELOADS)]
        # Two files for each of two streams of a process, also of those that look.
        assert descriptors(machine) - during == 4 * (RELOADS + 1)
        machine.system.read(f"touch {done}")
        for number in range(COUNTERS):
            assert cell.wait(f"counter-{number}").exit_code == number
            *counted, last = cell.lines(f"counter-{number}")["stdout"]
            assert [int(line) for line in counted] == list(range(1, len(counted) + 1))
            assert last == f"last {len(counted)}"
        for turn in range(RELOADS):
            assert ended[turn].exit_code == turn % 100
            assert cell.lines(f"brief-{turn}")["stdout"] == ["brief"]
        assert cell.status("ended").exit_code == 9
        assert cell.lines("ended")["stdout"] == ["before"]
        began = time.monotonic()
        cell.stop("stubborn", grace=1)
        assert time.monotonic() - began > 1
        # And a pipe for each while it runs.
        assert descriptors(machine) - before == 4 * (RELOADS + COUNTERS + 4) - 2
        sys.stdout.write(f"without PID 1: {min(pauses):.3f} to {max(pauses):.3f} s\n")
    machine.system.read("rm /tmp/reloads-are-done")
    assert machine.console.text.count("runtime ready") == 1, "the runtime was not started again"
    # The interpreter of the root, no longer that of the initramfs.
    devices = machine.system.read("stat -L -c %d /proc/1/exe /usr/bin/python3").split()
    assert devices[0] == devices[1]


def test_a_stop_under_way_goes_on_over_a_reload(machine: Machine) -> None:
    with machine.cell("stops") as cell:
        cell.start("stubborn", "trap '' TERM; echo up; while :; do sleep 1; done")
        assert next(cell.follow("stubborn")).line == "up"
        stop = pb.CellServiceStopRequest(cell_name="stops", executable_name="stubborn")
        stop.grace.FromSeconds(8)
        stopping = machine.api.cells.Stop.future(stop, timeout=SECONDS)
        while cell.status("stubborn").state != pb.EXECUTABLE_STATE_STOPPING:
            pass
        reload(machine)
        stopping.result(timeout=SECONDS)
        assert cell.status("stubborn").signal == 9


def test_isolated_cells_go_on_and_new_ones_are_made(machine: Machine) -> None:
    with machine.cell("apart", isolate_process=True) as cell:
        cell.start("sleeps", "exec sleep 1000")
        reload(machine)
        assert cell.status("sleeps").state == pb.EXECUTABLE_STATE_RUNNING
        assert cell.read("cat /proc/sys/kernel/hostname") == "apart\n"
        with machine.cell("apart/below", isolate_process=True) as below:
            assert below.read("hostname") == "below\n"


def test_services_are_looked_after_as_before(machine: Machine) -> None:
    reload(machine)
    network = "/sys/fs/cgroup/auraed/network/cgroup.procs"
    pid = machine.system.read(f"cat {network}").split()[0]
    machine.system.read(f"kill -9 {pid}; while grep -qx {pid} {network}; do sleep 0.1; done")
    machine.console.wait_for("network: ended by signal 9", timeout=SECONDS)
    machine.console.wait_for("network: eth0: going on with", timeout=SECONDS)
    log = machine.daemon_log()
    assert log.count("initd: mounts ") == 1
    assert log.count("initd: reload: ") >= 2


@pytest.mark.parametrize(
    ("broken", "fact"),
    [
        (f"rm {PACKAGE}/machine.py {PACKAGE}/__pycache__/machine.*", "import name 'machine'"),
        (f"rm {PACKAGE}/__pycache__/loop.*; echo '(' > {PACKAGE}/loop.py", "SyntaxError"),
        (
            f"cd {PACKAGE}/handover; rm __pycache__/model.*; "  # noqa: ISC004
            "sed -i 's/^FORMAT: Final = 1/FORMAT: Final = 2/' model.py",
            "has format 1, this program reads 2",
        ),
    ],
    ids=["missing module", "syntax", "other format"],
)
def test_a_program_that_cannot_start_is_refused_and_nothing_changes(
    machine: Machine, broken: str, fact: str
) -> None:
    with machine.cell("kept") as cell:
        cell.start("sleeps", "exec sleep 1000")
        lay_over(machine, broken)
        try:
            with refused(grpc.StatusCode.FAILED_PRECONDITION, "PID 1: the next program", fact):
                reload(machine)
        finally:
            machine.system.read(f"umount {PACKAGE}; rm -r /tmp/broken")
        assert cell.status("sleeps").state == pb.EXECUTABLE_STATE_RUNNING
        reload(machine)


def lay_over(machine: Machine, change: str) -> None:
    """Another version of PID 1's package, over the one of the image."""
    machine.system.read(
        f"cp -a {PACKAGE} /tmp/broken; cd /tmp; rm broken/modules.pack; "
        f"mount --bind /tmp/broken {PACKAGE}; {change}; ls {PACKAGE} >/dev/null"
    )


# Passes its trial, and fails when it is PID 1.
FATAL: Final = f"""
rm {PACKAGE}/__pycache__/machine.*
echo 'import os
def resume(state):
    raise RuntimeError("no way to go on")
' >> {PACKAGE}/machine.py"""


def test_a_program_that_fails_as_pid_1_is_left_with_the_minimal_loop(boot: Boot) -> None:
    # A watchdog would reset the machine after a while, as it should.
    machine = boot(cmdline=("aurae.watchdog=off",))
    # Orphans to reap, output that fills a pipe unless it is taken.
    machine.system.start(
        "works",
        "n=0; while :; do n=$((n+1)); (usleep 1000 &); "
        "head -c 100000 /dev/zero; "
        "[ $((n % 50)) = 0 ] && echo zombies $(grep -l '^State:.Z' /proc/[0-9]*/status | wc -l)"
        " > /dev/console; usleep 20000; done",
    )
    lay_over(machine, FATAL)
    with pytest.raises(grpc.RpcError) as caught:
        reload(machine)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    machine.console.wait_for("auraed: fatal: RuntimeError: no way to go on at", SECONDS)
    machine.console.wait_for("auraed: workloads run on without API", SECONDS)
    for _ in range(3):
        seen = machine.console.wait_for(r"zombies (\d+)", SECONDS)
        assert int(seen[1]) < 30, "orphans are not reaped"
    machine.qemu.expect_end()
    machine.qemu.monitor.press("ctrl", "alt", "delete")
    machine.wait_for_end("guest-reset", SECONDS)
    assert "going down: RESTART" in machine.console.text
    assert "Kernel panic" not in machine.console.text
