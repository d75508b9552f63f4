"""The border that every call crosses: who calls, for how long, and what an error looks like."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import grpc
from google.protobuf.message import DecodeError
from grpc import StatusCode, aio

from initd.errors import InvalidArgument, Unavailable
from initd.processes.model import How
from runtime.server import errors

if TYPE_CHECKING:
    from runtime.server.admission import Admission

# Seconds that a call may take where its caller gives no deadline.
LIMIT: Final = 30.0

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


class Unreadable:
    """In the place of a request whose bytes are no message: gRPC itself would answer UNKNOWN."""


def _decoder(decode: Callable[[bytes], Any] | None) -> Callable[[bytes], Any] | None:
    if decode is None:
        return None

    def attempt(data: bytes) -> Any:
        try:
            return decode(data)
        except DecodeError:
            return Unreadable()

    return attempt


def _readable(request: Any) -> Any:
    if isinstance(request, Unreadable):
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


class Border(aio.ServerInterceptor):
    """Lets calls in, bounds them, and translates how they fail.

    Streams and `UNLIMITED` calls live until they are done, their caller leaves or the API drains.
    `begun` is what all calls but those of `ALWAYS` wait for first.
    """

    def __init__(
        self,
        make_admission: "Callable[[], Admission]",
        begun: Callable[[], Awaitable[object]],
        *,
        limit: float = LIMIT,
    ) -> None:
        self._make_admission = make_admission
        self._begun = begun
        self._limit = limit
        self._wrapped: dict[str, Handler] = {}
        self._unlimited: set[asyncio.Timeout] = set()
        self._calls = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._draining = False
        self._down: How | None = None

    @cached_property
    def _admission(self) -> "Admission":
        return self._make_admission()

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
            # Who calls from a cell is not known before either.
            if method not in ALWAYS:
                await self._begun()
            admitted = self._admission.admitted(method, context, request, self._refuse)
            async with admitted as check, bound:
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

    def _refuse(self, method: str) -> None:
        """Raises Unavailable where nobody may call that now."""
        if self._draining and method not in ALWAYS:
            raise Unavailable(STOPPING)
        if self._down is not None and method not in LOOKING:
            raise Unavailable(f"node: goes down ({self._down.value}), it takes nothing new")

    def _expired(self, method: str) -> tuple[StatusCode, str]:
        if self._draining:
            return StatusCode.UNAVAILABLE, STOPPING
        return (
            StatusCode.DEADLINE_EXCEEDED,
            f"{method}: not done in {self._limit:g} s, the node's own limit; try again",
        )
