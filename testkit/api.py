"""Typed stubs for every service of a node, on one channel."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Self

import grpc
from aurae.audit.v0.audit_pb2_grpc import AuditServiceStub
from aurae.auth.v0.auth_pb2_grpc import AuthServiceStub
from aurae.cells.v0.cells_pb2_grpc import CellServiceStub
from aurae.discovery.v0.discovery_pb2_grpc import DiscoveryServiceStub
from aurae.node.v0.config_pb2_grpc import ConfigServiceStub
from aurae.node.v0.node_pb2_grpc import NodeServiceStub
from aurae.node.v0.upgrade_pb2_grpc import UpgradeServiceStub
from aurae.observe.v0.observe_pb2_grpc import ObserveServiceStub
from grpc_health.v1.health_pb2_grpc import HealthStub
from grpc_reflection.v1alpha.reflection_pb2_grpc import ServerReflectionStub

# No call of a test hangs: this bounds those that say nothing. A machine under emulation is slow.
CALL_SECONDS: Final = 120.0


@dataclass(frozen=True, slots=True)
class Api:
    """The services. A call without `timeout` has `CALL_SECONDS`."""

    channel: grpc.Channel
    audit: AuditServiceStub
    auth: AuthServiceStub
    cells: CellServiceStub
    config: ConfigServiceStub
    discovery: DiscoveryServiceStub
    node: NodeServiceStub
    observe: ObserveServiceStub
    upgrade: UpgradeServiceStub
    health: HealthStub
    reflection: ServerReflectionStub

    @classmethod
    def on(cls, channel: grpc.Channel) -> Self:
        bounded = grpc.intercept_channel(channel, _Bounded())
        return cls(
            channel=bounded,
            audit=AuditServiceStub(bounded),
            auth=AuthServiceStub(bounded),
            cells=CellServiceStub(bounded),
            config=ConfigServiceStub(bounded),
            discovery=DiscoveryServiceStub(bounded),
            node=NodeServiceStub(bounded),
            observe=ObserveServiceStub(bounded),
            upgrade=UpgradeServiceStub(bounded),
            health=HealthStub(bounded),
            reflection=ServerReflectionStub(bounded),
        )


class _CallDetails(NamedTuple):
    method: str
    timeout: float | None
    metadata: Any
    credentials: grpc.CallCredentials | None
    wait_for_ready: bool | None
    compression: grpc.Compression | None


class _Bounded(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    def intercept_unary_unary(
        self, continuation: Callable[..., Any], client_call_details: Any, request: Any
    ) -> Any:
        return continuation(_bounded(client_call_details), request)

    def intercept_unary_stream(
        self, continuation: Callable[..., Any], client_call_details: Any, request: Any
    ) -> Any:
        return continuation(_bounded(client_call_details), request)

    def intercept_stream_stream(
        self, continuation: Callable[..., Any], client_call_details: Any, request_iterator: Any
    ) -> Any:
        return continuation(_bounded(client_call_details), request_iterator)


def _bounded(details: Any) -> Any:
    if details.timeout is not None:
        return details
    return _CallDetails(
        details.method,
        CALL_SECONDS,
        details.metadata,
        details.credentials,
        details.wait_for_ready,
        details.compression,
    )
