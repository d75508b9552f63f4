"""SpiffeWorkloadAPI: the service of the socket in each cell."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final, TypeVar

from aurae.spiffe import workload_pb2, workload_pb2_grpc
from google.protobuf.message import Message

from initd.errors import InvalidArgument, PermissionDenied, Unimplemented
from runtime import scope
from runtime.identity.spiffe import SCHEME, SpiffeId
from runtime.workload.identities import Identities

MAX_AUDIENCES: Final = 16
MAX_AUDIENCE: Final = 255

NO_WIT: Final = "WIT-SVIDs: are not issued by this node; use X.509-SVIDs or JWT-SVIDs"

_Message = TypeVar("_Message", bound=Message)


class WorkloadService(workload_pb2_grpc.SpiffeWorkloadAPIServicer):
    """Whose call it is stands in the scope."""

    def __init__(self, identities: Identities) -> None:
        self._identities = identities

    async def FetchX509SVID(
        self, request: workload_pb2.X509SVIDRequest, context: Any
    ) -> AsyncIterator[workload_pb2.X509SVIDResponse]:
        cell = _cell()
        async for message in self._following(lambda: self._x509(cell)):
            yield message

    async def FetchX509Bundles(
        self, request: workload_pb2.X509BundlesRequest, context: Any
    ) -> AsyncIterator[workload_pb2.X509BundlesResponse]:
        async for message in self._following(self._bundles):
            yield message

    async def FetchJWTSVID(
        self, request: workload_pb2.JWTSVIDRequest, context: Any
    ) -> workload_pb2.JWTSVIDResponse:
        cell, issuer = _cell(), self._identities.issuer
        audience = [_audience(text) for text in request.audience]
        if not 1 <= len(audience) <= MAX_AUDIENCES:
            raise InvalidArgument(
                f"audience: has {len(audience)}; name 1 to {MAX_AUDIENCES} whom the token is for"
            )
        own = issuer.identity(cell)
        if request.spiffe_id and _spiffe_id(request.spiffe_id) != own:
            raise PermissionDenied(f"spiffe_id: is not the caller's own, which is {own}")
        token = issuer.token(cell, audience)
        return workload_pb2.JWTSVIDResponse(
            svids=[workload_pb2.JWTSVID(spiffe_id=str(own), svid=token)]
        )

    async def FetchJWTBundles(
        self, request: workload_pb2.JWTBundlesRequest, context: Any
    ) -> AsyncIterator[workload_pb2.JWTBundlesResponse]:
        async for message in self._following(self._keys):
            yield message

    async def ValidateJWTSVID(
        self, request: workload_pb2.ValidateJWTSVIDRequest, context: Any
    ) -> workload_pb2.ValidateJWTSVIDResponse:
        issuer = self._identities.issuer
        found = issuer.verify(request.svid, _audience(request.audience))
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
        self, make: Callable[[], Awaitable[tuple[_Message, float]]]
    ) -> AsyncIterator[_Message]:
        """What `make` gives, and again whenever it gives something else; it says until when that
        stays."""
        last = None
        while True:
            # Before: a slow reader must not miss what changes while it is written to.
            changed = self._identities.changed()
            message, due = await make()
            if message != last:
                yield message
                last = message
            await self._identities.change(changed, due)

    async def _x509(self, cell: str) -> tuple[workload_pb2.X509SVIDResponse, float]:
        svid = await self._identities.x509(cell)
        trust = self._identities.issuer.trust
        message = workload_pb2.X509SVIDResponse(
            svids=[
                workload_pb2.X509SVID(
                    spiffe_id=str(svid.id),
                    x509_svid=svid.chain,
                    x509_svid_key=svid.key,
                    bundle=trust.bundles[trust.domain],
                )
            ],
            crl=trust.revoked,
            federated_bundles={SCHEME + name: roots for name, roots in trust.federated.items()},
        )
        return message, svid.due

    async def _bundles(self) -> tuple[workload_pb2.X509BundlesResponse, float]:
        trust = self._identities.issuer.trust
        bundles = {SCHEME + name: roots for name, roots in trust.bundles.items()}
        return workload_pb2.X509BundlesResponse(crl=trust.revoked, bundles=bundles), float("inf")

    async def _keys(self) -> tuple[workload_pb2.JWTBundlesResponse, float]:
        issuer = self._identities.issuer
        keys = issuer.keys()
        bundles = {SCHEME + issuer.trust.domain: keys.jwks}
        return workload_pb2.JWTBundlesResponse(bundles=bundles), keys.due


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
