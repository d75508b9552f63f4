"""The TCP port of a node that nobody has claimed: one service, and TLS by a key of the node's own.

Imported by such a node only, and after its API on the Unix socket answers.
"""

import asyncio
import logging
import os
import sys
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeAlias

import grpc
from aurae.claim.v0 import claim_pb2_grpc
from grpc import aio

from initd.errors import FailedPrecondition, InvalidArgument
from runtime.claim import qr
from runtime.claim.claim import MOST, Claim
from runtime.claim.service import ClaimService
from runtime.identity.fingerprint import Fingerprint
from runtime.policy import document
from runtime.policy.model import refuse_lockout
from runtime.server import errors
from runtime.server.settings import Settings

log = logging.getLogger(__name__)

# Seconds that the claimer's answer has to leave.
LEAVE: Final = 2.0
# Seconds that a call may take.
LIMIT: Final = 30.0
# Calls at once; checking a claim is work.
CALLS: Final = 8
# Words in a line of the console.
_A_LINE: Final = 4

OPTIONS: Final = (
    ("grpc.max_receive_message_length", 4 * MOST + 4096),
    ("grpc.so_reuseport", 0),
    ("grpc.max_concurrent_streams", CALLS),
    # Whoever connects and says nothing is cut off.
    ("grpc.server_handshake_timeout_ms", 10_000),
    ("grpc.max_connection_idle_ms", 60_000),
    ("grpc.max_connection_age_ms", 300_000),
)

# Generic in their stubs only.
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


class _Errors(aio.ServerInterceptor):
    """Bounds calls, and says refusals in the words of the API."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], "Awaitable[Handler | None]"],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "Handler | None":
        handler = await continuation(handler_call_details)
        if handler is None or handler.unary_unary is None:
            return handler
        behaviour: Any = handler.unary_unary

        async def unary(request: Any, context: "aio.ServicerContext[Any, Any]") -> Any:
            try:
                async with asyncio.timeout(LIMIT):
                    return await behaviour(request, context)
            except Exception as e:
                code, message = errors.status(e)
                await context.abort(code, message)

        return grpc.unary_unary_rpc_method_handler(
            unary,
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )


async def offer(settings: Settings, introduce: Callable[[str], Awaitable[None]]) -> None:
    """Show the fingerprint and serve the claim; return when the node is claimed. `introduce` tells
    its words to who shows them as well. OSError, ValueError, RuntimeError: it cannot be offered."""
    loop = asyncio.get_running_loop()
    claimed = asyncio.Event()

    def made() -> None:
        loop.call_soon_threadsafe(claimed.set)

    claim = await asyncio.to_thread(Claim, settings.state, settings.secret, _check_policy)
    certificate = await asyncio.to_thread(claim.certificate)
    server = aio.server(interceptors=[_Errors()], options=OPTIONS, maximum_concurrent_rpcs=CALLS)
    claim_pb2_grpc.add_ClaimServiceServicer_to_server(ClaimService(claim, made), server)
    credentials = grpc.ssl_server_credentials([(claim.key, certificate)])
    port = server.add_secure_port(settings.listen, credentials)
    await server.start()
    try:
        _show(claim.fingerprint, port)
        await introduce(claim.fingerprint.words())
        await claimed.wait()
    finally:
        await server.stop(LEAVE)


def _check_policy(policy: bytes, trust_domain: str) -> None:
    """Raises ValueError."""
    try:
        refuse_lockout(document.from_json(policy.decode()), trust_domain)
    except (InvalidArgument, FailedPrecondition) as e:
        raise ValueError(str(e)) from e


def _show(fingerprint: Fingerprint, port: int) -> None:
    """On the console: what the runtime writes is shown there, line by line, and at once as far as
    it is written at once."""
    words = [word.ljust(7) for word in fingerprint.words().split()]
    lines = (
        "",
        "nobody has claimed this node. Its fingerprint:",
        *(" ".join(["", *words[at : at + _A_LINE]]) for at in range(0, len(words), _A_LINE)),
        "",
        *qr.draw(fingerprint.base32()),
        "To claim it, on a machine with your trust domain's keys:",
        f"aer node claim HOST:{port} --fingerprint 'WORDS' --name NAME",
    )
    os.write(sys.stderr.fileno(), "".join(f"{line.rstrip()}\n" for line in lines).encode())
