"""Upgrades: whether one may begin, what is done on the disk and in which order.

| step | a power cut after it leaves |
|---|---|
| entries but the running one are removed | the running version |
| root and hash tree are written to the other slot | the same; it goes on, or begins again |
| the boot image is written to clusters that are free | the same |
| all is read again, and held against manifest and boot image | the same |
| what the next boot must be found to have is written down | the same |
| the entry `aurae_VERSION+3.efi` appears | the new version, for three boots |
"""

import asyncio
import functools
import os
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager, closing
from typing import Final, TypeVar

from initd.boot import esp, verity
from initd.boot.esp import Entry, Esp
from initd.boot.verity import Slot
from initd.errors import FailedPrecondition, InvalidArgument, ResourceExhausted, Unavailable
from initd.release import (
    MACHINES,
    PIECE,
    Piece,
    Place,
    Reader,
    Unusable,
    compare,
    parse,
    release_of,
    roothash_of,
    sections,
    start_of,
)
from runtime.upgrade import keys
from runtime.upgrade.device import Device
from runtime.upgrade.model import Installed, Progress, Stage, Status, Wanted, Written
from runtime.upgrade.node import Node

# Bytes of the bundle after which it is made certain, and written down, that they are on the disk.
STEP: Final = 16 << 20
# An upgrade is nobody's hurry: whoever else wants a processor has it first.
NICE: Final = 15

_T = TypeVar("_T")


class Upgrades:
    """At most one at a time."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self._active: Upgrade | None = None
        self._busy = False
        self._bound: asyncio.Timeout | None = None
        self._cancelled = False

    @asynccontextmanager
    async def begin(self, encoded: bytes, signature: bytes) -> "AsyncIterator[Upgrade]":
        """Nothing is written unless the bundle is one for this node and has room. Raises
        AuraedError. Ends by TimeoutError's refusal when `cancel` is called."""
        if self._busy:
            raise FailedPrecondition("upgrade: another one is under way; wait for it or cancel it")
        self._busy, self._cancelled = True, False
        executor = ThreadPoolExecutor(1, "upgrade", _be_nice)
        making = executor.submit(
            lambda: Upgrade(self.node, self._allowed(encoded, signature), executor)
        )
        try:
            async with asyncio.timeout(None) as self._bound:
                self._active = upgrade = await asyncio.wrap_future(making)
                yield upgrade
        except TimeoutError as e:
            if not self._cancelled:
                raise
            raise FailedPrecondition("upgrade: was cancelled") from e
        except Unusable as e:
            raise InvalidArgument(str(e)) from e
        finally:
            if self._active is not None:
                self._active.stop()
                executor.submit(self._active.leave)
            # What its thread does now is short, but for a disk that does not answer.
            await asyncio.shield(asyncio.to_thread(executor.shutdown))
            if not making.cancelled() and making.exception() is None:
                making.result().close()
            if self._cancelled:
                self.node.forget()
            self._active, self._busy, self._bound = None, False, None

    def cancel(self) -> None:
        """Raises FailedPrecondition: there is nothing to cancel."""
        if self._busy and (self._bound is None or self._active is None):
            raise Unavailable("upgrade: is just beginning; try again")
        if self._bound is not None and self._active is not None:
            self._cancelled = True
            self._active.stop()
            self._bound.reschedule(asyncio.get_running_loop().time())
        elif self.node.written() is not None:
            self.node.forget()
        else:
            raise FailedPrecondition("upgrade: none is under way, nor was one cut")

    def status(self) -> Status:
        """May block."""
        origin = self.node.origin()
        found = self.node.found()
        versions: tuple[Installed, ...] = ()
        if origin.slot:
            with esp.opened(self.node.esp(origin)) as partition:
                entries = [present.entry for present in partition.entries()]
            versions = tuple(
                Installed(entry.version, entry.left, entry.version == found.version)
                for entry in entries
            )
        return Status(
            version=found.version or self.node.version,
            slot=origin.slot,
            health=found.state,
            reason=found.reason,
            versions=versions,
            active=self._active is not None,
            upgrade=self._progress(),
        )

    def rollback(self) -> str:
        """The running version is taken out of use; returns which one is next. May block. Raises
        FailedPrecondition."""
        if self._busy:
            raise FailedPrecondition("upgrade: one is under way; wait for it or cancel it")
        origin, slot = self.node.slots()
        self.node.check_healthy()
        with esp.opened(self.node.esp(origin)) as partition:
            running = self.node.found().version
            others = [p for p in partition.entries() if p.entry.version != running]
            usable = [
                p for p in others if not p.entry.bad and _is_in(p, partition, slot, self.node)
            ]
            if not running or not usable:
                raise FailedPrecondition(
                    f"version {running or self.node.version}: there is no other one to go back to"
                )
            partition.mark_bad(running)
        return usable[0].entry.version

    def _progress(self) -> Progress | None:
        if self._active is not None:
            return self._active.progress
        written = self.node.written()
        if written is None:
            return None
        manifest = parse(written.manifest)
        return Progress(
            Stage.WRITING, manifest.version, written.place.stored, manifest.stored, written.slot
        )

    def _allowed(self, encoded: bytes, signature: bytes) -> Wanted:
        """Raises what keeps it from being an upgrade of this node, whatever room there is."""
        keys.check(self.node.keys, encoded, signature)
        running = self.node.found().version or self.node.version
        manifest = parse(encoded)
        if manifest.architecture != self.node.architecture:
            raise InvalidArgument(
                f"version {manifest.version}: is for {manifest.architecture}, this node is "
                f"{self.node.architecture}; give it a bundle of its own"
            )
        if compare(manifest.version, running) <= 0:
            raise FailedPrecondition(
                f"version {manifest.version}: is not newer than {running}, which runs; the way "
                "back is a rollback"
            )
        self.node.slots()
        self.node.check_healthy()
        return Wanted(manifest, encoded)


class Upgrade:
    """One that is under way. All but `run` and `stop` may block; `run` has it done by a thread."""

    def __init__(self, node: Node, wanted: Wanted, executor: Executor) -> None:
        """Makes room, and finds out what is there already. Raises AuraedError, OSError."""
        self._node = node
        self._manifest, self._encoded = wanted
        self._executor = executor
        self._stopped = threading.Event()
        origin, self._slot = node.slots()
        with ExitStack() as opened:
            self._devices = {
                name: opened.enter_context(closing(Device(node.device(path))))
                for name, path in (("root", self._slot.root), ("verity", self._slot.tree))
            }
            for name, device in self._devices.items():
                size = self._manifest.part(name).size
                if size > device.size:
                    raise ResourceExhausted(
                        f"slot {self._slot.name}: {name} has {size} bytes, and the partition "
                        f"{device.size}; write a disk with larger slots"
                    )
            partition = opened.enter_context(esp.opened(node.esp(origin)))
            self._make_room(partition, origin.roothash)
            self._partition = partition
            self._image = partition.writer(self._manifest.part("uki").size)
            self._opened = opened.pop_all()
        place = self._begin()
        self._reader = Reader(self._manifest, place)
        # What the disk was asked to write, and what is certain to be there.
        self._place, self._safe = place, place.stored
        self.progress = self._at(Stage.WRITING)

    def close(self) -> None:
        self._opened.close()

    async def run(self, work: Callable[[], _T]) -> _T:
        return await asyncio.wrap_future(self._executor.submit(work))

    def stop(self) -> None:
        """Whatever its thread does ends soon."""
        self._stopped.set()

    def feed(self, data: bytes) -> Progress:
        """More of the bundle. Raises Unusable, OSError."""
        for piece in self._reader.feed(data):
            self._check()
            self._write(piece)
            self._place = piece.after
            if piece.after.stored - self._safe >= STEP or not piece.after.offset:
                self._keep(piece.after)
        self.progress = self._at(Stage.WRITING)
        return self.progress

    def written(self) -> Progress:
        """There is no more. Raises Unusable: that is too early."""
        self._reader.end()
        self.progress = self._at(Stage.VERIFYING)
        return self.progress

    def leave(self) -> None:
        """Where it ends early, whatever came is there for a later call to go on with."""
        if self.progress.stage is Stage.WRITING:
            self._keep(self._place)

    def finish(self) -> Progress:
        """Verify what the disk has, and make it the next boot's. Raises Unusable, OSError."""
        try:
            self._verify()
        except Unusable:
            # What is there is of no use to a later try either.
            self._node.forget()
            raise
        self._check()
        self._node.expect(self._manifest.roothash)
        entry = Entry(self._manifest.version, esp.TRIES)
        self._image.commit(esp.FOLDER, entry.name)
        self._node.forget()
        self.progress = self._at(Stage.DONE)
        return self.progress

    def _make_room(self, partition: Esp, running: str) -> None:
        """Only the running version stays, and whatever is no version of ours: what the other slot
        has is about to be written over. Raises ResourceExhausted, and nothing is changed."""
        old = [p for p in partition.entries() if _roothash(partition, p) != running]
        if len(old) == len(partition.entries()):
            raise FailedPrecondition(
                "node: the version that runs has no boot entry; write the disk anew"
            )
        fat = partition.fat
        needed = fat.room(self._manifest.part("uki").size)
        there = fat.free + sum(fat.room(present.file.size) for present in old)
        if needed > there:
            raise ResourceExhausted(
                f"EFI system partition: the boot image takes {needed} bytes, and {there} are "
                "there; remove what is not the node's from it"
            )
        partition.mend()
        for present in old:
            if (found := partition.find(present.entry.version)) is not None:
                partition.remove(found)

    def _begin(self) -> Place:
        written = self._node.written()
        if (
            written is not None
            and written.manifest == self._encoded
            and written.slot == self._slot.name
        ):
            # A boot image has no clusters of its own until it is there as a whole.
            image = len(self._manifest.parts) - 1
            return written.place if written.place.part < image else start_of(self._manifest, image)
        self._node.keep(Written(self._encoded, self._slot.name, Place()))
        return Place()

    def _write(self, piece: Piece) -> None:
        if (device := self._devices.get(piece.part.name)) is not None:
            device.write(piece.offset, piece.data)
        else:
            self._image.write(piece.offset, piece.data)

    def _keep(self, place: Place) -> None:
        for device in self._devices.values():
            device.sync()
        self._node.keep(Written(self._encoded, self._slot.name, place))
        self._safe = place.stored

    def _verify(self) -> None:
        for name, device in self._devices.items():
            part = self._manifest.part(name)
            device.sync()
            if device.digest(part.size, self._check) != part.sha256:
                raise _corrupt(name)
        self._verify_image()
        machine, found = sections(self._image.read, (".cmdline", ".osrel"))
        if machine != MACHINES.get(self._node.architecture):
            raise Unusable("part uki: is for another architecture")
        version = release_of(found.get(".osrel", b""))
        if version != self._manifest.version:
            # The boot loader goes by that.
            raise Unusable(f"part uki: says that it is version {version or 'of nothing'}")
        cmdline = found.get(".cmdline", b"").rstrip(b"\0").decode(errors="replace")
        tree = verity.read(self._node.device(self._slot.tree))
        root_hash = roothash_of(cmdline)
        if tree is None or root_hash != self._manifest.roothash:
            raise Unusable("part uki: is of another root than its manifest says")
        if not verity.has(tree, root_hash):
            raise Unusable("part verity: is not the hash tree that the boot image names")

    def _verify_image(self) -> None:
        import hashlib

        part = self._manifest.part("uki")
        self._image.settle()
        digest = hashlib.sha256()
        for offset in range(0, part.size, PIECE):
            self._check()
            digest.update(self._image.read(offset, PIECE))
        if digest.hexdigest() != part.sha256:
            raise _corrupt("uki")

    def _check(self) -> None:
        if self._stopped.is_set():
            raise FailedPrecondition("upgrade: was cancelled, or its caller has left")

    def _at(self, stage: Stage) -> Progress:
        return Progress(
            stage,
            self._manifest.version,
            self._reader.place.stored,
            self._manifest.stored,
            self._slot.name,
        )


def _corrupt(name: str) -> Unusable:
    return Unusable(f"part {name}: is not what its manifest says; make or fetch the bundle anew")


def _roothash(partition: Esp, present: esp.Present) -> str:
    """The root that an entry starts; empty: none."""
    try:
        _, found = sections(functools.partial(partition.fat.read, present.file), (".cmdline",))
    except (OSError, Unusable):
        return ""
    return roothash_of(found.get(".cmdline", b"").rstrip(b"\0").decode(errors="replace"))


def _is_in(present: esp.Present, partition: Esp, slot: Slot, node: Node) -> bool:
    """Whether the slot has what an entry starts."""
    tree = verity.read(node.device(slot.tree))
    return tree is not None and verity.has(tree, _roothash(partition, present))


def _be_nice() -> None:
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
