"""Upgrades under OVMF: to a new version and back, and from broken ones."""

import functools
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final

import grpc
import pytest
from aurae.discovery.v0 import discovery_pb2
from aurae.node.v0 import upgrade_pb2 as pb

from aer.bundle import Bundle
from image.machine import Drive
from testkit.machines import Machine, Machines
from testkit.refusals import refused
from tests.integration import upgrades
from tests.integration.disks import Disk
from tests.integration.upgrades import (
    CREDENTIAL,
    Fault,
    Maker,
    status,
    until,
    until_healthy,
)

SOAK: Final = bool(os.environ.get("AURAE_SOAK"))
# Of three boots that come to nothing, and one that does.
BACK_SECONDS: Final = 900.0
UPGRADE_SECONDS: Final = 300.0
# A new version has so many seconds here to be found healthy.
BOUND: Final = "aurae.health=10"


@pytest.fixture(scope="module")
def old(machines: Machines) -> str:
    """The version of the image."""
    return (machines.artifacts / "version").read_text().strip()


@pytest.fixture(scope="module")
def maker(machines: Machines) -> Maker:
    found = Maker.find(machines.artifacts)
    if found is None:
        pytest.skip("this image was not built here")
    return found


@pytest.fixture
def disk(machines: Machines, tmp_path: Path) -> Iterator[Drive]:
    if not (machines.artifacts / "aurae.img").exists():
        pytest.skip("this image has no disk")
    copy = Disk(machines.artifacts / "aurae.img").copy(tmp_path / "disk.img")
    yield Drive(file=copy.file, kept=True)
    copy.file.unlink()


@pytest.fixture
def on(machines: Machines, disk: Drive) -> Iterator[Callable[..., Machine]]:
    """Starts the node of this test, again and again."""
    ran: list[Machine] = []

    def start() -> Machine:
        machine = machines.start(
            disk=disk,
            credentials=(*machines.trust.credentials(), CREDENTIAL),
            reboots=True,
            wait=False,
        )
        ran.append(machine)
        until_healthy(machine)
        return machine

    yield start
    for machine in ran:
        machines.close(machine)


def versions(machine: Machine) -> dict[str, str]:
    return {
        v.version: pb.VersionState.Name(v.state).removeprefix("VERSION_STATE_")
        for v in status(machine).versions
        if v.version
    }


def aer(machine: Machine, *arguments: str, code: int = 0) -> str:
    line = [sys.executable, "-m", "aer", "--config", str(machine.config_file), *arguments]
    done = subprocess.run(
        line, check=False, capture_output=True, text=True, timeout=UPGRADE_SECONDS
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_a_node_is_upgraded_and_taken_back_while_workloads_run(
    on: Callable[..., Machine], maker: Maker, old: str
) -> None:
    new, unsigned = maker.make("0.2.0"), maker.make("0.2.1", signed=False)
    machine = on()
    first = status(machine)
    assert (first.version, first.slot) == (old, "a")
    with machine.cell("web") as cell:
        cell.start("server", "exec sleep 100000")
        assert "aer image sign" in aer(machine, "node", "upgrade", str(unsigned), code=1)
        forged = Bundle.read(unsigned)
        forged.signature.write_bytes(Bundle.read(new).signature.read_bytes())
        said = aer(machine, "node", "upgrade", str(unsigned), code=1)
        assert "of none of this node's keys" in said
        forged.signature.unlink()
        said = aer(machine, "node", "upgrade", str(maker.make("0.0.9")), code=1)
        assert f"is not newer than {old}" in said
        line = [sys.executable, "-m", "aer", "--config", str(machine.config_file)]
        took = []
        with subprocess.Popen(
            [*line, "node", "upgrade", str(new)], stdout=subprocess.PIPE, text=True
        ) as upgrade:
            while upgrade.poll() is None:
                began = time.monotonic()
                machine.api.discovery.Discover(discovery_pb2.DiscoverRequest(), timeout=30)
                took.append(time.monotonic() - began)
                time.sleep(0.1)
            assert upgrade.stdout is not None
            said = upgrade.stdout.read()
        assert "version 0.2.0 in slot b: is there for the next boot" in said
        took.sort()
        assert took[len(took) // 2] < 2, "the API stays fast"
        assert took[len(took) * 95 // 100] < 5, "the API stays fast"
        assert cell.status("server").pid
    assert versions(machine) == {old: "GOOD", "0.2.0": "TRYING"}
    aer(machine, "node", "reboot", "--no-wait")
    second = until_healthy(machine, "0.2.0")
    assert second.slot == "b"
    until("it is blessed", 60, lambda: versions(machine) == {old: "GOOD", "0.2.0": "GOOD"})
    assert f"the next boot has version {old}" in aer(
        machine, "node", "upgrade", "rollback", "--reboot"
    )
    assert until_healthy(machine, old).slot == "a"
    assert versions(machine) == {old: "GOOD", "0.2.0": "BAD"}
    with refused(grpc.StatusCode.FAILED_PRECONDITION, "no other one"):
        machine.api.upgrade.Rollback(pb.RollbackRequest())
    # The version that was taken back may come again.
    with served(new.parent) as url:
        aer(machine, "node", "upgrade", f"{url}/{new.name}")
    assert versions(machine) == {old: "GOOD", "0.2.0": "TRYING"}
    machine.poweroff()


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """By HTTP, as the machine reaches this host."""
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://10.0.2.2:{server.server_address[1]}"
        server.shutdown()
        thread.join()


FAULTS: Final[dict[str, Fault | None]] = {
    "api-dead": upgrades.API_DEAD,
    "hangs-early": upgrades.HANGS_EARLY,
    "hangs-late": upgrades.HANGS_LATE,
    "init-exits": upgrades.INIT_EXITS,
    "network-dead": upgrades.NETWORK_DEAD,
    "panic": None,
}
SAMPLE: Final = ("network-dead",)


@pytest.mark.parametrize("name", FAULTS if SOAK else SAMPLE)
def test_a_broken_version_is_left_by_itself_within_three_boots(
    on: Callable[..., Machine], maker: Maker, old: str, name: str
) -> None:
    # The kernel finds nothing that it could start.
    parameters = BOUND if FAULTS[name] else f"{BOUND} rdinit=/none root=/none"
    broken = maker.make("0.3.0", parameters=parameters, fault=FAULTS[name])
    machine = on()
    aer(machine, "node", "upgrade", str(broken), "--reboot")
    until(
        "the version before is back",
        BACK_SECONDS,
        lambda: versions(machine) == {old: "GOOD", "0.3.0": "BAD"},
    )
    assert status(machine).version == old
    # The first boot, three at most of the broken version, and the one that it was left for.
    assert machine.console.text.count("auraed: Aurae ") <= 5
