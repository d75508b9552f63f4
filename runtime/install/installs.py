"""Installations: each writes to one disk, in a thread of its own."""

import asyncio
import logging
import platform
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from typing import Final, TypeVar

from initd.errors import AuraedError, FailedPrecondition
from runtime.install import target
from runtime.install.disks import Disks
from runtime.install.image import architecture_of
from runtime.install.model import Asked, Phase, Progress
from runtime.install.target import Target
from runtime.install.writer import Writer

log = logging.getLogger(__name__)

# Seconds between two words about how far it is.
PACE: Final = 0.5
# Zeros that a disk may write itself are given in steps of this.
_ZEROS: Final = 64 << 20

_T = TypeVar("_T")


class Worker:
    """A thread that does one thing after the other."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="install")

    async def do(self, work: Callable[[], _T]) -> _T:
        """A caller that leaves meanwhile does not stop it."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)

    def end(self, last: Callable[[], object]) -> None:
        """Do `last` after all that was begun. Nobody waits: a disk may never answer."""
        self._executor.submit(last)
        self._executor.shutdown(wait=False)


class Installs:
    def __init__(
        self,
        disks: Disks,
        open_disk: Callable[[str], Target] = target.Disk,
        architecture: str | None = None,
    ) -> None:
        self._disks = disks
        self._open = open_disk
        self._architecture = architecture or architecture_of(platform.machine())

    async def install(
        self, asked: Asked, parts: AsyncIterator[bytes | int]
    ) -> AsyncIterator[Progress]:
        """Write what comes to the disk; `parts` are bytes, and numbers of zeros.

        A refusal after the first change says so. Left before its end, it leaves a disk that boots
        nothing."""
        worker = Worker()
        # A caller may leave while the disk is opened.
        opened = ExitStack()
        try:
            disk = await worker.do(lambda: self._claim(asked, opened))
            async for progress in self._write(worker, disk, asked, parts):
                yield progress
        finally:
            worker.end(opened.close)

    async def _write(
        self, worker: Worker, disk: Target, asked: Asked, parts: AsyncIterator[bytes | int]
    ) -> AsyncIterator[Progress]:
        writer = Writer(disk, architecture=self._architecture, size=asked.size, sha256=asked.sha256)
        done = False
        try:
            with _explained(disk, writer):
                async for progress in _run(worker, writer, parts, disk.path):
                    yield progress
                await worker.do(writer.seal)
            done = True
            assert writer.image is not None
            log.info("install: %s: boots from now on", disk.path)
            yield Progress(Phase.DONE, writer.image.size, writer.image.size)
        finally:
            if writer.touched and not done:
                log.error("install: %s: was not completed, and boots nothing now", disk.path)

    def _claim(self, asked: Asked, opened: ExitStack) -> Target:
        try:
            disk = opened.enter_context(closing(self._open(asked.disk)))
        except FailedPrecondition as e:
            uses = [one.used_by for one in self._disks.list() if one.path == asked.disk]
            if "in use" in str(e) and uses and uses[0]:
                raise FailedPrecondition(
                    f"{asked.disk}: is in use: {', '.join(uses[0])}; take another disk"
                ) from e
            raise
        if asked.sequence and asked.sequence != self._disks.sequence(disk.path):
            raise FailedPrecondition(
                f"{asked.disk}: is another disk than the one that was shown; list the disks anew"
            )
        return disk


async def _run(
    worker: Worker, writer: Writer, parts: AsyncIterator[bytes | int], path: str
) -> AsyncIterator[Progress]:
    """Write and compare."""
    told = 0.0
    async for part in parts:
        for step in _steps(part):
            begun = writer.touched
            await worker.do(lambda step=step: _feed(writer, step))  # type: ignore[misc]
            if writer.image is None:
                continue
            if not begun:
                log.info("install: %s: an image of %d MiB comes", path, writer.image.size >> 20)
            if time.monotonic() - told >= PACE:
                told = time.monotonic()
                yield Progress(Phase.WRITING, writer.position, writer.image.size)
    await worker.do(writer.complete)
    assert writer.image is not None
    verified = writer.verify()
    while (done := await worker.do(lambda: _for_a_while(verified))) is not None:
        yield Progress(Phase.VERIFYING, done, writer.image.size)


def _steps(part: bytes | int) -> Iterator[bytes | int]:
    if isinstance(part, bytes):
        yield part
        return
    while part > 0:
        yield min(part, _ZEROS)
        part -= _ZEROS


def _feed(writer: Writer, part: bytes | int) -> None:
    if isinstance(part, int):
        writer.zeros(part)
    else:
        writer.data(part)


def _for_a_while(verified: Iterator[int]) -> int | None:
    """What is verified after the time between two words; None: all."""
    until = time.monotonic() + PACE
    done = None
    for done in verified:  # noqa: B007 # it is what is returned
        if time.monotonic() >= until:
            break
    return done


@contextmanager
def _explained(disk: Target, writer: Writer) -> Iterator[None]:
    """What fails says what the disk is good for now."""
    try:
        yield
    except AuraedError as e:
        if not writer.touched:
            raise
        raise type(e)(f"{e}. {disk.path} boots nothing now") from e
    except OSError as e:
        why = "was removed" if target.is_gone(disk.path) else e.strerror or str(e)
        now = " It boots nothing now." if writer.touched else ""
        raise FailedPrecondition(
            f"{disk.path}: {why}, at {writer.position >> 20} MiB of the image; look whether it is "
            f"in order, and install again.{now}"
        ) from e
