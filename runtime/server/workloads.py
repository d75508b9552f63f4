"""The SPIFFE Workload API on its own socket, behind a gRPC server of its own.

Two servers, so that no mistake in a table can offer what is one's on the other's socket. This one
starts when the API answers: until then its callers wait to be accepted.
"""

import asyncio
import functools
import importlib
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, Final

import grpc
from google.protobuf.message import DecodeError
from grpc import aio

from initd.errors import InvalidArgument, PermissionDenied, ResourceExhausted
from runtime import scope
from runtime.scope import Scope
from runtime.server import errors
from runtime.server.callers import Caller
from runtime.server.peers import Peer
from runtime.server.relay import Find, Relay, share
from runtime.server.settings import Settings
from runtime.trust.trust import Trust

if TYPE_CHECKING:
    from runtime.workload.model import Identities

log = logging.getLogger(__name__)

# SPIFFE_Workload_Endpoint.md, section 3: what no request that was tricked out of a client has.
HEADER: Final = ("workload.spiffe.io", "true")

# What decisions are recorded with: a workload has its cell's identity, and no other.
RULE: Final = "workload"

# Calls in flight from one outermost cell with all below it.
CALLS: Final = 256
# Seconds that the last answers have to leave; then connections are cut.
CUT: Final = 0.5

OPTIONS: Final = (
    ("grpc.max_receive_message_length", 64 * 1024),
    ("grpc.so_reuseport", 0),
    ("grpc.max_concurrent_streams", 100),
)

# Who a process is; None: nobody that is let in.
Who = Callable[[Peer], Caller | None]
# Keeps what identities are given from up to date, until cancelled.
Follow = Callable[[], Coroutine[Any, Any, None]]
# AuditLog.record
Record = Callable[..., None]


class Workloads:
    """Callers of the Workload API by the address that the relay gave them."""

    def __init__(self, who: Who) -> None:
        self._who = who
        self._there: dict[str, Caller] = {}

    def caller(self, peer: Peer) -> Caller | None:
        """Also who is in no cell is let in, to be told so."""
        return self._who(peer)

    def enter(self, address: str, caller: Caller) -> None:
        self._there[address] = caller

    def leave(self, address: str) -> None:
        del self._there[address]

    def get(self, peer: str) -> Caller | None:
        return self._there.get(peer)

    def check(self, peer: str) -> Caller:
        """Whose call it is. Raises PermissionDenied: nobody's in a cell."""
        caller = self._there.get(peer)
        if caller is None or caller.scope.cell is None:
            raise PermissionDenied(
                "caller: is in no cell, so it has no identity; run it in a cell of its own"
            )
        return caller


class Gate(aio.ServerInterceptor):
    """Lets calls in, counts them, and translates how they fail. `record` is told of each decision,
    whose rule is always the same."""

    def __init__(self, workloads: Workloads, record: Record) -> None:
        self._workloads = workloads
        self._record = record
        self._open: Counter[str] = Counter()
        self._wrapped: dict[str, Any] = {}

    async def intercept_service(
        self,
        continuation: "Callable[[grpc.HandlerCallDetails], Awaitable[Any]]",
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        method = handler_call_details.method
        if method not in self._wrapped:
            handler = await continuation(handler_call_details)
            if handler is None:
                return None
            self._wrapped[method] = self._wrap(method, handler)
        return self._wrapped[method]

    def _wrap(self, method: str, handler: Any) -> Any:
        async def unary(data: bytes, context: Any) -> Any:
            async with self._crossing(method, context):
                return await handler.unary_unary(_decoded(handler, data), context)

        async def stream(data: bytes, context: Any) -> None:
            async with self._crossing(method, context):
                answer = handler.unary_stream(_decoded(handler, data), context)
                if not hasattr(answer, "__aiter__"):
                    await answer
                    return
                async for message in answer:
                    await context.write(message)

        # Without a decoder: what is no message is refused here, and not by gRPC with UNKNOWN.
        serializer = handler.response_serializer
        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(stream, response_serializer=serializer)
        return grpc.unary_unary_rpc_method_handler(unary, response_serializer=serializer)

    @asynccontextmanager
    async def _crossing(self, method: str, context: Any) -> AsyncIterator[None]:
        peer = context.peer()
        try:
            _check_header(context)
            caller = self._workloads.check(peer)
            self._decided(method, peer)
            # Not who it runs as: a cell has one identity, whoever asks for it.
            with self._counted(caller.tenant), scope.entered(Scope(cell=caller.scope.cell)):
                yield
        except aio.AbortError:
            raise
        except Exception as e:
            if isinstance(e, PermissionDenied):
                self._decided(method, peer, str(e))
            code, message = errors.status(e)
            await context.abort(code, message)

    def _decided(self, method: str, peer: str, refusal: str = "") -> None:
        caller = self._workloads.get(peer)
        self._record(
            who=caller.who if caller is not None else "unknown",
            method=method,
            object=(caller.scope.cell or "") if caller is not None else "",
            allowed=not refusal,
            rule=RULE,
            reason=refusal,
            peer=peer,
        )

    @contextmanager
    def _counted(self, tenant: str) -> Iterator[None]:
        if self._open[tenant] >= CALLS:
            raise ResourceExhausted(
                f"caller: {CALLS} calls of its outermost cell are open; end some first"
            )
        self._open[tenant] += 1
        try:
            yield
        finally:
            self._open[tenant] -= 1
            if not self._open[tenant]:
                del self._open[tenant]


def _check_header(context: Any) -> None:
    if HEADER not in [(key, value) for key, value in context.invocation_metadata() or ()]:
        name, value = HEADER
        raise InvalidArgument(f"metadata: lack `{name}: {value}`, which each call needs")


def _decoded(handler: Any, data: bytes) -> Any:
    try:
        return handler.request_deserializer(data)
    except DecodeError:
        raise InvalidArgument("request: its bytes are no such message") from None


class WorkloadApi:
    """The socket from its making on, and the server while `run` runs."""

    def __init__(
        self, settings: Settings, trust: Trust, who: Who, find: Find, record: Record
    ) -> None:
        self._settings = settings
        self._trust = trust
        self._find = find
        self._record = record
        self._workloads = Workloads(who)
        self._listener = share(settings.shared, settings.workload_socket)
        self._relay: Relay | None = None
        self._identities: Identities | None = None

    def close(self) -> None:
        """From now on nobody can connect. Once more does no harm."""
        self._listener.close()

    def drop(self, cell: str) -> None:
        """A cell is gone."""
        if self._relay is not None and self._identities is not None:
            self._relay.drop(cell)
            self._identities.drop(cell)

    async def run(self, begin: asyncio.Event) -> None:
        """Serve from `begin` on until cancelled."""
        await begin.wait()
        # In a thread: this takes a while, and calls of the API are not to wait for it.
        follow, identities = await asyncio.to_thread(_load, self._settings, self._trust)
        try:
            server = self._server(identities)
            await server.start()
        except (RuntimeError, OSError) as e:
            log.error("%s: cannot be served: %s", self._settings.workload_socket, e)
            self.close()
            return
        self._identities = identities
        target = self._settings.workload_internal
        with Relay(self._listener, target, self._workloads, self._find) as self._relay:
            try:
                await follow()
            finally:
                identities.close()
                await server.stop(CUT)
                await self._relay.drain(CUT)

    def _server(self, identities: "Identities") -> aio.Server:
        from aurae.spiffe import workload_pb2_grpc

        from runtime.workload.service import WorkloadService

        server = aio.server(interceptors=[Gate(self._workloads, self._record)], options=OPTIONS)
        workload_pb2_grpc.add_SpiffeWorkloadAPIServicer_to_server(
            WorkloadService(identities), server
        )
        # In a folder that nobody else may enter: the API has made it.
        server.add_insecure_port(f"unix:{self._settings.workload_internal}")
        return server


def _load(settings: Settings, trust: Trust) -> "tuple[Follow, Identities]":
    importlib.import_module("runtime.workload.service")
    if settings.spiffe_admin:
        # Few nodes have one.
        from runtime.workload.delegation import Delegation

        delegation = Delegation(settings.spiffe_admin)
        return delegation.follow, delegation
    from runtime.workload.identities import NodeIdentities
    from runtime.workload.material import Places
    from runtime.workload.source import Source

    places = Places(settings.identity, settings.credentials)
    source = Source(places, settings.token_keys, trust, life=settings.svid_life)
    identities = NodeIdentities()
    return functools.partial(source.follow, identities), identities
