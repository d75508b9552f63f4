"""Every road down is the same one, and ends with the power off, or a new start."""

import itertools
from collections.abc import Callable

import grpc
import pytest
from aurae.node.v0 import node_pb2

from testkit.machines import Machine

Boot = Callable[..., Machine]
Road = Callable[[Machine], object]

# Longer than any of them needs, shorter than a road that waits for a workload for ever.
END_SECONDS = 60


def by_api(mode: node_pb2.ShutdownMode.ValueType) -> Road:
    return lambda m: m.api.node.Shutdown(node_pb2.ShutdownRequest(mode=mode))


def by_signal(name: str) -> Road:
    return lambda m: m.system.start("signal", f"kill -{name} 1")


ROADS: dict[str, tuple[Road, str, str]] = {
    "api power off": (by_api(node_pb2.SHUTDOWN_MODE_POWEROFF), "guest-shutdown", "Power down"),
    "api reboot": (by_api(node_pb2.SHUTDOWN_MODE_REBOOT), "guest-reset", "Restarting system"),
    "power button": (lambda m: m.qemu.powerdown(), "guest-shutdown", "Power down"),
    "ctrl-alt-del": (
        lambda m: m.qemu.monitor.press("ctrl", "alt", "delete"),
        "guest-reset",
        "Restarting system",
    ),
    "SIGTERM": (by_signal("TERM"), "guest-shutdown", "Power down"),
    "SIGINT": (by_signal("INT"), "guest-reset", "Restarting system"),
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
    """The stubborn workload keeps the road open for a while: calls are refused meanwhile.

    One that reaches gRPC in the moment when it closes is CANCELLED by gRPC itself.
    """
    machine = boot()
    with_work(machine)
    machine.qemu.expect_end()
    by_api(node_pb2.SHUTDOWN_MODE_POWEROFF)(machine)
    numbers = itertools.count()
    with pytest.raises(grpc.RpcError) as refusal:
        forever(lambda: machine.system.start(f"late-{next(numbers)}", "exec sleep 1000"))
    assert refusal.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
    machine.wait_for_end("guest-shutdown", END_SECONDS)


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
