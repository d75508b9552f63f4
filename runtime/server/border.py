"""The border that every call crosses: who calls, for how long, and what an error looks like."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, nullcontext
from typing import Any, Final, TypeAlias

import grpc
from google.protobuf.message import DecodeError
from grpc import StatusCode, aio

from initd.errors import (
    AuraedError,
    InvalidArgument,
    PermissionDenied,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
)
from initd.processes.model import How
from runtime import scope
from runtime.audit.decided import Decided
from runtime.policy import table
from runtime.policy.gate import Asking, Gate, scope_of
from runtime.policy.model import Decision
from runtime.scope import NODE, Scope
from runtime.server import errors
from runtime.server.callers import Caller, Callers, called_by
from runtime.server.recorder import Recorder

# Seconds that a call may take where its caller gives no deadline.
LIMIT: Final = 30.0

# Calls in flight from one outermost cell with all below it: each costs the runtime memory.
CALLS: Final = 256

# These end by themselves: by a grace that the caller gives, or when what they wait for happens.
UNLIMITED: Final = frozenset(
    {
        "/aurae.cells.v0.CellService/Apply",
        "/aurae.cells.v0.CellService/Free",
        "/aurae.cells.v0.CellService/Stop",
        "/aurae.cells.v0.CellService/Wait",
        "/aurae.node.v0.NodeService/ReloadDaemon",
    }
)

# Answered while the API drains: who asks how it is must be told.
ALWAYS: Final = frozenset({"/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/List"})

# Answered while the node goes down and workloads end: what looks, and what waits for an end.
LOOKING: Final = ALWAYS | {
    "/aurae.audit.v0.AuditService/GetHead",
    "/aurae.audit.v0.AuditService/Watch",
    "/aurae.auth.v0.AuthService/CanI",
    "/aurae.auth.v0.AuthService/GetPolicy",
    "/aurae.auth.v0.AuthService/WhoAmI",
    "/aurae.cells.v0.CellService/List",
    "/aurae.cells.v0.CellService/Wait",
    "/aurae.cells.v0.CellService/Watch",
    "/aurae.discovery.v0.DiscoveryService/Discover",
    "/aurae.node.v0.ConfigService/Get",
    "/aurae.node.v0.ConfigService/Validate",
    "/aurae.node.v0.NodeService/Shutdown",
    "/aurae.observe.v0.ObserveService/GetAuraeDaemonLogStream",
    "/aurae.observe.v0.ObserveService/GetSubProcessStream",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
}

# Metadata have a limit of 8 KiB, and the message is encoded with up to three bytes a byte.
MAX_MESSAGE: Final = 2000

STOPPING: Final = "the API is stopping; try again when it is back"

# Generic in their stubs only.
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Context: TypeAlias = "aio.ServicerContext[Any, Any]"

_UNCOUNTED: Final[AbstractContextManager[None]] = nullcontext()


class _Unreadable:
    """In the place of a request whose bytes are no message: gRPC itself would answer UNKNOWN."""


def _decoder(decode: Callable[[bytes], Any] | None) -> Callable[[bytes], Any] | None:
    if decode is None:
        return None

    def attempt(data: bytes) -> Any:
        try:
            return decode(data)
        except DecodeError:
            return _Unreadable()

    return attempt


def _readable(request: Any) -> Any:
    if isinstance(request, _Unreadable):
        raise InvalidArgument("request: its bytes are no such message; is the client of this API?")
    return request


async def _each(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for request in requests:
        yield _readable(request)


class _Checked:
    """A context for those who write to a stream by themselves: each message is asked for."""

    def __init__(self, context: Context, check: Callable[[], None]) -> None:
        self._context = context
        self._check = check

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    async def write(self, message: Any) -> None:
        self._check()
        await self._context.write(message)


class _Crossing:
    """One call at the border: who it is, and what was decided, which is recorded."""

    __slots__ = (
        *("_asking", "_audit", "_decision", "_gate", "_generation", "_method", "_peer"),
        *("_request", "_seen", "caller", "refused"),
    )

    def __init__(self, gate: Gate, audit: Recorder, method: str, request: Any, peer: str) -> None:
        self._gate = gate
        self._audit = audit
        self._method = method
        self._request = request
        self._peer = peer
        self._seen = NODE
        self.refused = False
        self._generation = gate.policies.generation

    async def identify(
        self, callers: Callers, authentication: Mapping[str, Iterable[bytes]]
    ) -> None:
        """Raises Unauthenticated and PermissionDenied."""
        try:
            caller = callers.again(self._peer, authentication)
            self.caller = caller or await callers.check(self._peer, authentication)
        except AuraedError as e:
            claimed = e.claimed if isinstance(e, Unauthenticated) else ""
            who = claimed[:MAX_MESSAGE] or "unknown"
            self._record(who, Decision(allowed=False, rule="identity", reason=str(e)))
            raise

    def admit(self) -> Scope:
        """How much of the node the call sees. Raises PermissionDenied."""
        self._asking = Asking(self.caller.scope, self.caller.id)
        decision = self._gate.decide(self._asking, self._method)
        self._seen = scope_of(self._asking, decision)
        if decision.allowed and self._method in table.LOOKING:
            self._audit.record_soon(lambda: self._decided(self.caller.who, decision))
        else:
            self._record(self.caller.who, decision)
        if not decision.allowed:
            raise PermissionDenied(self._refusal(decision))
        self._decision = decision
        if self._seen.tenant and self._seen.cell is not None:
            self._gate.check_tenant(self._seen.cell)
        return self._seen

    def check(self) -> None:
        """Once more, where something has changed. Raises Unauthenticated and PermissionDenied."""
        self._check_identity()
        if self._generation == self._gate.policies.generation:
            return
        self._generation = self._gate.policies.generation
        decision = self._gate.decide(self._asking, self._method)
        if decision.allowed and decision.tenant == self._decision.tenant:
            return
        decision = decision._replace(allowed=False)
        self.refused = True
        self._record(self.caller.who, decision)
        raise PermissionDenied(self._refusal(decision))

    def _check_identity(self) -> None:
        try:
            self.caller.check()
        except Unauthenticated as e:
            decision = Decision(allowed=False, rule="identity", reason=str(e))
            self._record(self.caller.who, decision)
            raise

    def record_refused(self, error: PermissionDenied) -> None:
        """The service itself says that the caller may not."""
        self._record(self.caller.who, self._decision._replace(allowed=False, reason=str(error)))

    def record_outside(self, name: str) -> None:
        """It named a cell that is no part of what it sees."""
        reason = f"cell {name} lies outside of its own"
        self._record(self.caller.who, self._decision._replace(allowed=False, reason=reason))

    def _refusal(self, decision: Decision) -> str:
        if self.caller.id is None:
            return decision.reason
        method = self._method.rpartition(".")[2]
        return f"caller {self.caller.id}: may not call {method}: {decision.reason}"

    def _record(self, who: str, decision: Decision) -> None:
        self._audit.record(**self._decided(who, decision)._asdict())

    def _decided(self, who: str, decision: Decision) -> Decided:
        return Decided(
            who=who,
            method=self._method,
            object=self._object(),
            allowed=decision.allowed,
            rule=decision.rule,
            reason="" if decision.allowed else decision.reason,
            peer=self._peer,
        )

    def _object(self) -> str:
        """What the request names, as the node calls it: `web/api`, `web/api:server`."""
        request = self._request
        if named := OBJECTS.get(self._method):
            return named(request) if not isinstance(request, _Unreadable) else ""
        cell = getattr(request, "cell_name", "") or _name_of(request, "cell")
        executable = getattr(request, "executable_name", "") or _name_of(request, "executable")
        own = self._seen
        if own.cell is not None and not (own.tenant and cell):
            cell = f"{own.cell}/{cell}" if cell else own.cell
        if not executable and (pid := getattr(request, "process_id", 0)):
            return f"process {pid}"
        return f"{cell}:{executable}" if executable else str(cell)


def _applied(request: Any) -> str:
    names = [f"{cell.name}/" for cell in request.cells]
    names += [f"{start.cell_name}:{start.executable.name}" for start in request.executables]
    return " ".join(names)


# Of requests that name something else than a cell or an executable.
OBJECTS: Final[Mapping[str, Callable[[Any], str]]] = {
    "/aurae.auth.v0.AuthService/CanI": lambda request: str(request.as_id),
    "/aurae.cells.v0.CellService/Apply": _applied,
    "/aurae.identity.v0.IdentityService/SetTrust": lambda request: str(request.trust_domain),
}


def _name_of(request: Any, field: str) -> str:
    name = getattr(getattr(request, field, None), "name", "")
    return name if isinstance(name, str) else ""


class Border(aio.ServerInterceptor):
    """Lets calls in, bounds them, and translates how they fail.

    Streams and `UNLIMITED` calls live until they are done, their caller leaves or the API drains.
    """

    def __init__(
        self, callers: Callers, gate: Gate, audit: Recorder, *, limit: float = LIMIT
    ) -> None:
        self._callers = callers
        self._gate = gate
        self._audit = audit
        self._of_tenants: Counter[str] = Counter()
        self._limit = limit
        self._wrapped: dict[str, Handler] = {}
        self._unlimited: set[asyncio.Timeout] = set()
        self._calls = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._draining = False
        self._down: How | None = None

    def go_down(self, how: How) -> None:
        """From now on only what looks is let in: the node goes down, and its workloads end."""
        self._down = how

    async def drain(self, grace: float) -> None:
        """Refuse new calls, end those without limit, and wait `grace` seconds for the others."""
        self._draining = True
        now = asyncio.get_running_loop().time()
        for bound in tuple(self._unlimited):
            bound.reschedule(now)
        try:
            async with asyncio.timeout(grace):
                await self._idle.wait()
        except TimeoutError:
            errors.log.warning("stopping: %d calls are not done after %g s", self._calls, grace)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], "Awaitable[Handler | None]"],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "Handler | None":
        method = handler_call_details.method
        # gRPC hands out one handler a method, for as long as the server lives.
        if (wrapped := self._wrapped.get(method)) is not None:
            return wrapped
        handler = await continuation(handler_call_details)
        if handler is None:
            return handler
        self._wrapped[method] = wrapped = self._wrap(method, handler)
        return wrapped

    def _wrap(self, method: str, handler: Handler) -> Handler:
        behaviour: Any = (
            handler.unary_unary
            or handler.unary_stream
            or handler.stream_unary
            or handler.stream_stream
        )

        async def unary(request: Any, context: Context) -> Any:
            async with self._crossing(method, context, request) as check:
                answer = await behaviour(_readable(request), context)
                if method in UNLIMITED:
                    check()
                return answer

        async def stream(request: Any, context: Context) -> None:
            async with self._crossing(method, context, request, streaming=True) as check:
                readable = _each(request) if handler.request_streaming else _readable(request)
                answer = behaviour(readable, _Checked(context, check))
                if not hasattr(answer, "__aiter__"):
                    await answer
                    return
                async for message in answer:
                    check()
                    # Returns once flow control has room: a slow reader is waited for here.
                    await context.write(message)

        make: Any = {
            (False, False): grpc.unary_unary_rpc_method_handler,
            (False, True): grpc.unary_stream_rpc_method_handler,
            (True, False): grpc.stream_unary_rpc_method_handler,
            (True, True): grpc.stream_stream_rpc_method_handler,
        }[bool(handler.request_streaming), bool(handler.response_streaming)]
        wrapped: Handler = make(
            stream if handler.response_streaming else unary,
            request_deserializer=_decoder(handler.request_deserializer),
            response_serializer=handler.response_serializer,
        )
        return wrapped

    @asynccontextmanager
    async def _crossing(
        self, method: str, context: Context, request: Any, *, streaming: bool = False
    ) -> AsyncIterator[Callable[[], None]]:
        """Yields what a stream calls before each message: it raises once the caller may no more."""
        limit = None if streaming or method in UNLIMITED else self._limit
        self._calls += 1
        self._idle.clear()
        bound = asyncio.timeout(limit)
        try:
            async with self._admitted(method, context, request) as check, bound:
                if limit is None:
                    self._unlimited.add(bound)
                try:
                    yield check
                finally:
                    # Before it ends: one that has cannot be given another time.
                    self._unlimited.discard(bound)
        except aio.AbortError:
            raise
        except Exception as e:
            if isinstance(e, TimeoutError) and bound.expired():
                code, message = self._expired(method)
            else:
                code, message = errors.status(e)
            await context.abort(code, message[:MAX_MESSAGE])
        finally:
            self._calls -= 1
            if not self._calls:
                self._idle.set()

    @asynccontextmanager
    async def _admitted(
        self, method: str, context: Context, request: Any
    ) -> AsyncIterator[Callable[[], None]]:
        """Within the block the call is its caller's, and sees what that may."""
        crossing = _Crossing(self._gate, self._audit, method, request, context.peer())
        await crossing.identify(self._callers, context.auth_context() or {})
        if self._draining and method not in ALWAYS:
            raise Unavailable(STOPPING)
        if self._down is not None and method not in LOOKING:
            raise Unavailable(f"node: goes down ({self._down.value}), it takes nothing new")
        seen = crossing.admit()
        caller = crossing.caller
        with (
            called_by(caller),
            self._counted(caller, seen),
            scope.entered(seen, crossing.record_outside),
        ):
            try:
                yield crossing.check
            except PermissionDenied as e:
                if not crossing.refused:
                    crossing.record_refused(e)
                raise

    def _counted(self, caller: Caller, seen: Scope) -> AbstractContextManager[None]:
        """Who has a part of the node only may not have too much of it at once."""
        if seen.cell is None:
            return _UNCOUNTED
        if seen.tenant:
            return self._count(f"tenant {seen.cell}", f"tenant {seen.cell}")
        return self._count(caller.tenant, "its outermost cell")

    @contextmanager
    def _count(self, tenant: str, whose: str) -> Iterator[None]:
        if self._of_tenants[tenant] >= CALLS:
            raise ResourceExhausted(f"caller: {CALLS} calls of {whose} are open; end some first")
        self._of_tenants[tenant] += 1
        try:
            yield
        finally:
            self._of_tenants[tenant] -= 1
            if not self._of_tenants[tenant]:
                del self._of_tenants[tenant]

    def _expired(self, method: str) -> tuple[StatusCode, str]:
        if self._draining:
            return StatusCode.UNAVAILABLE, STOPPING
        return (
            StatusCode.DEADLINE_EXCEEDED,
            f"{method}: not done in {self._limit:g} s, the node's own limit; try again",
        )
