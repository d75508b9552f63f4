"""Images of the other profiles boot. `make soak` builds them, and `make test` has none of these."""

import os
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Final

import pytest

from testkit.machines import BOOT_SECONDS, Machine, Machines

Start = Callable[..., Machine]

# Whether pytest collects what is in here.
__test__: Final = bool(os.environ.get("AURAE_SOAK"))


@pytest.fixture
def start(request: pytest.FixtureRequest, machines: Machines) -> Iterator[Start]:
    """A function that boots the profile of the test's parameter."""
    folder = machines.artifacts / request.param
    version = folder / "version"
    if not version.exists() or version.read_text().strip() != machines.version:
        pytest.fail(f"{folder}: is not of this image's version; make image PROFILE={request.param}")
    others = replace(machines, artifacts=folder)
    started: list[Machine] = []

    def boot(**arguments: Any) -> Machine:
        started.append(others.start(**arguments))
        return started[-1]

    yield boot
    for machine in started:
        machines.close(machine)


@pytest.mark.parametrize("start", ["cloud"], indirect=True)
def test_the_cloud_profile_boots_over_the_network_in_less(start: Start, machines: Machines) -> None:
    machine = start(netboot=True)
    assert "cloud" in machine.system.read("uname -r")
    assert machine.system.run("ls /usr/lib/firmware").exit_code != 0
    with machine.cell("c") as cell:
        assert cell.read("echo fine") == "fine\n"
    payload = sum(
        (machines.artifacts / "cloud" / name).stat().st_size for name in ("vmlinuz", "initramfs")
    )
    assert payload <= 70e6
    machine.poweroff()


@contextmanager
def typing(machine: Machine) -> Iterator[socket.socket]:
    """A line to its console, from which all is read: what nobody reads stops the console."""
    with machine.qemu.console_line() as line:

        def drain() -> None:
            while line.recv(1 << 16):
                pass

        reader = threading.Thread(target=drain)
        reader.start()
        try:
            yield line
        finally:
            line.shutdown(socket.SHUT_RDWR)
            reader.join()


@pytest.mark.parametrize("start", ["debug"], indirect=True)
def test_the_debug_profile_has_a_root_shell_on_its_console_and_says_so(start: Start) -> None:
    machine = start()
    machine.console.wait_for("DEBUG IMAGE: whoever sits at this console is root", BOOT_SECONDS)
    with typing(machine) as line:
        line.sendall(b"echo uid=$(id -u) pid=$$ $((40+2))\n")
        assert machine.console.wait_for(r"uid=(\d+) pid=\d+ 42", BOOT_SECONDS)[1] == "0"
        # One that ends is started again.
        line.sendall(b"exit\n")
        machine.console.wait_for("DEBUG IMAGE", BOOT_SECONDS)
    assert re.search("debug image: a root shell on /dev/ttyS0", machine.daemon_log())
    machine.poweroff()
