"""aurae.identity.v0 over gRPC."""

import asyncio
from datetime import datetime
from typing import Any

from aurae.identity.v0 import identity_pb2, identity_pb2_grpc
from google.protobuf.timestamp_pb2 import Timestamp
from grpc import aio

from runtime.server.callers import calling
from runtime.trust.custody import Custody
from runtime.trust.material import Material


class IdentityService(identity_pb2_grpc.IdentityServiceServicer):
    def __init__(self, custody: Custody) -> None:
        self._custody = custody

    async def GetIdentity(
        self, request: identity_pb2.GetIdentityRequest, context: "aio.ServicerContext[Any, Any]"
    ) -> identity_pb2.GetIdentityResponse:
        return await asyncio.to_thread(_identity, self._custody.current)

    async def GetSigningRequest(
        self,
        request: identity_pb2.GetSigningRequestRequest,
        context: "aio.ServicerContext[Any, Any]",
    ) -> identity_pb2.GetSigningRequestResponse:
        made = await self._custody.request(request.spiffe_id, request.dns_name)
        return identity_pb2.GetSigningRequestResponse(
            signing_request=made.pem.decode(), spiffe_id=str(made.id), dns_name=made.dns_name
        )

    async def SetCertificate(
        self, request: identity_pb2.SetCertificateRequest, context: "aio.ServicerContext[Any, Any]"
    ) -> identity_pb2.SetCertificateResponse:
        now = await self._custody.set_certificate(
            request.certificate.encode(), request.roots.encode()
        )
        return identity_pb2.SetCertificateResponse(
            spiffe_id=str(now.identity), not_after=_identity(now).not_after
        )

    async def SetTrust(
        self, request: identity_pb2.SetTrustRequest, context: "aio.ServicerContext[Any, Any]"
    ) -> identity_pb2.SetTrustResponse:
        lists = request.revocation_lists.encode() if request.HasField("revocation_lists") else None
        caller = calling().identity
        now = await self._custody.set_trust(
            request.trust_domain,
            request.roots.encode(),
            lists,
            remove=request.remove,
            caller=b"" if caller is None else caller.chain,
        )
        return identity_pb2.SetTrustResponse(
            trust_domains=list(now.bundles), revoked=await asyncio.to_thread(_revoked, now)
        )


def _identity(now: Material) -> identity_pb2.GetIdentityResponse:
    from runtime.identity import svid

    own = svid.parse(now.certificate)
    return identity_pb2.GetIdentityResponse(
        spiffe_id=str(own.id),
        dns_name=own.dns_name or "",
        not_before=_timestamp(own.not_before),
        not_after=_timestamp(own.not_after),
        source=now.source,
        certificate=now.certificate.decode(errors="replace"),
        bundles=[
            identity_pb2.TrustBundle(trust_domain=name, roots=roots.decode(errors="replace"))
            for name, roots in now.bundles.items()
        ],
        revoked=_revoked(now),
    )


def _revoked(now: Material) -> int:
    from runtime.trust import usable

    return sum(len(each.serials) for each in usable.parse_crls(now.crls).lists)


def _timestamp(time: datetime) -> Timestamp:
    return Timestamp(seconds=int(time.timestamp()))
