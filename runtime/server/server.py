"""The API server: from its start to the end of its drain."""

import asyncio
import logging
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Final

from grpc import aio

from initd import headstart
from initd.errors import AuraedError, Unavailable
from initd.linux import clock
from initd.processes.model import How
from initd.values import NamedTuple
from runtime.cells.cells import Cells
from runtime.cells.cgroups import Cgroups
from runtime.cells.specs import Specs
from runtime.cells.wanted import WantedFiles
from runtime.observe.streams import Streams
from runtime.observe.wakeups import Wakeups
from runtime.processes import Processes
from runtime.server import peers
from runtime.server.authentication import Authenticator
from runtime.server.border import Border
from runtime.server.callers import Callers
from runtime.server.health import Health
from runtime.server.recorder import Recorder
from runtime.server.reflection import SERVICE as REFLECTION
from runtime.server.reflection import Reflection
from runtime.server.relay import Find, Relay, share
from runtime.server.secure import Secure
from runtime.server.services import LATER, NAMES, Late, Parts
from runtime.server.settings import Settings
from runtime.server.workloads import WorkloadApi
from runtime.trust.files import CHANGES, Files
from runtime.trust.material import Unusable
from runtime.trust.trust import Source, Trust

if TYPE_CHECKING:
    from runtime.configuration.configurations import Configurations
    from runtime.server.admission import Admission
    from runtime.server.deciding import Deciding
    from runtime.trust.custody import Custody

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
    set_clock = clock.set_system if settings.owns_clock else None
    files = Files(settings.identity, settings.credentials, set_clock)
    unclaimed = settings.claimable and not settings.spiffe and not files.any()
    source = _agent(settings) or files
    trust = Trust()
    going_down = asyncio.Event()

    def custody() -> "Custody":
        from runtime.trust.custody import Custody

        return Custody(files, trust, settings.spiffe, deciding().has_admin)

    @cache
    def deciding() -> "Deciding":
        from runtime.server.deciding import Deciding

        return Deciding(settings, trust, cells)

    @cache
    def configurations() -> "Configurations":
        from runtime.server.configured import make

        return make(settings, deciding().gate.policies, trust.domain)

    def admission() -> "Admission":
        from runtime.server.admission import Admission

        return Admission(callers, deciding().gate, audit)

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
    authenticator = Authenticator(trust)
    callers = Callers(authenticator, cells)
    cells.quota = lambda tenant: deciding().tenants.most(tenant)
    audit = Recorder(settings.state / "audit", lasting=settings.state == settings.disk)
    border = Border(admission, processes.tried)
    with Wakeups() as wakeups:
        parts = Parts(
            version=version,
            processes=processes,
            cells=cells,
            deciding=deciding,
            streams=Streams(settings.logs, processes, wakeups),
            health=Health(),
            audit=audit,
            settings=settings,
            custody=custody,
            configurations=configurations,
        )
        make = _maker(border, parts)
        server = make()
        secure = Secure(settings, trust, make, callers, find)
        cells.recover()
        _listen(server, settings)
        await server.start()
        parts.health.serve()
        # Only now may anybody connect: before, they are refused at once, and try again.
        _begin(trust, source, settings, unclaimed=unclaimed)
        await secure.open()
        listener = share(settings.shared, settings.socket)
        where = " and ".join(filter(None, (secure.where, str(settings.socket))))
        with (
            closing(WorkloadApi(settings, trust, callers.caller, find, audit.record)) as workloads,
            Relay(listener, settings.internal, callers, find) as relay,
        ):

            def removed(cell: str) -> None:
                relay.drop(cell)
                secure.drop(cell)
                workloads.drop(cell)

            cells.on_removed = removed
            log.info("serving on %s", where)
            try:
                async with asyncio.TaskGroup() as tasks:
                    connected, ready = asyncio.Event(), asyncio.Event()
                    owned = (
                        tasks.create_task(processes.run(connected.set)),
                        tasks.create_task(_announce(processes, connected, where, ready)),
                        tasks.create_task(_offer(settings, processes, ready))
                        if unclaimed
                        else tasks.create_task(
                            _follow(source, trust, wakeups, authenticator, ready)
                        ),
                        tasks.create_task(secure.keep()),
                        tasks.create_task(workloads.run(ready)),
                        tasks.create_task(_apply(cells, connected, settings)),
                        tasks.create_task(_settle(cells, connected)),
                        tasks.create_task(_live(processes, connected)),
                        tasks.create_task(_introduce(processes, trust, ready)),
                        tasks.create_task(_tell(parts.health, going_down)),
                        tasks.create_task(_keep(audit, ready)),
                        tasks.create_task(_fetch(settings, ready)),
                        tasks.create_task(_configure(settings, configurations, wakeups, ready)),
                    )
                    yield Serving(where, secure.port, parts)
                    await parts.health.drain()
                    await border.drain(DRAIN)
                    for task in owned:
                        task.cancel()
            finally:
                async with asyncio.TaskGroup() as ends:
                    ends.create_task(secure.close(CUT))
                    await server.stop(CUT)
                    await relay.drain(CUT)
                audit.log.close()


async def _configure(
    settings: Settings,
    configurations: "Callable[[], Configurations]",
    wakeups: Wakeups,
    ready: asyncio.Event,
) -> None:
    """Once the API answers, the node's configuration is followed, if somebody has given it one."""
    await ready.wait()
    if not settings.configurable:
        return
    changed = asyncio.Event()
    with wakeups.on(settings.run, changed, CHANGES):
        while not any(path.exists() for path in settings.documents):
            await changed.wait()
            changed.clear()
    for name in ("runtime.server.configured", "runtime.server.deciding"):
        await asyncio.to_thread(import_module, name)
    await configurations().run(wakeups)


async def _announce(
    processes: Processes, connected: asyncio.Event, where: str, ready: asyncio.Event
) -> None:
    """Tell PID 1 that the API answers, once everything does."""
    await connected.wait()
    await processes.ready(f"serving on {where}")
    headstart.settle()
    ready.set()


async def _offer(settings: Settings, processes: Processes, ready: asyncio.Event) -> None:
    """Until the node is claimed. Then this run ends, and PID 1 starts the next, which is who the
    node is by then."""
    await ready.wait()
    # With it comes what makes and reads certificates, which no other node needs now.
    claiming = await asyncio.to_thread(import_module, "runtime.server.claiming")
    try:
        await claiming.offer(settings, lambda words: processes.introduce(fingerprint=words))
    except (OSError, ValueError, RuntimeError) as e:
        log.error("claim: cannot be offered, boot again: %s", e)
    else:
        signal.raise_signal(signal.SIGTERM)


async def _follow(
    source: Source,
    trust: Trust,
    wakeups: Wakeups,
    authenticator: Authenticator,
    ready: asyncio.Event,
) -> None:
    """Once the API answers: look at what it answers with, and from then on at what replaces it."""
    await ready.wait()
    if trust.current is not None:
        await authenticator.load()
    await source.run(trust, wakeups)


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


async def _introduce(processes: Processes, trust: Trust, ready: asyncio.Event) -> None:
    """Have PID 1 show who the node is, from when the API answers on, whenever that is another."""
    changed = asyncio.Event()
    trust.listen(lambda _: changed.set())
    await ready.wait()
    told = ""
    while True:
        spiffe_id = "" if trust.current is None else str(trust.current.identity)
        if spiffe_id != told:
            await processes.introduce(spiffe_id)
            told = spiffe_id
        await changed.wait()
        changed.clear()


async def _tell(health: Health, going_down: asyncio.Event) -> None:
    """Whoever watches hears of the road down when it begins, not when it comes to the API."""
    await going_down.wait()
    log.info("the node goes down: nothing new is taken")
    await health.drain()


async def _keep(audit: Recorder, ready: asyncio.Event) -> None:
    """What is in the audit log gets on the disk. Before the API answers there is no time for it."""
    await ready.wait()
    for name in LATER:
        await asyncio.to_thread(import_module, name)
    from google.protobuf.internal import api_implementation

    if api_implementation.Type() != "upb":
        log.warning("protobuf: is not compiled but pure Python, so the API is slow; mend the image")
    await audit.log.run()


async def _fetch(settings: Settings, ready: asyncio.Event) -> None:
    """The node's configuration, where it is somewhere else."""
    if not settings.config_url:
        return
    await ready.wait()
    # Few nodes have it there.
    remote = await asyncio.to_thread(import_module, "runtime.remote.document")
    source = remote.Source(
        settings.config_url,
        settings.config_key,
        settings.boot_card,
        settings.config_authorities,
    )
    await remote.keep(source, settings.config_document)


async def _apply(cells: Cells, connected: asyncio.Event, settings: Settings) -> None:
    await connected.wait()
    if any(map(os.path.exists, settings.sets)):
        from runtime.server import boot

        await boot.apply(cells, settings.sets, settings.applied)


async def _settle(cells: Cells, connected: asyncio.Event) -> None:
    """Finish what an earlier runtime left behind; callers need not wait for it."""
    await connected.wait()
    try:
        await cells.settle()
    except (AuraedError, OSError) as e:
        log.error("what was left behind: not all of it is settled: %s", e)


def _maker(border: Border, parts: Parts) -> Callable[[], aio.Server]:
    """Makes servers that have every service."""
    services = tuple(Late(name, parts) for name in NAMES)
    reflection = Reflection((*NAMES, REFLECTION))

    def make() -> aio.Server:
        server = aio.server(interceptors=[border], options=OPTIONS)
        server.add_generic_rpc_handlers((*services, reflection))
        return server

    return make


def _agent(settings: Settings) -> Source | None:
    if not settings.spiffe:
        return None
    # Few nodes have one.
    from runtime.trust.agent import Agent

    return Agent(settings.spiffe)


def _begin(trust: Trust, source: Source, settings: Settings, *, unclaimed: bool) -> None:
    """What the node is known by at first; whether it is usable is found out later."""
    if unclaimed:
        log.info("nobody has claimed this node: until then its API is on the Unix socket only")
        # Root may give it an identity on that socket, too: the next run serves as who it is then.
        trust.listen(lambda _: signal.raise_signal(signal.SIGTERM))
        return
    try:
        trust.update(source.read())
    except Unusable as e:
        if settings.spiffe:
            log.info("%s", e)
        elif settings.credentials is not None:
            log.error("%s. Until then the API is on the Unix socket only", e)


def _listen(server: aio.Server, settings: Settings) -> None:
    """Open gRPC's own Unix socket."""
    settings.internal.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # The file is made by bind(2): only the mask keeps others out from its first moment on.
    with _umask(0o177):
        server.add_insecure_port(f"unix:{settings.internal}")


@contextmanager
def _umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)
