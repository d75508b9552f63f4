"""The API server: from its start to the end of its drain."""

import asyncio
import logging
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import Final

import grpc
from google.protobuf.internal import api_implementation
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from initd import headstart
from initd.errors import AuraedError, Unavailable
from initd.processes.model import How
from initd.values import NamedTuple
from runtime.cells.cells import Cells
from runtime.cells.cgroups import Cgroups
from runtime.cells.specs import Specs
from runtime.cells.wanted import WantedFiles
from runtime.observe.streams import Streams
from runtime.observe.wakeups import Wakeups
from runtime.processes import Processes
from runtime.server import boot, credentials, peers
from runtime.server.border import Border
from runtime.server.callers import Callers
from runtime.server.health import Health
from runtime.server.reflection import SERVICE as REFLECTION
from runtime.server.reflection import Reflection
from runtime.server.relay import Find, Relay, share
from runtime.server.services import NAMES, SERVICES, Parts
from runtime.server.settings import Settings
from runtime.server.workloads import WorkloadApi

log = logging.getLogger(__name__)

# Seconds that calls in flight have to finish once the API is to stop.
DRAIN: Final = 5.0
# Seconds that the last answers have to leave; then connections are cut.
CUT: Final = 0.5
# Seconds until PID 1, which was away, is told again that we are well.
AGAIN: Final = 1.0

OPTIONS: Final = (
    ("grpc.max_receive_message_length", 4 * 1024 * 1024),
    # Two servers on one port would take turns, and half of the calls would reach the wrong one.
    ("grpc.so_reuseport", 0),
    # A follower of logs that lost its network is noticed within 80 s.
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.max_concurrent_streams", 1_000),
)


class Serving(NamedTuple):
    """An API that answers."""

    where: str
    port: int | None
    """Its TCP port; None where it is on the Unix socket only."""
    parts: Parts


async def serve(
    settings: Settings, version: str, cgroups: Cgroups, find: Find = peers.find
) -> None:
    """Serve until SIGTERM or SIGINT, then drain."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with serving(settings, version, cgroups, find):
        await stop.wait()
        log.info("stopping")
    log.info("stopped")


@asynccontextmanager
async def serving(
    settings: Settings, version: str, cgroups: Cgroups, find: Find = peers.find
) -> AsyncIterator[Serving]:
    """Serve within the block; drain at its end. `find` tells who connects to the Unix socket."""
    if api_implementation.Type() != "upb":
        log.warning("protobuf: is not compiled but pure Python, so the API is slow; mend the image")
    identity = _credentials(settings.credentials)
    going_down = asyncio.Event()

    def go_down(how: How) -> None:
        border.go_down(how)
        cells.close()
        going_down.set()

    processes = Processes(settings.initd, go_down)
    cells = Cells(
        cgroups,
        Specs(settings.cells),
        WantedFiles(settings.executables),
        processes,
        notify=settings.notify,
    )
    callers = Callers(identity.identity.trust_domain if identity else None, cells)
    border = Border(callers)
    server = aio.server(interceptors=[border], options=OPTIONS)
    with Wakeups() as wakeups:
        parts = Parts(
            version=version,
            processes=processes,
            cells=cells,
            streams=Streams(settings.logs, processes, wakeups),
            health=Health(),
        )
        _register(server, parts)
        cells.recover()
        where, port = _listen(server, settings, identity)
        await server.start()
        await parts.health.serve(NAMES)
        # Only now may anybody connect: before, they are refused at once, and try again.
        listener = share(settings.shared, settings.socket)
        with (
            closing(WorkloadApi(settings, callers.caller, find)) as workloads,
            Relay(listener, settings.internal, callers, find) as relay,
        ):

            def removed(cell: str) -> None:
                relay.drop(cell)
                workloads.drop(cell)

            cells.on_removed = removed
            log.info("serving on %s", where)
            try:
                async with asyncio.TaskGroup() as tasks:
                    connected, announced = asyncio.Event(), asyncio.Event()
                    owned = (
                        tasks.create_task(processes.run(connected.set)),
                        tasks.create_task(
                            _announce(processes, connected, announced, where, callers, identity)
                        ),
                        tasks.create_task(workloads.run(announced)),
                        tasks.create_task(_apply(cells, connected, settings)),
                        tasks.create_task(_settle(cells, connected)),
                        tasks.create_task(_live(processes, connected)),
                        tasks.create_task(_tell(parts.health, going_down)),
                    )
                    yield Serving(where, port, parts)
                    await parts.health.drain()
                    await border.drain(DRAIN)
                    for task in owned:
                        task.cancel()
            finally:
                await server.stop(CUT)
                await relay.drain(CUT)


async def _announce(
    processes: Processes,
    connected: asyncio.Event,
    announced: asyncio.Event,
    where: str,
    callers: Callers,
    identity: credentials.Credentials | None,
) -> None:
    """Tell PID 1 that the API answers, once everything does; then look at what it answers with."""
    await connected.wait()
    await processes.ready(f"serving on {where}")
    headstart.settle()
    announced.set()
    if identity is not None:
        await asyncio.to_thread(_verify, identity, callers)


def _verify(identity: credentials.Credentials, callers: Callers) -> None:
    """Callers would refuse unusable credentials; so does the node."""
    from runtime.server.verification import verify

    try:
        if verify(identity):
            log.warning(
                "credential %s: is not valid at this node's time; check the clock, or renew it",
                credentials.CERTIFICATE,
            )
    except credentials.Unusable as e:
        log.error("%s. Until then callers over TCP are refused", e)
        callers.refuse_all_but_local()


async def _live(processes: Processes, connected: asyncio.Event) -> None:
    """Tell PID 1, over and over, that the API is well: it replaces one that is silent."""
    await connected.wait()
    while True:
        try:
            again = await processes.alive()
        except Unavailable:
            # PID 1 waits longer than a connection takes to come back.
            again = AGAIN
        await asyncio.sleep(again)


async def _tell(health: Health, going_down: asyncio.Event) -> None:
    """Whoever watches hears of the road down when it begins, not when it comes to the API."""
    await going_down.wait()
    log.info("the node goes down: nothing new is taken")
    await health.drain()


async def _apply(cells: Cells, connected: asyncio.Event, settings: Settings) -> None:
    await connected.wait()
    await boot.apply(cells, settings.sets, settings.applied)


async def _settle(cells: Cells, connected: asyncio.Event) -> None:
    """Finish what an earlier runtime left behind; callers need not wait for it."""
    await connected.wait()
    try:
        await cells.settle()
    except (AuraedError, OSError) as e:
        log.error("what was left behind: not all of it is settled: %s", e)


def _register(server: aio.Server, parts: Parts) -> None:
    for service in SERVICES:
        service.register(service.make(parts), server)
    health_pb2_grpc.add_HealthServicer_to_server(parts.health, server)
    health = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
    server.add_generic_rpc_handlers((Reflection((*NAMES, health, REFLECTION)),))


def _credentials(folder: Path | None) -> credentials.Credentials | None:
    if folder is None:
        return None
    try:
        return credentials.read(folder)
    except credentials.Unusable as e:
        log.error("%s. Until then the API is on the Unix socket only", e)
        return None


def _listen(
    server: aio.Server, settings: Settings, identity: credentials.Credentials | None
) -> tuple[str, int | None]:
    """Open gRPC's own Unix socket, and the TCP port if the node can prove who it is."""
    where = str(settings.socket)
    settings.internal.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # The file is made by bind(2): only the mask keeps others out from its first moment on.
    with _umask(0o177):
        server.add_insecure_port(f"unix:{settings.internal}")
    if identity is None:
        return where, None
    try:
        port = server.add_secure_port(
            settings.listen,
            grpc.ssl_server_credentials(
                [(identity.key, identity.certificate)],
                root_certificates=identity.bundle,
                require_client_auth=True,
            ),
        )
    except RuntimeError:
        log.error("%s. Until then the API is on the Unix socket only", _why_not(settings, identity))
        return where, None
    host = settings.listen.rpartition(":")[0]
    return f"{host}:{port} as {identity.identity} and {where}", port


def _why_not(settings: Settings, identity: credentials.Credentials) -> str:
    """Why gRPC does not listen: it does not say."""
    from runtime.server.verification import verify

    try:
        verify(identity)
    except credentials.Unusable as e:
        return str(e)
    return f"cannot listen on {settings.listen}: free the port, or set aurae.listen="


@contextmanager
def _umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)
