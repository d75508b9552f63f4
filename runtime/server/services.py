"""Every service of the API, once: registration, health and reflection follow this table."""

from collections.abc import Callable
from typing import Any, Final

from aurae.audit.v0 import audit_pb2_grpc
from aurae.auth.v0 import auth_pb2_grpc
from aurae.cells.v0 import cells_pb2_grpc
from aurae.discovery.v0 import discovery_pb2_grpc
from aurae.identity.v0 import identity_pb2_grpc
from aurae.node.v0 import node_pb2_grpc
from aurae.observe.v0 import observe_pb2_grpc
from grpc import aio

from initd.values import NamedTuple
from runtime.audit.log import AuditLog
from runtime.audit.service import AuditService
from runtime.cells.cells import Cells
from runtime.cells.service import CellService
from runtime.cells.tenants import Tenants
from runtime.discovery.service import DiscoveryService
from runtime.node.service import NodeService
from runtime.observe.service import ObserveService
from runtime.observe.streams import Streams
from runtime.policy.gate import Gate
from runtime.policy.service import AuthService
from runtime.processes import Processes
from runtime.server.health import Health
from runtime.trust.custody import Custody
from runtime.trust.service import IdentityService


class Parts(NamedTuple):
    """What services are made of."""

    version: str
    processes: Processes
    cells: Cells
    tenants: Tenants
    gate: Gate
    streams: Streams
    health: Health
    audit: AuditLog
    custody: Custody


class Service(NamedTuple):
    """A service by its full name, how its servicer is made, and how that is registered."""

    name: str
    make: Callable[[Parts], Any]
    register: Callable[[Any, aio.Server], None]


SERVICES: Final = (
    Service(
        "aurae.audit.v0.AuditService",
        lambda parts: AuditService(parts.audit),
        audit_pb2_grpc.add_AuditServiceServicer_to_server,
    ),
    Service(
        "aurae.auth.v0.AuthService",
        lambda parts: AuthService(parts.gate),
        auth_pb2_grpc.add_AuthServiceServicer_to_server,
    ),
    Service(
        "aurae.cells.v0.CellService",
        lambda parts: CellService(parts.cells, parts.tenants),
        cells_pb2_grpc.add_CellServiceServicer_to_server,
    ),
    Service(
        "aurae.discovery.v0.DiscoveryService",
        lambda parts: DiscoveryService(parts.version, lambda: parts.health.serving),
        discovery_pb2_grpc.add_DiscoveryServiceServicer_to_server,
    ),
    Service(
        "aurae.identity.v0.IdentityService",
        lambda parts: IdentityService(parts.custody),
        identity_pb2_grpc.add_IdentityServiceServicer_to_server,
    ),
    Service(
        "aurae.node.v0.NodeService",
        lambda parts: NodeService(parts.processes),
        node_pb2_grpc.add_NodeServiceServicer_to_server,
    ),
    Service(
        "aurae.observe.v0.ObserveService",
        lambda parts: ObserveService(parts.streams),
        observe_pb2_grpc.add_ObserveServiceServicer_to_server,
    ),
)

NAMES: Final = tuple(service.name for service in SERVICES)
