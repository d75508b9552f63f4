"""Machines under test: what can be asked of one, and how they are started."""

import itertools
import logging
import re
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import grpc
from aurae.cells.v0 import cells_pb2 as pb
from aurae.observe.v0 import observe_pb2 as observe

from aer.client import Config, connect
from image.acceleration import BOOT_ATTEMPTS, EMULATOR_FAULT, Acceleration, emulator_failed
from image.console import LOOK_SECONDS, Console, LostError
from image.machine import (
    API_PORT,
    Credential,
    Drive,
    FirmwareBoot,
    KernelBoot,
    NetworkBoot,
    Nic,
)
from image.machine import Machine as Description
from image.qemu import Qemu, start
from image.readiness import wait_until_serving
from testkit.api import Api
from testkit.cells import SYSTEM, Cell, allocated, forest
from testkit.trust import TrustDomain

BOOT_SECONDS: Final = 300.0
POWEROFF_SECONDS: Final = 60.0
BUTTON: Final = re.compile(r"auraed: drivers .*\bbutton\b")


class Machine:
    """A running machine. `api`, `console` and the two ways to end it."""

    def __init__(self, qemu: Qemu, trust: TrustDomain) -> None:
        self.qemu = qemu
        self.trust = trust
        self.config_file = qemu.files.folder / "config"
        self.found: set[str] | None = None
        """What `leftovers` said after the last test."""
        self._channel: grpc.Channel | None = None
        self._api: Api | None = None
        self._port = qemu.monitor.forwarded_port()
        if self._port is not None:
            self.config_file.write_text(trust.config(self.address))

    @property
    def console(self) -> Console:
        return self.qemu.console

    @property
    def address(self) -> str:
        """Where the API is reached from this host, `host:port`."""
        if self._port is None:
            raise LookupError("this machine has no network card with a forwarded port")
        return f"127.0.0.1:{self._port}"

    @property
    def api(self) -> Api:
        """Every service, called as a person of the trust domain."""
        if self._api is None:
            self._channel = self.connect()
            self._api = Api.on(self._channel)
        return self._api

    def connect(self, config: Config | None = None) -> grpc.Channel:
        """A channel of its own; close it. `config` makes the caller somebody else."""
        return connect(config or Config.load(self.config_file))

    def reconnect(self) -> None:
        """Let `api` be on a connection of its own from now on: one that broke may rest for long."""
        self._disconnect()

    def wait_until_serving(self, timeout: float = BOOT_SECONDS) -> None:
        """Return once the API answers SERVING. Raises `LostError` if the machine is lost."""
        wait_until_serving(self.connect, self.qemu.check, timeout)
        if self._channel is not None:
            # It rests after it has met nobody, and meanwhile refuses every call.
            grpc.channel_ready_future(self._channel).result(timeout)

    def check(self) -> None:
        """Raise `LostError` if the machine is lost."""
        self.qemu.check()

    @property
    def system(self) -> Cell:
        """The system's own cell, to look around in: `machine.system.read("ps")`."""
        return Cell(self.api, None)

    def cell(self, name: str, **asked: Any) -> AbstractContextManager[Cell]:
        """A cell for a `with`; the arguments are fields of the message Cell."""
        return allocated(self.api, name, **asked)

    def daemon_log(self, timeout: float = 10.0) -> str:
        """What auraed has logged since boot, a line each: channel and text."""
        request = observe.GetAuraeDaemonLogStreamRequest(no_follow=True)
        stream = self.api.observe.GetAuraeDaemonLogStream(request, timeout=timeout)
        return "".join(f"{m.item.channel}: {m.item.line}\n" for m in stream)

    def kill(self) -> None:
        """End it as a power cut would."""
        self._disconnect()
        self.qemu.kill()

    def poweroff(self, timeout: float = POWEROFF_SECONDS) -> None:
        """Press the power button and wait for a clean end. Raises `LostError` without one."""
        self.wait_for_button()
        self.qemu.powerdown()
        self.wait_for_end(timeout=timeout)

    def wait_for_button(self, timeout: float = BOOT_SECONDS) -> None:
        """The API may answer before the driver of the button is there: an earlier press is lost."""
        deadline = time.monotonic() + timeout
        while not BUTTON.search(self.console.text):
            self.qemu.check()
            if time.monotonic() > deadline:
                raise LostError(f"no power button in {timeout:g} s; {self.console.last_lines()}")
            self.qemu.wait_end(LOOK_SECONDS)

    def wait_for_end(
        self, reason: str = "guest-shutdown", timeout: float = POWEROFF_SECONDS
    ) -> None:
        """Wait until the guest ended by itself, for QEMU's `reason`. Raises `LostError`."""
        self.qemu.wait_for_shutdown(reason, timeout)
        self._disconnect()

    def close(self) -> None:
        """End it if it still runs, and drop what is open."""
        self.kill()
        self.qemu.detach()

    def _disconnect(self) -> None:
        if self._channel is not None:
            self._channel.close()
        self._channel = self._api = None


@dataclass(slots=True)
class Machines:
    """How to start machines of one image, and those that run."""

    artifacts: Path
    overlays: tuple[Path, ...]
    acceleration: Acceleration
    trust: TrustDomain
    folder: Path
    memory: int
    cpus: int
    running: list[Machine] = field(default_factory=list)
    _number: "itertools.count[int]" = field(default_factory=lambda: itertools.count(1))

    @property
    def version(self) -> str:
        """Of the image."""
        return (self.artifacts / "version").read_text().strip()

    def start(
        self,
        *,
        disk: bool | Drive = False,
        netboot: bool = False,
        network: NetworkBoot | None = None,
        memory: int | None = None,
        cpus: int | None = None,
        cmdline: Sequence[str] = (),
        credentials: Sequence[Credential] | None = None,
        smbios: Sequence[str] = (),
        nics: Sequence[Nic] = (Nic(forwarded=API_PORT),),
        drives: Sequence[Drive] = (),
        devices: Sequence[str] = (),
        tpm: Path | None = None,
        console: str = "ttyS0",
        reboots: bool = False,
        date: str = "",
        wait: bool = True,
    ) -> Machine:
        """Boot a machine; by default wait until its API answers.

        `disk` boots the image's disk (or that one) by OVMF instead of the kernel directly,
        `netboot` the initramfs that has the root inside, `network` what its first card finds.
        `credentials` are those of the trust domain unless given.

        Raises `LostError`, `NotServingError` or `StartError`.
        """
        description = Description(
            boot=network or (self._disk_boot(disk) if disk else self._kernel_boot(netboot=netboot)),
            memory=memory or self.memory,
            cpus=cpus or self.cpus,
            cmdline=tuple(cmdline),
            credentials=tuple(self.trust.credentials() if credentials is None else credentials),
            smbios=tuple(smbios),
            nics=tuple(nics),
            drives=tuple(drives),
            devices=tuple(devices),
            tpm=tpm,
            console=console,
            reboots=reboots,
            date=date,
        )
        for left in reversed(range(BOOT_ATTEMPTS)):
            folder = self.folder / str(next(self._number))
            machine = Machine(start(description, folder, self.acceleration), self.trust)
            self.running.append(machine)
            if not wait:
                break
            try:
                machine.wait_until_serving()
                break
            except LostError:
                emulated = self.acceleration is Acceleration.TCG
                if not (left and emulated and emulator_failed(machine.console.text)):
                    raise
                logging.getLogger("testkit").warning("%s: %s; boots again", folder, EMULATOR_FAULT)
                self.close(machine)
        return machine

    def close(self, machine: Machine) -> None:
        if machine in self.running:
            self.running.remove(machine)
            machine.close()

    def _kernel_boot(self, *, netboot: bool) -> KernelBoot:
        initramfs = self.artifacts / ("initramfs" if netboot else "initramfs-micro")
        return KernelBoot(
            kernel=self.artifacts / "vmlinuz",
            initrds=(initramfs, *self.overlays),
            root=None if netboot else self.artifacts / "root.erofs",
        )

    def _disk_boot(self, disk: bool | Drive) -> FirmwareBoot:
        ours = Drive(file=self.artifacts / "aurae.img")
        return FirmwareBoot(disk=disk if isinstance(disk, Drive) else ours)


# What a test may leave nothing of: cells' cgroups, processes in them, zombies, mounts, namespaces.
# Few programs and much output: to start one is slow under emulation.
LEFTOVERS: Final = """
cd /sys/fs/cgroup/aurae
find . -mindepth 1 -type d
echo --
cat $(find . -mindepth 1 -name cgroup.procs ! -path './_system/_run-*')
echo --
cat /proc/[0-9]*/stat
echo --
cat /proc/1/mountinfo
echo --
ls -l /proc/[0-9]*/ns
"""
NAMESPACE: Final = re.compile(r" -> (\w+:\[\d+\])$", re.MULTILINE)
OWN: Final = re.compile(r"\./_system(/_run-\d+)?")


def leftovers(machine: Machine) -> set[str]:
    """What is in the guest beside auraed: cells, running executables, cgroups, zombies, mounts,
    namespaces."""
    found = _look(machine)
    # What has just ended is a zombie until its parent has its turn: one that stays is seen again.
    zombies = {one for one in found if one.startswith("zombie ")}
    return found - (zombies - _look(machine)) if zombies else found


def _look(machine: Machine) -> set[str]:
    found = set()
    for node in forest(machine.api):
        if node.cell.name != SYSTEM:
            found.add(f"cell {node.cell.name}")
        found |= {
            f"executable {node.cell.name}/{status.executable.name}"
            for status in node.executables
            if status.state != pb.EXECUTABLE_STATE_ENDED
        }
    # Some processes end while they are looked at: cat fails then, and says the rest.
    said = machine.system.run(LEFTOVERS).stdout
    cgroups, processes, stats, mounts, namespaces = said.split("--\n")
    found |= {f"cgroup {path}" for path in cgroups.split() if not OWN.fullmatch(path)}
    found |= {f"process {pid}" for pid in processes.split()}
    found |= {f"zombie {line}" for line in stats.splitlines() if state(line) == "Z"}
    found |= {f"mount {line.split()[4]}" for line in mounts.splitlines()}
    return found | {f"namespace {name}" for name in NAMESPACE.findall(namespaces)}


def state(stat: str) -> str:
    """The state in a line of /proc/PID/stat, whose second field may hold anything."""
    return stat.rpartition(") ")[2][:1]


def clean(machine: Machine) -> None:
    """Free every cell and stop what runs in the system's own."""
    for node in machine.api.cells.List(pb.CellServiceListRequest()).cells:
        if node.cell.name != SYSTEM:
            Cell(machine.api, node.cell.name).free(grace=0)
            continue
        for status in node.executables:
            machine.system.stop(status.executable.name, grace=0)


def save_evidence(machine: Machine, folder: Path) -> None:
    """Keep what tells why a test failed: console, QEMU's log and command line, auraed's log."""
    folder.mkdir(parents=True, exist_ok=True)
    files = machine.qemu.files
    for source in (files.console, files.log, files.command):
        if source.exists():
            (folder / source.name).write_bytes(source.read_bytes())
    if machine.qemu.ended:
        return
    began = time.monotonic()
    try:
        text = machine.daemon_log()
    except (grpc.RpcError, LookupError) as e:
        text = f"not to be had after {time.monotonic() - began:.1f} s: {e}\n"
    (folder / "auraed.log").write_text(text)
