"""The power is cut amid upgrades under OVMF: the node boots, into the old version or the new one.

The disks have a write cache that loses what was not flushed (`tests.integration.power`). Where the
power is cut is chosen by what the disks are asked for, so each phase of an upgrade is met, however
short it is and however fast the machine.
"""

import hashlib
import os
import queue
import random
import shutil
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from enum import IntEnum, auto
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import grpc
import pytest
from aurae.node.v0 import upgrade_pb2 as pb

from aer.bundle import Bundle
from image.acceleration import emulator_failed
from image.console import LOOK_SECONDS, PANIC
from image.machine import Drive
from initd.boot import esp
from testkit.machines import Machine, Machines
from tests.integration.disks import Disk, ext4_disk
from tests.integration.power import CachedDisk, Event, Kind, Power
from tests.integration.upgrades import BOOT_SECONDS, CREDENTIAL, Maker, status, until_healthy

SOAK: Final = bool(os.environ.get("AURAE_SOAK"))
# A cut that has not come by then does not come.
CUT_SECONDS: Final = 300.0
LABELS: Final = (
    "aurae-esp",
    "aurae-attempts",
    "aurae-root-a",
    "aurae-verity-a",
    "aurae-root-b",
    "aurae-verity-b",
)
ROUTE: Final = "network: eth0: default route"
KEPT: Final = "seq 200000 > /var/lib/aurae/kept; sync; sha256sum /var/lib/aurae/kept"
# What fsck.fat says of a file system that has nothing wrong; the count is a hint, left out by us.
SOUND: Final = (
    "fsck.fat ",
    "Free cluster summary ",
    "  Auto-setting.",
    "Leaving filesystem unchanged.",
)


class Phase(IntEnum):
    """In their order, but that reading back and the boot image take turns."""

    REMOVING = auto()
    """Older entries go, and what a cut has left is mended."""
    ROOT = auto()
    """Root and tree are written to the slot."""
    IMAGE = auto()
    """The boot image is written to free clusters of the ESP."""
    VERIFYING = auto()
    """All is read again."""
    STAGING = auto()
    """What the next boot must have is written, and the boot entry appears."""
    REBOOT = auto()
    """The node shuts down, firmware starts, the boot loader chooses."""
    LOADER = auto()
    """The boot loader counts, by renaming the entry."""
    BOOT = auto()
    """From the initramfs on."""
    BLESSING = auto()
    """The entry is renamed, and the count of boots cleared."""


# How far into a phase the power is cut at most: bytes, or requests of the disks, or seconds.
LENGTHS: Final = {
    Phase.REMOVING: 12,
    Phase.ROOT: 120 << 20,
    Phase.IMAGE: 28 << 20,
    Phase.VERIFYING: 145 << 20,
    Phase.STAGING: 9,
    Phase.REBOOT: 7,
    Phase.LOADER: 32,
    Phase.BOOT: 70 << 20,
    Phase.BLESSING: 8,
}
_BYTES: Final = {Phase.ROOT, Phase.IMAGE, Phase.VERIFYING, Phase.BOOT}
# A piece is of so many cuts: those before the new version starts, the shutdown and the removal of
# what it leaves behind, and those after. A cut amid the blessing may come in the boot that follows
# another cut, once that was found healthy: so many times both are made.
EARLY: Final = {Phase.ROOT: 3, Phase.IMAGE: 3, Phase.VERIFYING: 1, Phase.STAGING: 4}
LATE: Final = (
    (Phase.LOADER, True),
    (Phase.LOADER, False),
    (Phase.BOOT, True),
    (Phase.BOOT, False),
)
PIECES: Final = 10


@dataclass(slots=True)
class Track:
    """Follows an upgrade by what its disks are asked for, and cuts in one phase of it."""

    disk: Disk
    target: Phase
    wanted: float
    phase: Phase = Phase.REMOVING
    amounts: Counter[Phase] = field(default_factory=Counter)
    told: set[str] = field(default_factory=set)
    done: float = 0.0
    cleared: bool = False
    """The count of boots was cleared, and no entry blessed before: this is no new version."""
    _places: dict[str, tuple[int, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._places = {label: self.disk.partition(label) for label in LABELS}

    def __call__(self, event: Event) -> bool:
        if event.kind is Kind.TOLD:
            self.told.add(event.name)
            if event.name == "done":
                self.phase, self.done = Phase.REBOOT, time.monotonic()
            return False
        label = self._label(event)
        self.phase = self._next(event, label)
        self.amounts[self.phase] += self._amount(event, label)
        return self._reached

    @property
    def _reached(self) -> bool:
        if self.phase is self.target:
            return self.phase is not Phase.REBOOT and self.amounts[self.phase] > self.wanted
        # Where reading back begins before the boot image is written, that is not too late.
        if self.target is Phase.IMAGE and self.phase is Phase.VERIFYING:
            return False
        return self.phase > self.target

    def late(self) -> bool:
        """Whether that time has come; asked again and again."""
        waited = time.monotonic() - self.done
        return self.phase is self.target is Phase.REBOOT and waited > self.wanted

    def _label(self, event: Event) -> str:
        if event.name != "system" or event.kind is Kind.FLUSH:
            return ""
        for label, (begin, length) in self._places.items():
            if begin <= event.offset < begin + length:
                return label
        return ""

    def _next(self, event: Event, label: str) -> Phase:
        if self.phase >= Phase.REBOOT:
            return self._next_boot(event, label)
        written = event.kind is Kind.WRITE
        slot = label.startswith(("aurae-root", "aurae-verity"))
        esp = label == "aurae-esp"
        # Before all is read again it is this boot's count there, which is cleared late.
        expected = written and label == "aurae-attempts" and "verifying" in self.told
        if self.phase is Phase.STAGING or expected:
            return Phase.STAGING
        if written and slot:
            return Phase.ROOT
        if written and esp and "writing" in self.told:
            return Phase.IMAGE
        if event.kind is Kind.READ and (slot or esp) and "verifying" in self.told:
            return Phase.VERIFYING
        return self.phase

    def _next_boot(self, event: Event, label: str) -> Phase:
        if event.kind is not Kind.WRITE:
            return self.phase
        match self.phase, label:
            case Phase.REBOOT, "aurae-esp":
                return Phase.LOADER
            case Phase.REBOOT | Phase.LOADER, "aurae-attempts":
                return Phase.BOOT
            case Phase.BOOT, "aurae-esp":
                return Phase.BLESSING
            case Phase.BOOT, "aurae-attempts":
                self.cleared = True
        return self.phase

    def _amount(self, event: Event, label: str) -> int:
        if self.phase not in _BYTES:
            ours = event.name == "system" or self.phase is Phase.STAGING
            return 1 if ours and event.kind is not Kind.READ else 0
        reads = self.phase in (Phase.VERIFYING, Phase.BOOT)
        return event.size if event.kind is (Kind.READ if reads else Kind.WRITE) else 0


@dataclass(slots=True)
class Upgrading:
    """A call of Upgrade, in a thread of its own."""

    machine: Machine
    bundle: Bundle
    power: Power
    resumed: bool = False
    done: bool = False
    failed: grpc.RpcError | None = None
    _offsets: "queue.SimpleQueue[int]" = field(default_factory=queue.SimpleQueue)

    @property
    def unasked(self) -> bool:
        """It ended, and not by a reboot."""
        return self.failed is not None and not self.done

    def start(self) -> threading.Thread:
        thread = threading.Thread(target=self._run)
        thread.start()
        return thread

    def _run(self) -> None:
        told = False
        try:
            for answer in self.machine.api.upgrade.Upgrade(self._requests(), timeout=CUT_SECONDS):
                if not told:
                    self.resumed, told = answer.offset > 0, True
                    self.power.tell("writing")
                    self._offsets.put(answer.offset)
                if answer.stage == pb.UPGRADE_STAGE_VERIFYING:
                    self.power.tell("verifying")
                if answer.stage == pb.UPGRADE_STAGE_DONE:
                    self.done = True
                    self.power.tell("done")
        except grpc.RpcError as e:
            self.failed = e
        finally:
            self._offsets.put(-1)

    def _requests(self) -> Iterator[pb.UpgradeRequest]:
        begin = pb.UpgradeBegin(
            manifest=self.bundle.encoded,
            signature=self.bundle.signature.read_bytes(),
            reboot=True,
        )
        yield pb.UpgradeRequest(begin=begin)
        offset = self._offsets.get()
        if offset >= 0:
            for data in self.bundle.content(offset):
                yield pb.UpgradeRequest(content=data)


@dataclass(slots=True)
class Node:
    """A machine whose power is cut again and again, and what was seen."""

    machines: Machines
    maker: Maker
    chance: random.Random
    system: CachedDisk
    data: CachedDisk
    power: Power
    folder: Path
    file: Path
    """Gets a line of each cut."""
    machine: Machine | None = None
    version: str = ""
    kept: str = ""
    hit: Counter[Phase] = field(default_factory=Counter)
    into: Counter[str] = field(default_factory=Counter)
    resumed: int = 0
    finished: int = 0

    def boot(self) -> Machine:
        machine = self.machines.start(
            disk=Drive(file=self.system.drive, kept=True),
            drives=(Drive(file=self.data.drive, kept=True),),
            credentials=(*self.machines.trust.credentials(), CREDENTIAL),
            reboots=True,
            wait=False,
        )
        self.machine = machine
        return machine

    def log(self, line: str) -> None:
        with self.file.open("a") as file:
            file.write(f"{line}\n")

    def first(self) -> None:
        machine = self.boot()
        self.version = until_healthy(machine).version
        self.kept = machine.system.read(KEPT)

    def next(self) -> Bundle:
        """A version that is newer than what runs."""
        number = int(self.version.rpartition(".")[2]) if self.version.startswith("0.2.") else -1
        return Bundle.read(self.maker.make(f"0.2.{number + 1}"))

    def cut_amid_upgrade(self, target: Phase, poised: tuple[Path, Path] | None = None) -> set[str]:
        """Returns which versions may be next. `poised` are to have what the disks have then."""
        machine = self.machine
        assert machine is not None
        bundle = self.next()
        found = status(machine)
        wanted = self.chance.uniform(0, LENGTHS[target])
        if target is Phase.ROOT and found.HasField("upgrade"):
            if found.upgrade.offset > found.upgrade.size / 3:
                machine.api.upgrade.CancelUpgrade(pb.CancelUpgradeRequest())
            else:
                wanted /= 3
        track = Track(Disk(self.system.file), target, wanted)
        self.power.watch(track)
        upgrading = Upgrading(machine, bundle, self.power)
        thread = upgrading.start()
        try:
            self._wait(track, upgrading)
        finally:
            self.end()
            thread.join()
        self.resumed += upgrading.resumed
        self.finished += upgrading.done
        allowed = {self.version}
        if track.phase >= Phase.STAGING:
            allowed.add(bundle.manifest.version)
        self.lose(track)
        if poised is not None:
            Disk(self.system.file).copy(poised[0])
            Disk(self.data.file).copy(poised[1])
        return allowed

    def cut_amid_boot(self, target: Phase) -> None:
        """A version that may be new boots."""
        wanted = self.chance.uniform(0, LENGTHS[target])
        track = Track(Disk(self.system.file), target, wanted, Phase.REBOOT)
        self.power.watch(track)
        self.boot()
        assert self._wait(track, None)
        self.end()
        self.lose(track)

    def become(self, disks: tuple[Path, Path], version: str) -> None:
        self.end()
        self.power.restore()
        self.version = version
        self.system.replace(disks[0])
        self.data.replace(disks[1])

    def _wait(self, track: Track, upgrading: Upgrading | None) -> bool:
        """Whether the power was cut: False where there is nothing to be blessed."""
        deadline = time.monotonic() + CUT_SECONDS
        while not self.power.wait(0.1):
            assert time.monotonic() < deadline, f"no cut in {track.target.name}: {track.amounts}"
            if upgrading is not None and upgrading.unasked and not self.power.gone:
                raise AssertionError(f"no upgrade: {upgrading.failed}")
            if track.cleared:
                self.power.restore()
                return False
            if track.late() or (track.phase is Phase.BLESSING and self._is_good()):
                self.power.cut()
        return True

    def _is_good(self) -> bool:
        """The machine has found itself healthy."""
        assert self.machine is not None
        return "health: this boot is a good one" in self.machine.console.text

    def end(self) -> None:
        if self.machine is not None:
            self.power.cut()
            self.machine.kill()
            self.machines.close(self.machine)
            self.machine = None

    def lose(self, track: Track) -> None:
        """The disks have what they have, and that is looked at from outside."""
        count = self.system.lose(self.chance) + self.data.lose(self.chance)
        self.power.restore()
        self.hit[track.phase] += 1
        aside = self.folder / "esp"
        esp_of(self.system.file, aside)
        said = fsck(aside)
        self.log(
            f"cut {self.hit.total()}: {track.phase.name} (for {track.target.name}) at "
            f"{track.amounts[track.phase]}, {count} writes not flushed; {named(track.amounts)}"
            + (f"; fsck.fat: {' · '.join(said)}" if said else "")
        )
        found = images(aside)
        assert self.version in found
        for version, image in found.items():
            assert image == self.image(version), version
        said = fsck(aside)
        assert not said, "\n".join(said)

    def image(self, version: str) -> str:
        """The SHA-256 of its boot image."""
        if version == self.machines.version:
            return hashlib.sha256((self.machines.artifacts / "aurae.efi").read_bytes()).hexdigest()
        return Bundle.read(self.maker.make(version)).manifest.part("uki").sha256

    def check(self, allowed: set[str]) -> None:
        """The next boot is a good one, of one of these versions."""
        self.boot()
        self._check(allowed)

    def _check(self, allowed: set[str]) -> None:
        began = time.monotonic()
        machine = self.machine
        assert machine is not None
        # Before that nobody answers, and a connection may take long to find out.
        while ROUTE not in machine.console.text:
            assert time.monotonic() < began + BOOT_SECONDS, machine.console.last_lines()
            machine.qemu.wait_end(LOOK_SECONDS)
        found = until_healthy(machine)
        # The emulation's own, which the node has got over, is no matter of ours.
        assert PANIC not in machine.console.text or emulator_failed(machine.console.text)
        self.log(f"  version {found.version} after {time.monotonic() - began:.0f} s")
        assert found.version in allowed
        assert machine.system.read("sha256sum /var/lib/aurae/kept") == self.kept
        self.into["old" if found.version == self.version else "new"] += 1
        self.version = found.version

    def cut_amid_blessing(self, allowed: set[str]) -> None:
        """As `check`, but when the new version was found to be good, it is cut amid its being
        blessed, and then checked."""
        wanted = self.chance.uniform(0, LENGTHS[Phase.BLESSING])
        track = Track(Disk(self.system.file), Phase.BLESSING, wanted, Phase.REBOOT)
        self.power.watch(track)
        self.boot()
        if self._wait(track, None):
            assert self._is_good()
            self.into["new"] += 1
            self.end()
            self.lose(track)
            self.boot()
        self._check(allowed)


def esp_of(disk: Path, aside: Path) -> None:
    """A copy of the EFI system partition."""
    begin, length = Disk(disk).partition("aurae-esp")
    with disk.open("rb") as source, aside.open("wb") as to:
        to.truncate(length)
        for at in range(0, length, 1 << 20):
            source.seek(begin + at)
            if (piece := source.read(1 << 20)).count(0) != len(piece):
                to.seek(at)
                to.write(piece)


def images(partition: Path) -> dict[str, str]:
    """The versions that the boot loader may start, with the SHA-256 of what it would load; and the
    file system is mended, as the node does before it writes anything."""
    with esp.opened(str(partition)) as opened:
        opened.mend()
        return {
            present.entry.version: hashlib.sha256(
                opened.fat.read(present.file, 0, present.file.size)
            ).hexdigest()
            for present in opened.entries()
        }


def fsck(partition: Path) -> list[str]:
    """What is wrong with the file system, by somebody else's word."""
    program = shutil.which("fsck.vfat", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    assert program is not None, "fsck.vfat: not on this host; install dosfstools"
    done = subprocess.run([program, "-n", partition], check=False, capture_output=True, text=True)
    lines = [line for line in done.stdout.splitlines() if line and str(partition) not in line]
    return [line for line in lines if not line.startswith(SOUND)]


@pytest.fixture(scope="module")
def maker(machines: Machines) -> Maker:
    found = Maker.find(machines.artifacts)
    if found is None or not (machines.artifacts / "aurae.img").exists():
        pytest.skip("this image was not built here, or has no disk")
    return found


@pytest.fixture
def node(machines: Machines, maker: Maker, seed: int, tmp_path: Path) -> Iterator[Node]:
    log = machines.artifacts / f"power-cuts/{seed}.log"
    log.parent.mkdir(exist_ok=True)
    log.unlink(missing_ok=True)
    power = Power()
    system = Disk(machines.artifacts / "aurae.img").copy(tmp_path / "disk.img")
    data = ext4_disk(tmp_path / "data.img")
    with (
        TemporaryDirectory() as sockets,
        closing(CachedDisk(system.file, "system", power, Path(sockets, "system"))) as first,
        closing(CachedDisk(data, "data", power, Path(sockets, "data"))) as second,
    ):
        chance = random.Random(seed)
        made = Node(machines, maker, chance, first, second, power, tmp_path, log)
        yield made
        made.end()
    shutil.rmtree(tmp_path)


@pytest.mark.parametrize("seed", range(PIECES if SOAK else 1), scope="function")
def test_a_power_cut_at_any_point_leaves_a_node_that_boots(node: Node) -> None:
    node.first()
    for target in shuffled(EARLY if SOAK else {}, node.chance):
        node.check(node.cut_amid_upgrade(target))
    old = node.version
    poised = node.folder / "poised-system", node.folder / "poised-data"
    both = node.cut_amid_upgrade(Phase.REBOOT, poised)
    node.cut_amid_blessing(both)
    if SOAK:
        node.check(node.cut_amid_upgrade(Phase.REMOVING))
    for target, blessing in LATE if SOAK else ():
        node.become(poised, old)
        node.cut_amid_boot(target)
        (node.cut_amid_blessing if blessing else node.check)(both)
    node.log(
        f"cuts: {named(node.hit)}; boots into {dict(node.into)}; "
        f"upgrades that were gone on with: {node.resumed}, that ended well: {node.finished}"
    )
    # The shortest may be over before the cut that was meant for it, which is in the next one then.
    assert not SOAK or set(node.hit) | {Phase.REMOVING, Phase.REBOOT} == set(Phase)


def shuffled(counts: Mapping[Phase, int], chance: random.Random) -> list[Phase]:
    phases = [phase for phase, count in counts.items() for _ in range(count)]
    chance.shuffle(phases)
    return phases


def named(counts: Mapping[Phase, int]) -> dict[str, int]:
    return {phase.name: counts[phase] for phase in Phase if phase in counts}
