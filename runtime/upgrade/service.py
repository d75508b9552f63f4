"""aurae.node.v0.UpgradeService over gRPC."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any, Final

from aurae.node.v0 import upgrade_pb2, upgrade_pb2_grpc
from grpc import aio

from initd.errors import InvalidArgument, Unavailable
from initd.processes.model import How
from initd.release import parse
from runtime.processes import Processes
from runtime.upgrade.fetch import Source
from runtime.upgrade.model import Installed, Progress, Stage
from runtime.upgrade.upgrades import Upgrade, Upgrades

# Seconds that a caller may send nothing, and between two messages to it.
STALL: Final = 60.0
EVERY: Final = 0.5

STAGES: Final = {
    Stage.WRITING: upgrade_pb2.UPGRADE_STAGE_WRITING,
    Stage.VERIFYING: upgrade_pb2.UPGRADE_STAGE_VERIFYING,
    Stage.DONE: upgrade_pb2.UPGRADE_STAGE_DONE,
}


class UpgradeService(upgrade_pb2_grpc.UpgradeServiceServicer):
    def __init__(self, upgrades: Upgrades, processes: Processes) -> None:
        self._upgrades = upgrades
        self._processes = processes

    async def Upgrade(  # type: ignore[override] # it writes by itself
        self,
        request_iterator: AsyncIterator[upgrade_pb2.UpgradeRequest],
        context: "aio.ServicerContext[Any, Any]",
    ) -> None:
        begin = await _begin(request_iterator)
        async with AsyncExitStack() as stack:
            manifest, signature = begin.manifest, begin.signature
            source: Source | None = None
            if begin.url:
                source = stack.enter_context(Source(begin.url))
                signature = await asyncio.to_thread(source.signature)
                manifest = await asyncio.to_thread(source.manifest)
            if not manifest or not signature:
                raise InvalidArgument("begin: give a manifest and its signature, or a URL")
            upgrade = await stack.enter_async_context(
                self._upgrades.begin(manifest, _signature(signature))
            )
            await context.write(_progress(upgrade.progress))
            if source is None:
                content = _content(request_iterator)
            else:
                content = _fetched(source, manifest, upgrade.progress.offset)
            await _write(upgrade, content, context)
            await context.write(_progress(await upgrade.run(upgrade.written)))
            done = await upgrade.run(upgrade.finish)
        await context.write(_progress(done))
        if begin.reboot:
            await self._processes.shutdown(How.REBOOT)

    async def GetUpgradeStatus(
        self,
        request: upgrade_pb2.GetUpgradeStatusRequest,
        context: "aio.ServicerContext[Any, Any]",
    ) -> upgrade_pb2.GetUpgradeStatusResponse:
        status = await asyncio.to_thread(self._upgrades.status)
        return upgrade_pb2.GetUpgradeStatusResponse(
            version=status.version,
            slot=status.slot,
            health=status.health,
            health_reason=status.reason,
            versions=map(_installed, status.versions),
            active=status.active,
            upgrade=None if status.upgrade is None else _progress(status.upgrade),
        )

    async def CancelUpgrade(
        self, request: upgrade_pb2.CancelUpgradeRequest, context: "aio.ServicerContext[Any, Any]"
    ) -> upgrade_pb2.CancelUpgradeResponse:
        self._upgrades.cancel()
        return upgrade_pb2.CancelUpgradeResponse()

    async def Rollback(
        self, request: upgrade_pb2.RollbackRequest, context: "aio.ServicerContext[Any, Any]"
    ) -> upgrade_pb2.RollbackResponse:
        version = await asyncio.to_thread(self._upgrades.rollback)
        if request.reboot:
            await self._processes.shutdown(How.REBOOT)
        return upgrade_pb2.RollbackResponse(version=version)


async def _begin(requests: AsyncIterator[upgrade_pb2.UpgradeRequest]) -> upgrade_pb2.UpgradeBegin:
    first = await _next(requests)
    if first is None or first.WhichOneof("step") != "begin":
        raise InvalidArgument("upgrade: the first message must be begin")
    begin: upgrade_pb2.UpgradeBegin = first.begin
    if begin.url and (begin.manifest or begin.signature):
        raise InvalidArgument("begin: give a manifest and its signature, or a URL, and not both")
    return begin


async def _next(
    requests: AsyncIterator[upgrade_pb2.UpgradeRequest],
) -> upgrade_pb2.UpgradeRequest | None:
    """None: there is no more. Raises Unavailable."""
    try:
        async with asyncio.timeout(STALL):
            return await anext(requests)
    except StopAsyncIteration:
        return None
    except TimeoutError as e:
        raise Unavailable(
            f"upgrade: its caller has sent nothing for {STALL:g} s; the same call goes on later"
        ) from e


async def _content(requests: AsyncIterator[upgrade_pb2.UpgradeRequest]) -> AsyncIterator[bytes]:
    while (request := await _next(requests)) is not None:
        if request.WhichOneof("step") != "content":
            raise InvalidArgument("upgrade: after the first message comes content only")
        yield request.content


async def _fetched(source: Source, manifest: bytes, offset: int) -> AsyncIterator[bytes]:
    await asyncio.to_thread(source.seek, manifest, parse(manifest).stored, offset)
    while data := await asyncio.to_thread(source.read):
        yield data


async def _write(
    upgrade: Upgrade, content: AsyncIterator[bytes], context: "aio.ServicerContext[Any, Any]"
) -> None:
    told = time.monotonic()
    async for data in content:
        progress = await upgrade.run(lambda data=data: upgrade.feed(data))  # type: ignore[misc]
        if time.monotonic() - told >= EVERY:
            told = time.monotonic()
            await context.write(_progress(progress))


def _signature(raw: bytes) -> bytes:
    """Raw, or as the file beside a bundle has it: base64."""
    import base64
    import binascii

    if len(raw) == 64:
        return raw
    try:
        return base64.b64decode(raw.strip(), validate=True)
    except binascii.Error as e:
        raise InvalidArgument("signature: is none; sign the bundle by aer image sign") from e


def _progress(progress: Progress) -> upgrade_pb2.UpgradeResponse:
    return upgrade_pb2.UpgradeResponse(
        stage=STAGES[progress.stage],
        version=progress.version,
        offset=progress.offset,
        size=progress.size,
        slot=progress.slot,
    )


def _installed(installed: Installed) -> upgrade_pb2.InstalledVersion:
    state = upgrade_pb2.VERSION_STATE_TRYING
    if installed.left is None:
        state = upgrade_pb2.VERSION_STATE_GOOD
    elif not installed.left and not installed.running:
        state = upgrade_pb2.VERSION_STATE_BAD
    return upgrade_pb2.InstalledVersion(
        version=installed.version,
        state=state,
        tries_left=installed.left or 0,
        running=installed.running,
    )
