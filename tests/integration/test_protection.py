"""What a workload takes too much of, others do not lack: the API answers, and they run on."""

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import grpc
import pytest
from aurae.cells.v0 import cells_pb2 as pb
from aurae.node.v0 import node_pb2

from image.machine import Channel, Credential, Drive
from testkit.cells import forest
from testkit.machines import Machine, state
from testkit.refusals import refused
from testkit.trust import TrustDomain
from tests.integration.descriptors import COUNT_DESCRIPTORS

Boot = Callable[..., Machine]

# With AURAE_SOAK=1 the counts are large.
SOAK: Final = bool(os.environ.get("AURAE_SOAK"))
ORPHANS: Final = 10_000 if SOAK else 1000
MESSAGES: Final = 20_000 if SOAK else 2000

SERVICES = "cd /sys/fs/cgroup/auraed; cat runtime/cgroup.procs network/cgroup.procs"
# Seconds that an answer may take, and that hogs have. Emulated processors are slow.
ANSWER = 30.0
BUSY = 6.0


@contextmanager
def unharmed(machine: Machine) -> Iterator[None]:
    """Within the block a bystander runs on, and so do the services."""
    with machine.cell("bystander") as bystander:
        bystander.start("counts", "n=0; while :; do n=$((n+1)); echo $n; sleep 0.2; done")
        services = machine.system.read(SERVICES)
        yield
        counted = [
            int(item.line) for item, _ in zip(bystander.follow("counts"), range(20), strict=False)
        ]
        assert counted == list(range(1, 21))
        assert machine.system.read(SERVICES) == services
        assert bystander.status("counts").state == pb.EXECUTABLE_STATE_RUNNING


def answers(machine: Machine, seconds: float) -> float:
    """Ask over and over; the longest that an answer took."""
    slowest = 0.0
    end = time.monotonic() + seconds
    while (now := time.monotonic()) < end:
        machine.api.cells.List(pb.CellServiceListRequest(), timeout=ANSWER)
        slowest = max(slowest, time.monotonic() - now)
    return slowest


def test_a_fork_bomb_is_held_and_goes_with_its_cell(machine: Machine) -> None:
    with unharmed(machine), machine.cell("bomb") as cell:
        cell.start("bomb", "b() { b | b & }; b; sleep 1000")
        answers(machine, BUSY)
        cell.free(grace=0)


def test_a_memory_hog_is_killed_and_nobody_else(machine: Machine) -> None:
    with unharmed(machine), machine.cell("hog") as cell:
        # In the shell's place, so that the end of it is the executable's.
        cell.start("hog", "exec tail /dev/zero")
        status = cell.wait("hog", timeout=120)
        assert status.signal == 9
        answers(machine, 1)
    assert "Out of memory" not in machine.console.text


def test_files_in_tmpfs_are_held_too(machine: Machine) -> None:
    places = ("/tmp", "/dev/shm", "/var/tmp", "/run")
    with unharmed(machine), machine.cell("files") as cell:
        try:
            for place in places:
                done = cell.run(f"cat /dev/zero > {place}/full", timeout=120)
                assert "No space left on device" in done.stderr
            # PID 1 still makes files of its own, and the runtime too.
            with machine.cell("another") as other:
                assert other.read("echo fine") == "fine\n"
            available = machine.system.read("grep MemAvailable /proc/meminfo").split()[1]
            assert int(available) > 64 * 1024
        finally:
            machine.system.read(f"rm -f {' '.join(f'{place}/full' for place in places)}")


def test_a_flood_of_output_costs_no_more_than_its_budget(machine: Machine) -> None:
    held = "cat /sys/fs/cgroup/auraed/initd/memory.current"
    with unharmed(machine), machine.cell("flood") as cell:
        before = int(machine.system.read(held))
        for number in range(3):
            cell.start(f"flood-{number}", "exec yes a line that is written over and over again")
        answers(machine, BUSY)
        for number in range(3):
            cell.stop(f"flood-{number}", grace=0)
        grown = int(machine.system.read(held)) - before
        total = int(machine.system.read("grep MemTotal /proc/meminfo").split()[1]) * 1024
        assert grown < total // 8 + (32 << 20)


def test_services_come_last_when_memory_ends_and_limits_are_set(machine: Machine) -> None:
    for service in ("runtime", "network"):
        pid = machine.system.read(f"cat /sys/fs/cgroup/auraed/{service}/cgroup.procs").split()[0]
        assert machine.system.read(f"cat /proc/{pid}/oom_score_adj").strip() == "-900"
        minimum = machine.system.read(f"cat /sys/fs/cgroup/auraed/{service}/memory.min")
        assert int(minimum) > 32 << 20
    own = machine.system.read("cat /proc/self/oom_score_adj").strip()
    assert own == "0", "workloads are not protected"
    limit = int(machine.system.read("cat /sys/fs/cgroup/aurae/memory.max"))
    total = int(machine.system.read("grep MemTotal /proc/meminfo").split()[1]) * 1024
    assert total // 3 < limit < total - (128 << 20)
    pids = int(machine.system.read("cat /sys/fs/cgroup/aurae/pids.max"))
    assert pids < int(machine.system.read("cat /proc/sys/kernel/threads-max"))


def test_orphans_are_reaped_as_fast_as_they_come(machine: Machine) -> None:
    """Each of these loses its parent at once, and ends as a child of PID 1."""
    size = "awk '/VmRSS/ { print $2 }' /proc/1/status"
    with machine.cell("orphans") as cell:
        warm = "n=0; while [ $n -lt 200 ]; do n=$((n+1)); (true &); done"
        cell.read(warm)
        before = int(machine.system.read(size))
        began = time.monotonic()
        cell.start("orphans", f"n=0; while [ $n -lt {ORPHANS} ]; do n=$((n+1)); (true &); done")
        assert cell.wait("orphans", timeout=1200).exit_code == 0
        taken = time.monotonic() - began
        zombies = "sleep 1; cat /proc/[0-9]*/stat"
        states = [state(line) for line in machine.system.run(zombies).stdout.splitlines()]
        assert "Z" not in states
        grown = int(machine.system.read(size)) - before
        sys.stdout.write(f"{ORPHANS} orphans in {taken:.1f} s, PID 1 grew by {grown} kB\n")
        assert grown < 1024


def test_pid_1_answers_nobody_but_its_runtime(machine: Machine) -> None:
    asks = """
import socket
connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
connection.connect("/run/aurae/initd.sock")
print(connection.recv(10000).decode())
try:
    connection.send(b'{"op":"shutdown","how":"poweroff"}')
    print(connection.recv(10000))
except OSError as error:
    print(error.strerror)
"""
    said = machine.system.read('exec python3 -c "$1"', asks).splitlines()
    assert "PermissionDenied" in said[0]
    assert "for the runtime that PID 1 started only" in said[0]
    assert said[1] in ("Broken pipe", "Connection reset by peer", "b''")
    refused = machine.system.run('exec python3 -c "$1"', asks, uid=7, gid=7)
    assert "Permission denied" in refused.stderr, "the file's mode keeps others out"


def test_random_messages_and_signals_do_nothing(machine: Machine) -> None:
    """In the place of the runtime, which alone may speak. Signals come all the while."""
    script = Path(__file__).with_name("fuzz.py").read_text()
    main = "/usr/lib/python3/dist-packages/runtime/__main__.py"
    cached = "/usr/lib/python3/dist-packages/runtime/__pycache__"
    packed = "/usr/lib/python3/dist-packages/runtime/modules.pack"
    harmless = "1 3 4 5 6 7 8 9 10 11 12 13 14 16 18 19 20 21 22 23 28 29 31 34 50 64"
    with unharmed_processes(machine):
        settings = json.dumps({"seed": 1, "count": MESSAGES})
        machine.system.read(
            'echo "$1" > /tmp/fuzz.json; echo "$2" > /tmp/fuzz.py; mkdir /tmp/empty',
            settings,
            script,
        )
        machine.system.start(
            "fuzz",
            f"sleep 1; mount --bind /tmp/fuzz.py {main}; mount --bind /tmp/empty {cached}; "
            f"mount --bind /dev/null {packed}; "
            "kill -9 $(head -n1 /sys/fs/cgroup/auraed/runtime/cgroup.procs); "
            f"while [ ! -e /tmp/fuzz.done ]; do for n in {harmless}; do kill -$n 1; done; done; "
            f"umount {main} {cached} {packed}; "
            "kill -9 $(head -n1 /sys/fs/cgroup/auraed/runtime/cgroup.procs)",
        )
        said = machine.console.wait_for(r"fuzz: (\d+) sent, (\d+) answered, (\d+) refused", 1200)
        machine.console.wait_for("runtime ready", 120)
        machine.wait_until_serving()
        assert machine.system.wait("fuzz").exit_code == 0
        machine.system.read("rm -r /tmp/fuzz.json /tmp/fuzz.py /tmp/fuzz.done /tmp/empty")
    assert int(said[1]) == MESSAGES
    assert int(said[2]) > MESSAGES // 2
    assert "unexpected" not in machine.daemon_log()


@contextmanager
def unharmed_processes(machine: Machine) -> Iterator[None]:
    """Within the block PID 1 makes and loses nothing."""
    look = f"{COUNT_DESCRIPTORS}; find /sys/fs/cgroup -type d | sort | grep -v _run-"

    def seen() -> tuple[int, list[str]]:
        count, *cgroups = machine.system.read(look).split()
        ended = sum(len(node.executables) for node in forest(machine.api))
        # Two files for each stream of what has ended.
        return int(count) - 4 * ended, cgroups

    before = seen()
    yield
    after = seen()
    # The runtime's connections are others, and as many.
    assert after == before


def test_signals_that_are_not_in_the_table_do_nothing(machine: Machine) -> None:
    """Those of docs/signals.md have tests of their own: they end the machine."""
    heard = {signal.SIGTERM, signal.SIGINT, signal.SIGPWR}
    numbers = " ".join(str(number) for number in range(1, 65) if number not in heard)
    machine.system.read(f"for n in {numbers}; do kill -$n 1 || exit; done")
    assert machine.system.read("cat /proc/1/comm").strip() == "auraed"
    machine.check()


def test_kexec_is_refused_without_a_kernel_and_changes_nothing(machine: Machine) -> None:
    mode = node_pb2.SHUTDOWN_MODE_KEXEC
    with refused(grpc.StatusCode.FAILED_PRECONDITION, "kexec: no kernel is loaded"):
        machine.api.node.Shutdown(node_pb2.ShutdownRequest(mode=mode))
    assert machine.system.read("echo fine") == "fine\n"


def test_a_boot_with_a_full_run_and_no_console_serves(
    boot: Boot, trust_domain: TrustDomain
) -> None:
    # Halves of halves, until nothing fits any more.
    filling = tuple(
        Credential(f"filling.{26 - power:02}", bytes(1 << power), Channel.INITRAMFS)
        for power in range(26, 11, -1)
    )
    machine = boot(
        memory=512,
        credentials=(*trust_domain.credentials(Channel.INITRAMFS), *filling),
        console="null",
    )
    assert machine.system.run("echo x > /run/x && cat /run/x").stdout != "x\n"
    with machine.cell("c") as cell:
        assert cell.read("echo fine") == "fine\n"
    machine.qemu.expect_end()
    mode = node_pb2.SHUTDOWN_MODE_POWEROFF
    machine.api.node.Shutdown(node_pb2.ShutdownRequest(mode=mode))
    machine.wait_for_end()


def test_a_boot_with_a_disk_that_cannot_be_written_serves(boot: Boot, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(16 << 20))
    machine = boot(drives=(Drive(file=disk, read_only=True),))
    machine.system.read("until grep -qx 1 /sys/block/vda/ro; do sleep 0.1; done")
    with machine.cell("c") as cell:
        assert cell.read("echo fine") == "fine\n"
    assert "auraed: error" not in machine.console.text
    machine.poweroff()


@pytest.mark.parametrize("name", ["kernel.panic_on_oops", "kernel.panic"])
def test_a_dead_kernel_starts_again(machine: Machine, name: str) -> None:
    value = machine.system.read(f"cat /proc/sys/{name.replace('.', '/')}")
    assert int(value) > 0
