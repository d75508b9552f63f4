"""What it costs a call to know who calls, to decide, and to write that down."""

import asyncio
import multiprocessing
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

import grpc
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from bench.measurement import Measurement, median
from runtime.identity import authority
from runtime.identity.authority import KeyType, Pair
from runtime.identity.spiffe import SpiffeId
from runtime.policy.gate import Gate
from runtime.policy.policies import Policies
from runtime.server.admission import Admission
from runtime.server.authentication import Authenticator
from runtime.server.border import Border, Context
from runtime.server.callers import Callers
from runtime.server.recorder import Recorder
from runtime.trust.material import Material, Names
from runtime.trust.trust import Trust

DOMAIN: Final = "bench.aurae.test"
CALLS: Final = 4000
# In turn, so that what the machine does meanwhile is everybody's.
TURN: Final = 50
BAR: Final = 1.05


class Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc] # has no types
    """Answers at once: nothing else is measured."""

    async def Check(self, _request: Any, _context: Any) -> Any:  # noqa: N802
        return health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING)


class Open(Admission):
    """Lets in without a question who it is."""

    @asynccontextmanager
    async def admitted(
        self, _method: str, _context: Context, _request: Any, _refuse: Callable[[str], None]
    ) -> AsyncIterator[Callable[[], None]]:
        yield lambda: None


def measure(calls: int = CALLS) -> list[Measurement]:
    print("==> authorization", flush=True)
    with tempfile.TemporaryDirectory() as folder, _servers(Path(folder)) as (guarded, open_):
        for check in (guarded, open_):
            for _ in range(TURN):
                check()
        samples: tuple[list[float], list[float]] = ([], [])
        for _ in range(calls // TURN):
            for check, taken in zip((guarded, open_), samples, strict=True):
                taken += [_timed(check) for _ in range(TURN)]
    with_, without = map(median, samples)
    method = f"{calls} calls each on this machine over mTLS, {TURN} in turn; medians"
    return [
        Measurement(name="a call, authorized", value=with_ * 1e6, unit="us", method=method),
        Measurement(
            name="a call, authorized, over the same without",
            value=with_ / without,
            unit="ratio",
            bar=BAR,
            method=f"{method}; identity, decision by the policy and audit, against none of them",
        ),
    ]


def _timed(check: Callable[[], object]) -> float:
    began = time.perf_counter()
    check()
    return time.perf_counter() - began


@contextmanager
def _servers(folder: Path) -> Iterator[tuple[Callable[[], object], Callable[[], object]]]:
    """One call to each of two servers in one loop of another process: with authorization, and
    without."""
    signer = authority.make_authority(
        DOMAIN, authority.make_key(KeyType.ECDSA_P256), validity=timedelta(days=1)
    )
    node, person = (_svid(signer, path) for path in ("/node/bench", "/person/bench"))
    # A process of its own: in one, caller and server would wait for each other's Python.
    processes = multiprocessing.get_context("spawn")
    here, there = processes.Pipe()
    server = processes.Process(target=_run, args=(folder, signer, node, there))
    server.start()
    try:
        ports: tuple[int, int] = here.recv()
        credentials = grpc.ssl_channel_credentials(
            signer.certificate, person.key, person.certificate
        )
        options = [("grpc.ssl_target_name_override", "bench.node")]
        channels = [
            grpc.secure_channel(f"127.0.0.1:{port}", credentials, options) for port in ports
        ]
        request = health_pb2.HealthCheckRequest()
        first, second = (health_pb2_grpc.HealthStub(channel).Check for channel in channels)
        yield lambda: first(request), lambda: second(request)
        for channel in channels:
            channel.close()
    finally:
        here.close()
        server.join()


def _run(folder: Path, signer: Pair, node: Pair, pipe: Connection) -> None:
    """In the other process: until the pipe is closed."""
    asyncio.run(_serve(folder, signer, node, pipe))


def _svid(signer: Pair, path: str) -> Pair:
    return authority.issue(
        signer,
        SpiffeId(DOMAIN, path),
        authority.make_key(KeyType.ECDSA_P256),
        dns_name="bench.node" if path.startswith("/node/") else None,
        validity=timedelta(hours=1),
    )


async def _begun() -> None:
    """There is no PID 1 to wait for."""


def _same(admission: Admission) -> Admission:
    return admission


async def _serve(
    folder: Path,
    signer: Pair,
    node: Pair,
    pipe: Connection,
) -> None:
    stop = asyncio.Event()
    material = Material(
        identity=SpiffeId(DOMAIN, "/node/bench"),
        certificate=node.certificate,
        key=node.key,
        bundles={DOMAIN: signer.certificate},
        crls=b"",
        source="bench",
        names=Names("certificate", "key", "bundle"),
    )
    trust = Trust(material)
    authenticator = Authenticator(trust)
    await authenticator.load()
    # Nobody comes by a Unix socket, so no cell is looked for.
    callers = Callers(authenticator, None)  # type: ignore[arg-type]
    gate = Gate(Policies(folder / "policy.json", None, trust.domain))
    audit = Recorder(folder / "audit", lasting=True)
    credentials = grpc.ssl_server_credentials(
        [(node.key, node.certificate)], signer.certificate, require_client_auth=True
    )
    servers, ports = [], []
    for admission in (Admission(callers, gate, audit), Open(callers, gate, audit)):
        server = aio.server(interceptors=[Border(partial(_same, admission), _begun)])
        health_pb2_grpc.add_HealthServicer_to_server(Health(), server)
        ports.append(server.add_secure_port("127.0.0.1:0", credentials))
        await server.start()
        servers.append(server)
    pipe.send(tuple(ports))
    asyncio.get_running_loop().add_reader(pipe.fileno(), stop.set)
    await stop.wait()
    for server in servers:
        await server.stop(0)
