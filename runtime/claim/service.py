"""aurae.claim.v0 over gRPC."""

import asyncio
from collections.abc import Callable
from typing import Any

from aurae.claim.v0 import claim_pb2, claim_pb2_grpc
from grpc import aio

from runtime.claim.claim import Claim
from runtime.claim.model import Given


class ClaimService(claim_pb2_grpc.ClaimServiceServicer):
    """`claimed` is called in the moment of a claim, by whatever thread has it."""

    def __init__(self, claim: Claim, claimed: Callable[[], None]) -> None:
        self._claim = claim
        self._claimed = claimed

    async def Begin(
        self, request: claim_pb2.BeginRequest, context: "aio.ServicerContext[Any, Any]"
    ) -> claim_pb2.BeginResponse:
        own, ca = await asyncio.to_thread(self._claim.begin, request.secret)
        return claim_pb2.BeginResponse(request=own, ca_request=ca)

    async def Claim(
        self, request: claim_pb2.ClaimRequest, context: "aio.ServicerContext[Any, Any]"
    ) -> claim_pb2.ClaimResponse:
        given = Given(
            certificate_chain=request.certificate_chain,
            ca_certificate_chain=request.ca_certificate_chain,
            trust_bundle=request.trust_bundle,
            policy=request.policy,
        )

        def claim() -> str:
            # In the thread: a caller who leaves meanwhile ends the call, but not what was begun.
            identity = self._claim.claim(request.secret, given)
            self._claimed()
            return str(identity)

        return claim_pb2.ClaimResponse(spiffe_id=await asyncio.to_thread(claim))
