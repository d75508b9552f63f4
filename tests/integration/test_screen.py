"""What a person at the machine sees: on its display, and on its serial line."""

import time
from collections.abc import Callable
from pathlib import Path

from aurae.node.v0 import node_pb2

from image.console import LOOK_SECONDS
from testkit import claims
from testkit.machines import Machine
from testkit.trust import NODE

Boot = Callable[..., Machine]
SECONDS = 180
NODE_ID = f"/node/{NODE}"
# Its text is what the first virtual terminal shows.
TEXT = "fold -w $(stty size < /dev/tty1 | cut -d' ' -f2) < /dev/vcs1 | sed 's/ *$//'"


def picture(machine: Machine, folder: Path, name: str) -> None:
    """As a person would see it; kept for who wants to look."""
    file = folder / f"{name}.png"
    machine.qemu.monitor.execute("screendump", {"filename": str(file), "format": "png"})
    assert file.stat().st_size > 1000


def wait(machine: Machine, *words: str) -> str:
    """Until the display shows all of them."""
    deadline = time.monotonic() + SECONDS
    while True:
        text = machine.system.read(TEXT)
        if all(word in text for word in words):
            return text
        assert time.monotonic() < deadline, f"no {words} in:\n{text}"
        machine.qemu.wait_end(LOOK_SECONDS)


def test_display_and_serial_line_show_who_and_how_the_node_is_and_follow_changes(
    boot: Boot, tmp_path: Path
) -> None:
    machine = boot(devices=("VGA",), cmdline=("aurae.hostname=shown",))
    text = wait(machine, "shown: aurae", "serves", "eth0 10.0.2.15/24", NODE_ID)
    picture(machine, tmp_path, "serves")
    assert "last error    none" in text
    machine.console.wait_for(r"runtime ready", SECONDS)
    machine.console.wait_for(r"status: shown: aurae ", SECONDS)
    machine.console.wait_for(r"status:   addresses +eth0 10\.0\.2\.15/24", SECONDS)
    machine.console.wait_for(rf"status:   identity +spiffe://.*{NODE_ID}", SECONDS)

    machine.system.run("ip address add 10.9.9.9/24 dev eth0")
    wait(machine, "10.9.9.9/24")
    machine.console.wait_for(r"status:   addresses .*10\.9\.9\.9/24", SECONDS)

    machine.api.node.ReloadDaemon(node_pb2.ReloadDaemonRequest())
    machine.system.run("ip address add 10.8.8.8/24 dev eth0")
    wait(machine, "10.8.8.8/24", NODE_ID)
    machine.system.run("ip address delete 10.8.8.8/24 dev eth0")
    machine.system.run("kill -9 $(cat /sys/fs/cgroup/auraed/network/cgroup.procs)")
    text = wait(machine, "network: ended by signal 9", "network: runs, started 2 times")
    assert "10.8.8.8" not in text
    picture(machine, tmp_path, "error")
    machine.poweroff()


def test_without_network_and_identity_the_serial_line_shows_the_same(
    boot: Boot, tmp_path: Path
) -> None:
    machine = boot(credentials=(), nics=(), devices=("VGA",), wait=False)
    fingerprint = claims.shown(machine)
    machine.console.wait_for(r"status: aurae: aurae ", SECONDS)
    machine.console.wait_for(r"status:   state +serves", SECONDS)
    machine.console.wait_for(r"status:   addresses +no network card", SECONDS)
    machine.console.wait_for(r"status:   identity +nobody has claimed this node", SECONDS)
    words = fingerprint.words().split()
    for at in range(0, len(words), 4):
        machine.console.wait_for(rf"status: +{' '.join(words[at : at + 4])}", SECONDS)
    machine.console.wait_for(r"status:   last error +none", SECONDS)
    picture(machine, tmp_path, "unclaimed")
    machine.poweroff()


def test_where_the_display_is_the_console_the_log_gives_way_to_the_screen(
    boot: Boot, tmp_path: Path
) -> None:
    machine = boot(devices=("VGA",), cmdline=("console=tty0",))
    machine.console.wait_for(r"status: aurae: aurae ", SECONDS)
    machine.console.wait_for(r"status:   addresses +eth0 10\.0\.2\.15/24", SECONDS)
    text = wait(machine, "aurae: aurae", "10.0.2.15/24")
    machine.system.run("kill -9 $(cat /sys/fs/cgroup/auraed/network/cgroup.procs)")
    text = wait(machine, "network: ended by signal 9")
    assert "auraed: error" not in text, "a line of the log is on the screen"
    assert "auraed: error: network" in machine.system.read(TEXT.replace("vcs1", "vcs2"))
    picture(machine, tmp_path, "console")
    machine.kill()
