"""Every road down is the same one, and ends with the power off, or a new start."""

import itertools
import re
import subprocess
import sys
import time
from collections.abc import Callable

import grpc
import pytest
from aurae.cells.v0 import cells_pb2 as pb
from aurae.node.v0 import node_pb2
from grpc_health.v1 import health_pb2

from image.machine import Drive
from testkit.machines import Machine, Machines

Boot = Callable[..., Machine]
Road = Callable[[Machine], object]

# Longer than any of them needs, shorter than a road that waits for a workload for ever.
END_SECONDS = 60


def by_api(mode: node_pb2.ShutdownMode.ValueType) -> Road:
    return lambda m: m.api.node.Shutdown(node_pb2.ShutdownRequest(mode=mode))


def by_button(machine: Machine) -> None:
    machine.wait_for_button()
    machine.qemu.powerdown()


def by_signal(name: str) -> Road:
    return lambda m: m.system.start("signal", f"kill -{name} 1")


ROADS: dict[str, tuple[Road, str, str]] = {
    "api power off": (by_api(node_pb2.SHUTDOWN_MODE_POWEROFF), "guest-shutdown", "Power down"),
    "api reboot": (by_api(node_pb2.SHUTDOWN_MODE_REBOOT), "guest-reset", "Restarting system"),
    "power button": (by_button, "guest-shutdown", "Power down"),
    "ctrl-alt-del": (
        lambda m: m.qemu.monitor.press("ctrl", "alt", "delete"),
        "guest-reset",
        "Restarting system",
    ),
    "SIGTERM": (by_signal("TERM"), "guest-shutdown", "Power down"),
    "SIGINT": (by_signal("INT"), "guest-reset", "Restarting system"),
    "SIGPWR": (by_signal("PWR"), "guest-shutdown", "Power down"),
}


@pytest.mark.parametrize("road", ROADS)
def test_the_machine_goes_down_and_ends_every_workload(boot: Boot, road: str) -> None:
    take, reason, last_words = ROADS[road]
    machine = boot()
    with_work(machine)
    machine.qemu.expect_end()
    take(machine)
    machine.wait_for_end(reason, END_SECONDS)
    text = machine.console.text
    assert f"reboot: {last_words}" in text
    assert "workload says bye" not in text, "output of workloads does not belong on the console"
    assert "Kernel panic" not in text


def with_work(machine: Machine) -> None:
    """Cells with workloads: one that ends when asked, one that must be killed."""
    for name, command in (
        (
            "polite",
            "trap 'echo workload says bye; exit' TERM; echo up; while :; do sleep 0.1; done",
        ),
        ("stubborn", "trap '' TERM; echo up; while :; do sleep 0.1; done"),
    ):
        machine.system.start(name, command)
        assert next(machine.system.follow(name)).line == "up"


def forever(call: Callable[[], object]) -> None:
    while True:
        call()


def test_nothing_new_is_taken_on_the_way_down(boot: Boot) -> None:
    """The stubborn workload keeps the road open for its grace: meanwhile the API tells what the
    node waits for, and refuses all that is new."""
    machine = boot()
    with_work(machine)
    numbers = itertools.count()
    watch = iter(machine.api.health.Watch(health_pb2.HealthCheckRequest()))
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
    machine.qemu.expect_end()
    by_api(node_pb2.SHUTDOWN_MODE_POWEROFF)(machine)
    with pytest.raises(grpc.RpcError) as refusal:
        forever(lambda: machine.system.start(f"late-{next(numbers)}", "exec sleep 1000"))
    assert refusal.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "node: goes down (poweroff)" in (refusal.value.details() or "")
    assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
    # A node that is gone answers no more.
    while machine.system.status("stubborn").state != pb.EXECUTABLE_STATE_STOPPING:
        pass
    assert next(machine.system.follow("stubborn")).line == "up"
    assert not machine.system.wait("polite").HasField("signal")
    machine.wait_for_end("guest-shutdown", END_SECONDS)


def test_a_node_with_100_executables_is_down_within_the_grace_of_the_one_that_stays(
    boot: Boot,
) -> None:
    """And `aer` says what it waits for."""
    machine = boot()
    for number in range(100):
        machine.system.start(f"sleeps-{number}", "exec sleep 1000")
    with_work(machine)
    machine.qemu.expect_end()
    began = time.monotonic()
    aer = [sys.executable, "-m", "aer", "--config", str(machine.config_file)]
    done = subprocess.run(
        [*aer, "node", "poweroff"], capture_output=True, text=True, timeout=END_SECONDS, check=True
    )
    machine.wait_for_end("guest-shutdown", END_SECONDS)
    taken = time.monotonic() - began
    assert "goes down (poweroff)" in done.stdout
    assert "waits for _system/stubborn" in done.stdout
    text = machine.console.text
    (stopping,) = re.findall(r"stop 102 processes +(\d+) ms", text)
    sys.stdout.write(f"102 executables stopped in {stopping} ms, all down in {taken:.1f} s\n")
    # PID 1's own figure is the grace of 10 s and what it adds to it.
    assert 10_000 <= int(stopping) <= 12_000 * (1 if fast(machine) else 2)


def fast(machine: Machine) -> bool:
    """Whether this is a processor, and not its emulation."""
    return "-accel kvm" in machine.qemu.files.command.read_text()


def test_halt_stops_the_machine_and_keeps_its_power(boot: Boot) -> None:
    machine = boot()
    by_api(node_pb2.SHUTDOWN_MODE_HALT)(machine)
    machine.console.wait_for("reboot: System halted", END_SECONDS)
    assert not machine.qemu.ended


def test_a_machine_that_reboots_serves_again(boot: Boot) -> None:
    machine = boot(reboots=True)
    first = machine.system.read("cat /proc/sys/kernel/random/boot_id")
    by_api(node_pb2.SHUTDOWN_MODE_REBOOT)(machine)
    machine.console.wait_for("reboot: Restarting system", END_SECONDS)
    machine.console.wait_for("runtime ready", 120)
    machine.wait_until_serving()
    assert machine.system.read("cat /proc/sys/kernel/random/boot_id") != first


# kexec_file_load(2), which takes files and no devices.
LOAD_KERNEL = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
kernel, initrd = (os.open(f"/tmp/{name}", os.O_RDONLY) for name in ("kernel", "initrd"))
line = open("/proc/cmdline").read().strip().encode() + b"\\0"
if libc.syscall(320, kernel, initrd, ctypes.c_ulong(len(line)), line, ctypes.c_ulong(0)):
    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
"""


def test_kexec_starts_the_kernel_that_was_loaded(boot: Boot, machines: Machines) -> None:
    files = [machines.artifacts / name for name in ("vmlinuz", "initramfs")]
    machine = boot(drives=[Drive(file=file) for file in files])
    for name, disk, file in zip(("kernel", "initrd"), ("vda", "vdb"), files, strict=True):
        machine.system.read(
            f"while [ ! -e /dev/{disk} ]; do sleep 0.1; done; "
            f"head -c {file.stat().st_size} /dev/{disk} > /tmp/{name}"
        )
    machine.system.read('exec python3 -c "$1"', LOAD_KERNEL)
    by_api(node_pb2.SHUTDOWN_MODE_KEXEC)(machine)
    machine.console.wait_for("auraed: next kernel", END_SECONDS)
    machine.console.wait_for("auraed: Aurae ", 2 * END_SECONDS)
