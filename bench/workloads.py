"""The first X.509-SVID of a workload, natively: the node's own server and a client on this host."""

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import grpc
from aurae.spiffe import workload_pb2, workload_pb2_grpc

from bench.measurement import Measurement, median, p99
from runtime.audit.log import AuditLog
from runtime.scope import Scope
from runtime.server.callers import Caller
from runtime.server.peers import Peer
from runtime.server.settings import Settings
from runtime.server.workloads import HEADER, WorkloadApi
from runtime.trust.files import Files
from runtime.trust.trust import Trust
from testkit.trust import TrustDomain

# Milliseconds.
BAR: Final = 5.0
# Seconds until the server has read what it issues from.
READY: Final = 20.0


def measure(folder: Path, runs: int) -> list[Measurement]:
    """Each of `runs` is a cell of its own that has never asked, and a connection of its own."""
    samples = []
    with _served(folder) as address:
        for _ in range(runs):
            began = time.perf_counter()
            _fetch(address)
            samples.append(time.perf_counter() - began)
    return [
        Measurement(
            name=f"first X.509-SVID of a workload {which}",
            value=value * 1e3,
            unit="ms",
            bar=BAR if which == "median" else None,
            method=f"{runs}x natively: connect, ask, key and signature; server and client in one "
            "process",
        )
        for which, value in (("median", median(samples)), ("p99", p99(samples)))
    ]


def _fetch(address: str) -> None:
    request = workload_pb2.X509SVIDRequest()
    with grpc.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
        api = workload_pb2_grpc.SpiffeWorkloadAPIStub(channel)
        next(iter(api.FetchX509SVID(request, metadata=(HEADER,), timeout=READY)))


@contextmanager
def _served(folder: Path) -> Iterator[str]:
    """The Workload API, to which each caller is another cell."""
    credentials = folder / "credentials"
    credentials.mkdir(parents=True)
    for given in TrustDomain.make(folder / "pki").credentials():
        (credentials / given.name).write_bytes(given.content)
    settings = Settings(credentials=credentials, run=folder / "run", disk=folder / "disk")
    settings.internal.parent.mkdir(parents=True)
    trust = Trust(Files(settings.identity, credentials).read())
    audit = AuditLog(settings.state / "audit")
    numbers = iter(range(1 << 30))

    def who(_: Peer) -> Caller:
        cell = f"cell-{next(numbers)}"
        return Caller(scope=Scope(cell=cell), tenant=cell, who=f"cell:{cell}")

    def find(_: socket.socket) -> Peer:
        return Peer(pid=1, uid=0, gid=0, cgroup="/")

    stop = threading.Event()

    async def serve() -> None:
        begin = asyncio.Event()
        begin.set()
        with contextlib.closing(WorkloadApi(settings, trust, who, find, audit.record)) as api:
            async with asyncio.TaskGroup() as tasks:
                running = tasks.create_task(api.run(begin))
                await asyncio.to_thread(stop.wait)
                running.cancel()

    serving = threading.Thread(target=asyncio.run, args=(serve(),))
    serving.start()
    address = f"unix:{settings.workload_socket}"
    try:
        _until_served(address)
        yield address
    finally:
        stop.set()
        serving.join()


def _until_served(address: str) -> None:
    deadline = time.monotonic() + READY
    while True:
        try:
            _fetch(address)
        except grpc.RpcError as e:
            if e.code() is not grpc.StatusCode.UNAVAILABLE or time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return
