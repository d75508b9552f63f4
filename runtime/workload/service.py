"""SpiffeWorkloadAPI: the service of the socket in each cell."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any, Final, TypeVar

from aurae.spiffe import workload_pb2, workload_pb2_grpc
from google.protobuf.message import Message

from initd.errors import InvalidArgument, Unimplemented
from runtime import scope
from runtime.identity.spiffe import SCHEME, SpiffeId
from runtime.workload.model import Identities

MAX_AUDIENCES: Final = 16
MAX_AUDIENCE: Final = 255

# Seconds until what is due by the clock is looked at again: a clock may be set.
LONGEST: Final = 60.0

NO_WIT: Final = "WIT-SVIDs: are not issued by this node; use X.509-SVIDs or JWT-SVIDs"

_Message = TypeVar("_Message", bound=Message)


class WorkloadService(workload_pb2_grpc.SpiffeWorkloadAPIServicer):
    """Whose call it is stands in the scope."""

    def __init__(self, identities: Identities) -> None:
        self._identities = identities

    async def FetchX509SVID(
        self, request: workload_pb2.X509SVIDRequest, context: Any
    ) -> AsyncIterator[workload_pb2.X509SVIDResponse]:
        async for message in self._following(_cell(), self._x509):
            yield message

    async def FetchX509Bundles(
        self, request: workload_pb2.X509BundlesRequest, context: Any
    ) -> AsyncIterator[workload_pb2.X509BundlesResponse]:
        async for message in self._following(_cell(), self._bundles):
            yield message

    async def FetchJWTSVID(
        self, request: workload_pb2.JWTSVIDRequest, context: Any
    ) -> workload_pb2.JWTSVIDResponse:
        audience = [_audience(text) for text in request.audience]
        if not 1 <= len(audience) <= MAX_AUDIENCES:
            raise InvalidArgument(
                f"audience: has {len(audience)}; name 1 to {MAX_AUDIENCES} whom the token is for"
            )
        wanted = _spiffe_id(request.spiffe_id) if request.spiffe_id else None
        tokens = await self._identities.tokens(_cell(), audience, wanted)
        return workload_pb2.JWTSVIDResponse(
            svids=[
                workload_pb2.JWTSVID(spiffe_id=str(one.id), svid=one.token, hint=one.hint)
                for one in tokens
            ]
        )

    async def FetchJWTBundles(
        self, request: workload_pb2.JWTBundlesRequest, context: Any
    ) -> AsyncIterator[workload_pb2.JWTBundlesResponse]:
        async for message in self._following(_cell(), self._keys):
            yield message

    async def ValidateJWTSVID(
        self, request: workload_pb2.ValidateJWTSVIDRequest, context: Any
    ) -> workload_pb2.ValidateJWTSVIDResponse:
        audience = _audience(request.audience)
        found = await self._identities.verify(_cell(), request.svid, audience)
        answer = workload_pb2.ValidateJWTSVIDResponse(spiffe_id=str(found.id))
        answer.claims.update(found.claims)
        return answer

    def FetchWITSVID(
        self, request: workload_pb2.WITSVIDRequest, context: Any
    ) -> AsyncIterator[workload_pb2.WITSVIDResponse]:
        raise Unimplemented(NO_WIT)

    def FetchWITBundles(
        self, request: workload_pb2.WITBundlesRequest, context: Any
    ) -> AsyncIterator[workload_pb2.WITBundlesResponse]:
        raise Unimplemented(NO_WIT)

    async def _following(
        self, cell: str, make: Callable[[str], Awaitable[tuple[_Message, float]]]
    ) -> AsyncIterator[_Message]:
        """What `make` gives, and again whenever it gives something else; it says until when that
        stays."""
        last = None
        while True:
            # Before: a slow reader must not miss what changes while it is written to.
            changed = self._identities.changed(cell)
            message, due = await make(cell)
            if message != last:
                yield message
                last = message
            await _change(changed, due)

    async def _x509(self, cell: str) -> tuple[workload_pb2.X509SVIDResponse, float]:
        svids, trust, due = await self._identities.svids(cell)
        message = workload_pb2.X509SVIDResponse(
            svids=[
                workload_pb2.X509SVID(
                    spiffe_id=str(svid.id),
                    x509_svid=svid.chain,
                    x509_svid_key=svid.key,
                    bundle=trust.bundles[svid.id.trust_domain],
                    hint=svid.hint,
                )
                for svid in svids
            ],
            crl=trust.revoked,
            federated_bundles=_by_id(trust.federated),
        )
        return message, due

    async def _bundles(self, cell: str) -> tuple[workload_pb2.X509BundlesResponse, float]:
        trust = await self._identities.trust(cell)
        bundles = _by_id(trust.bundles)
        return workload_pb2.X509BundlesResponse(crl=trust.revoked, bundles=bundles), float("inf")

    async def _keys(self, cell: str) -> tuple[workload_pb2.JWTBundlesResponse, float]:
        keys = await self._identities.keys(cell)
        return workload_pb2.JWTBundlesResponse(bundles=_by_id(keys.bundles)), keys.due


async def _change(changed: asyncio.Event, due: float) -> None:
    """Wait until something may have changed, at the latest at `due` by the clock."""
    seconds = min(max(due - time.time(), 0), LONGEST)
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await changed.wait()


def _by_id(bundles: Mapping[str, bytes]) -> dict[str, bytes]:
    return {SCHEME + name: content for name, content in bundles.items()}


def _cell() -> str:
    cell = scope.current().cell
    assert cell is not None, "the socket lets in callers in cells only"
    return cell


def _audience(text: str) -> str:
    if not 1 <= len(text) <= MAX_AUDIENCE:
        raise InvalidArgument(f"audience: has {len(text)} characters; it takes 1 to {MAX_AUDIENCE}")
    return text


def _spiffe_id(text: str) -> SpiffeId:
    try:
        return SpiffeId.parse(text)
    except ValueError as e:
        raise InvalidArgument(f"spiffe_id: {e}") from e
