"""From the network to the API: `aer netboot serve` offers `make pxe` beside another DHCP server.

The networks are namespaces of this host, and a tap device is the machine's card: needs root.
"""

import fcntl
import json
import os
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from image.machine import API_PORT, NetworkBoot, Nic
from testkit.machines import Machine, Machines
from tests.integration.netns import run

Boot = Callable[..., Machine]

SERVER, OTHER, TAP = "aurae-pxe", "aurae-dhcp", "aurae-pxe0"
MAC = "52:54:00:77:00:01"
PATIENCE = 60.0
# TUNSETIFF; IFF_TAP without a header of its own.
TUNSETIFF, FLAGS = 0x400454CA, 0x1002
DOCUMENT = "hostname = 'by-url'\n"
REQUIRED = ("dnsmasq", "ip")


@dataclass
class Network:
    tap: int
    log: Path

    def events(self, kind: str) -> list[dict[str, Any]]:
        lines = map(json.loads, self.log.read_text().splitlines())
        return [event for event in lines if event["event"] == kind]

    @property
    def fetched(self) -> list[str]:
        return [one["path"] for one in self.events("http") if one["sent"] == one["size"] > 0]


@pytest.fixture(scope="module")
def network(machines: Machines, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    if os.geteuid() != 0 or not all(shutil.which(name) for name in REQUIRED):
        pytest.skip(f"needs root, and {' and '.join(REQUIRED)}")
    folder = tmp_path_factory.mktemp("netboot")
    with ExitStack() as cleanup:
        for name in (SERVER, OTHER):
            run("ip", "netns", "add", name)
            cleanup.callback(run, "ip", "netns", "del", name)
        run("ip", "-n", SERVER, "link", "add", "br0", "type", "bridge")
        run("ip", "-n", SERVER, "addr", "add", "10.77.0.1/24", "dev", "br0")
        run("ip", "-n", SERVER, "link", "set", "br0", "up")
        cable = ("link", "add", "v0", "type", "veth", "peer", "name", "eth0", "netns", OTHER)
        run("ip", "-n", SERVER, *cable)
        run("ip", "-n", SERVER, "link", "set", "v0", "master", "br0", "up")
        run("ip", "-n", OTHER, "addr", "add", "10.77.0.2/24", "dev", "eth0")
        run("ip", "-n", OTHER, "link", "set", "eth0", "up")
        tap = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
        cleanup.callback(os.close, tap)
        fcntl.ioctl(tap, TUNSETIFF, struct.pack("16sH22x", TAP.encode(), FLAGS))
        run("ip", "link", "set", TAP, "netns", SERVER)
        run("ip", "-n", SERVER, "link", "set", TAP, "master", "br0", "up")
        other = ("dnsmasq", "--conf-file=/dev/null", "--leasefile-ro", "--pid-file", "--port=0")
        given = ("--dhcp-range=10.77.0.100,10.77.0.200,1h", "--dhcp-option=42,10.77.0.2")
        cleanup.enter_context(
            started(folder / "dhcp.log", OTHER, *other, "--keep-in-foreground", *given)
        )
        log = folder / "serve.log"
        cleanup.enter_context(started(log, SERVER, *serve(machines, folder)))
        wait("aer netboot serve", lambda: '"serving"' in log.read_text())
        yield Network(tap, log)


def serve(machines: Machines, folder: Path) -> list[str]:
    aer = [sys.executable, "-m", "aer", "netboot"]
    key, document = folder / "key.pem", folder / "node.toml"
    run(*aer, "config", "key", str(key))
    document.write_text(DOCUMENT)
    options = ["--interface", "br0", "--output", "json", "--append", "panic=-1"]
    signed = ["--node-config", str(document), "--key", str(key)]
    return [*aer, "serve", str(machines.artifacts / "pxe"), *options, *signed]


class started:  # noqa: N801 (reads as a verb in `with`)
    """A program in a namespace; its end must be a clean one."""

    def __init__(self, log: Path, namespace: str, *command: str) -> None:
        self._log = log
        self._command = ["ip", "netns", "exec", namespace, *command]

    def __enter__(self) -> None:
        with self._log.open("wb") as log, self._log.with_suffix(".err").open("wb") as errors:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=errors)

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        assert self._process.wait(10) == 0, self._log.with_suffix(".err").read_text()


def wait(what: str, true: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline, f"waited for {what}"
        time.sleep(0.1)


def booted(boot: Boot, network: Network, *, uefi: bool) -> Machine:
    nics = (Nic(tap=network.tap, mac=MAC), Nic(forwarded=API_PORT))
    return boot(network=NetworkBoot(uefi=uefi), nics=nics, cpus=1 if uefi else None)


def check_configuration(machine: Machine) -> None:
    """The signed document of this card's address is there."""
    machine.console.wait_for(r"configuration by URL: http://10\.77\.0\.1:8000/config/", PATIENCE)
    assert machine.system.read("cat /run/aurae/config.url.toml") == DOCUMENT


def check_time_server(machine: Machine) -> None:
    """The one that the DHCP server names (option 42) is asked, though it is none."""
    machine.console.wait_for(
        r"network: Timed out waiting for reply from 10\.77\.0\.2:123", PATIENCE
    )


def test_ipxe_boots_by_tftp_and_http(boot: Boot, network: Network) -> None:
    machine = booted(boot, network, uefi=False)
    assert [one["name"] for one in network.events("tftp")] == ["boot.ipxe"]
    kinds = [path.rpartition(".")[2] for path in network.fetched]
    assert kinds[:3] == ["ipxe", "vmlinuz", "initramfs"]
    command_line = machine.system.read("cat /proc/cmdline").split()
    assert f"BOOTIF=01-{MAC.replace(':', '-')}" in command_line
    assert "panic=-1" in command_line
    check_configuration(machine)
    check_time_server(machine)
    assert network.fetched[-2:] == [f"/config/{MAC}", f"/config/{MAC}.sig"]
    machine.poweroff()


def test_uefi_boots_the_unified_kernel_image_by_http(boot: Boot, network: Network) -> None:
    before = len(network.events("tftp"))
    machine = booted(boot, network, uefi=True)
    assert any(path.endswith(".efi") for path in network.fetched)
    assert len(network.events("tftp")) == before
    assert machine.system.read("ls -d /sys/firmware/efi") == "/sys/firmware/efi\n"
    assert "panic=-1" in machine.system.read("cat /proc/cmdline").split()
    check_configuration(machine)
    machine.poweroff()
