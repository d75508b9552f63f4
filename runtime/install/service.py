"""aurae.node.v0's InstallService over gRPC."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final, TypeAlias

from aurae.node.v0 import install_pb2, install_pb2_grpc
from grpc import aio

from initd.errors import InvalidArgument
from runtime.install.disks import Disks
from runtime.install.installs import Installs
from runtime.install.model import Asked, Disk, Part, Phase

# Generic in its stub only.
Context: TypeAlias = "aio.ServicerContext[Any, Any]"

PHASES: Final = {
    Phase.WRITING: install_pb2.INSTALL_PHASE_WRITING,
    Phase.VERIFYING: install_pb2.INSTALL_PHASE_VERIFYING,
    Phase.DONE: install_pb2.INSTALL_PHASE_DONE,
}


class InstallService(install_pb2_grpc.InstallServiceServicer):
    def __init__(self, disks: Disks, installs: Installs) -> None:
        self._disks = disks
        self._installs = installs

    async def ListDisks(
        self, request: install_pb2.ListDisksRequest, context: Context
    ) -> install_pb2.ListDisksResponse:
        found = await asyncio.to_thread(self._disks.list)
        return install_pb2.ListDisksResponse(disks=map(_disk, found))

    async def Install(
        self, request: AsyncIterator[install_pb2.InstallRequest], context: Context
    ) -> AsyncIterator[install_pb2.InstallResponse]:
        asked = await _asked(request)
        async for phase, done, total in self._installs.install(asked, _parts(request)):
            yield install_pb2.InstallResponse(phase=PHASES[phase], done=done, total=total)


async def _asked(requests: AsyncIterator[install_pb2.InstallRequest]) -> Asked:
    first = await anext(requests, None)
    if first is None or first.WhichOneof("part") != "begin":
        raise InvalidArgument("begin: must be the first message; say which disk")
    begin = first.begin
    if not begin.disk.startswith("/"):
        raise InvalidArgument(f"disk: {begin.disk!r} is no path; give one such as /dev/sda")
    if len(begin.sha256) not in (0, 32):
        raise InvalidArgument(f"sha256: has {len(begin.sha256)} bytes; give 32, or nothing")
    return Asked(begin.disk, begin.sequence, begin.size, begin.sha256)


async def _parts(
    requests: AsyncIterator[install_pb2.InstallRequest],
) -> AsyncIterator[bytes | int]:
    async for request in requests:
        match request.WhichOneof("part"):
            case "data":
                yield request.data
            case "zeros":
                yield request.zeros
            case _:
                raise InvalidArgument("part: neither data nor zeros; begin is the first only")


def _disk(disk: Disk) -> install_pb2.Disk:
    return install_pb2.Disk(
        path=disk.path,
        sequence=disk.sequence,
        size=disk.size,
        sector_size=disk.sector,
        model=disk.model,
        serial=disk.serial,
        removable=disk.removable,
        read_only=disk.read_only,
        content=disk.content,
        used_by=disk.used_by,
        partitions=map(_part, disk.parts),
    )


def _part(part: Part) -> install_pb2.DiskPartition:
    return install_pb2.DiskPartition(
        path=part.path,
        label=part.label,
        size=part.size,
        content=part.content,
        used_by=part.used_by,
    )
