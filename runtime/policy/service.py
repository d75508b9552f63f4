"""aurae.auth.v0 over gRPC."""

from typing import Any, TypeAlias

from aurae.auth.v0 import auth_pb2, auth_pb2_grpc
from grpc import aio

from initd.errors import InvalidArgument, PermissionDenied
from runtime import scope
from runtime.identity.spiffe import SpiffeId
from runtime.policy import document
from runtime.policy.gate import Asking, Gate, scope_of
from runtime.policy.policies import full_method
from runtime.policy.table import Permission, needed
from runtime.scope import NODE
from runtime.server.callers import Caller, calling

# Generic in its stub only.
Context: TypeAlias = "aio.ServicerContext[Any, Any]"


class AuthService(auth_pb2_grpc.AuthServiceServicer):
    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    async def WhoAmI(
        self, request: auth_pb2.WhoAmIRequest, context: Context
    ) -> auth_pb2.WhoAmIResponse:
        caller = calling()
        asking = Asking(caller.scope, caller.id)
        policy = self._gate.policies.held.policy
        rules = () if caller.id is None else policy.matching(caller.id)
        return auth_pb2.WhoAmIResponse(
            id=caller.who,
            confined_to=scope.current().cell or "",
            rules=map(document.rule_to_proto, rules),
            permissions=[one.value for one in self._gate.permissions(asking)],
        )

    async def CanI(self, request: auth_pb2.CanIRequest, context: Context) -> auth_pb2.CanIResponse:
        method = full_method(request.method)
        asking = self._asking(request.as_id, calling())
        decision = self._gate.decide(asking, method)
        permission = needed(method)
        assert permission is not None
        return auth_pb2.CanIResponse(
            allowed=decision.allowed,
            rule=decision.rule,
            reason=decision.reason,
            permission=permission.value,
            method=method.strip("/"),
            confined_to=scope_of(asking, decision).cell or "",
        )

    def _asking(self, as_id: str, caller: Caller) -> Asking:
        own = Asking(caller.scope, caller.id)
        if not as_id or as_id == caller.who:
            return own
        if Permission.POLICY_READ not in self._gate.permissions(own):
            raise PermissionDenied(
                f"as_id: whoever asks for others needs {Permission.POLICY_READ.value}; leave it out"
            )
        try:
            return Asking(NODE, SpiffeId.parse(as_id))
        except ValueError as e:
            raise InvalidArgument(f"as_id: {e}") from e

    async def GetPolicy(
        self, request: auth_pb2.GetPolicyRequest, context: Context
    ) -> auth_pb2.GetPolicyResponse:
        held = self._gate.policies.held
        return auth_pb2.GetPolicyResponse(
            policy=document.to_proto(held.policy),
            revision=held.revision,
            source=held.source.value,
        )

    async def SetPolicy(
        self, request: auth_pb2.SetPolicyRequest, context: Context
    ) -> auth_pb2.SetPolicyResponse:
        if not request.HasField("policy"):
            raise InvalidArgument("policy: is missing; say what is to hold")
        revision = await self._gate.policies.replace(
            document.from_proto(request.policy),
            calling().id,
            if_revision=request.if_revision,
            dry_run=request.dry_run,
        )
        return auth_pb2.SetPolicyResponse(revision=revision)
