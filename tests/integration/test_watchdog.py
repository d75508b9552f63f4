"""A hardware watchdog: what hangs is replaced, or the machine starts again."""

from collections.abc import Callable

from aurae.node.v0 import node_pb2

from testkit.machines import Machine

Boot = Callable[..., Machine]

RUNTIME = "/sys/fs/cgroup/auraed/runtime/cgroup.procs"
SECONDS = 120


def test_a_runtime_that_hangs_is_replaced_and_a_pid_1_that_hangs_ends_in_a_reset(
    boot: Boot,
) -> None:
    machine = boot(devices=("i6300esb",), cmdline=("aurae.watchdog=10",))
    machine.console.wait_for(
        "watchdog: /dev/watchdog0 resets this machine after 10 s without PID 1", SECONDS
    )
    machine.system.start("counts", "n=0; while :; do n=$((n+1)); echo $n; sleep 0.2; done")

    # A runtime that does not run, and yet is there.
    machine.system.start("stop", f"sleep 1; kill -STOP $(head -n1 {RUNTIME})")
    machine.console.wait_for("runtime: silent for 10 s: killed", SECONDS)
    machine.console.wait_for("runtime ready", SECONDS)
    machine.wait_until_serving()
    numbers = [
        int(item.line) for item, _ in zip(machine.system.follow("counts"), range(50), strict=False)
    ]
    assert numbers == list(range(1, 51))

    # A new PID 1 feeds it too.
    machine.api.node.ReloadDaemon(node_pb2.ReloadDaemonRequest())
    machine.system.read("sleep 15; echo fed")

    # And PID 1 itself.
    machine.qemu.expect_end()
    machine.system.start("freeze", "sleep 1; echo 1 > /sys/fs/cgroup/auraed/initd/cgroup.freeze")
    machine.wait_for_end("guest-reset", SECONDS)
    assert "Kernel panic" not in machine.console.text


def test_a_power_button_that_is_plugged_in_later_works_and_the_end_disarms_the_watchdog(
    boot: Boot,
) -> None:
    machine = boot(devices=("i6300esb", "pcie-root-port,id=dock,chassis=1,slot=1"))
    machine.console.wait_for("watchdog: /dev/watchdog0 resets", SECONDS)
    watched = "ls -l /proc/1/fd | grep -c /dev/input/"
    before = int(machine.system.run(watched).stdout)
    machine.qemu.monitor.execute(
        "device_add", {"driver": "virtio-keyboard-pci", "id": "keyboard", "bus": "dock"}
    )
    machine.system.read(f"while [ $({watched}) -le {before} ]; do sleep 0.2; done")
    machine.qemu.expect_end()
    # QEMU gives keys to the keyboard that came last.
    machine.qemu.monitor.press("power")
    machine.wait_for_end("guest-shutdown", SECONDS)
    text = machine.console.text
    assert "going down: poweroff (power button)" in text
    # What the kernel says of one that is closed without the letter that stops it.
    assert "watchdog did not stop" not in text
