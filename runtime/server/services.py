"""Every service of the API, once: registration, health and reflection follow this table.

Services that few callers ask for are loaded by their first call, or when the API has long answered.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import grpc
from grpc import aio

from initd.values import NamedTuple
from runtime.cells.cells import Cells
from runtime.observe.streams import Streams
from runtime.processes import Processes
from runtime.server.health import Health
from runtime.server.recorder import Recorder
from runtime.server.settings import Settings

if TYPE_CHECKING:
    from runtime.configuration.configurations import Configurations
    from runtime.server.deciding import Deciding
    from runtime.trust.custody import Custody


class Parts(NamedTuple):
    """What services are made of."""

    version: str
    processes: Processes
    cells: Cells
    streams: Streams
    health: Health
    audit: Recorder
    settings: Settings
    deciding: "Callable[[], Deciding]"
    custody: "Callable[[], Custody]"
    configurations: "Callable[[], Configurations]"


# A servicer, and what registers it with a server.
Made: TypeAlias = tuple[Any, Callable[[Any, aio.Server], None]]


def _audit(parts: Parts) -> Made:
    from aurae.audit.v0 import audit_pb2_grpc

    from runtime.audit.service import AuditService

    return AuditService(parts.audit.log), audit_pb2_grpc.add_AuditServiceServicer_to_server


def _auth(parts: Parts) -> Made:
    from aurae.auth.v0 import auth_pb2_grpc

    from runtime.policy.service import AuthService

    return AuthService(parts.deciding().gate), auth_pb2_grpc.add_AuthServiceServicer_to_server


def _cells(parts: Parts) -> Made:
    from aurae.cells.v0 import cells_pb2_grpc

    from runtime.cells.service import CellService

    servicer = CellService(parts.cells, parts.deciding().tenants)
    return servicer, cells_pb2_grpc.add_CellServiceServicer_to_server


def _config(parts: Parts) -> Made:
    from aurae.node.v0 import config_pb2_grpc

    from runtime.configuration.service import ConfigService

    servicer = ConfigService(parts.configurations(), parts.deciding().gate)
    return servicer, config_pb2_grpc.add_ConfigServiceServicer_to_server


def _discovery(parts: Parts) -> Made:
    from aurae.discovery.v0 import discovery_pb2_grpc

    from runtime.discovery.service import DiscoveryService

    servicer = DiscoveryService(parts.version, lambda: parts.health.serving)
    return servicer, discovery_pb2_grpc.add_DiscoveryServiceServicer_to_server


def _health(parts: Parts) -> Made:
    from grpc_health.v1 import health_pb2_grpc

    from runtime.server.health_service import HealthService

    return HealthService(parts.health, NAMES), health_pb2_grpc.add_HealthServicer_to_server


def _identity(parts: Parts) -> Made:
    from aurae.identity.v0 import identity_pb2_grpc

    from runtime.trust.service import IdentityService

    servicer = IdentityService(parts.custody())
    return servicer, identity_pb2_grpc.add_IdentityServiceServicer_to_server


def _install(_: Parts) -> Made:
    from aurae.node.v0 import install_pb2_grpc

    from runtime.install.disks import Disks
    from runtime.install.installs import Installs
    from runtime.install.service import InstallService

    disks = Disks()
    servicer = InstallService(disks, Installs(disks))
    return servicer, install_pb2_grpc.add_InstallServiceServicer_to_server


def _node(parts: Parts) -> Made:
    from aurae.node.v0 import node_pb2_grpc

    from runtime.node.service import NodeService

    return NodeService(parts.processes), node_pb2_grpc.add_NodeServiceServicer_to_server


def _observe(parts: Parts) -> Made:
    from aurae.observe.v0 import observe_pb2_grpc

    from runtime.observe.service import ObserveService

    return ObserveService(parts.streams), observe_pb2_grpc.add_ObserveServiceServicer_to_server


def _upgrade(parts: Parts) -> Made:
    from aurae.node.v0 import upgrade_pb2_grpc

    from runtime.upgrade.node import Node
    from runtime.upgrade.service import UpgradeService
    from runtime.upgrade.upgrades import Upgrades

    settings = parts.settings
    node = Node(
        parts.version,
        settings.state,
        keeps=settings.state == settings.disk,
        port=settings.port,
    )
    servicer = UpgradeService(Upgrades(node), parts.processes)
    return servicer, upgrade_pb2_grpc.add_UpgradeServiceServicer_to_server


SERVICES: Final = {
    "aurae.audit.v0.AuditService": _audit,
    "aurae.auth.v0.AuthService": _auth,
    "aurae.cells.v0.CellService": _cells,
    "aurae.discovery.v0.DiscoveryService": _discovery,
    "aurae.identity.v0.IdentityService": _identity,
    "aurae.node.v0.ConfigService": _config,
    "aurae.node.v0.InstallService": _install,
    "aurae.node.v0.NodeService": _node,
    "aurae.node.v0.UpgradeService": _upgrade,
    "aurae.observe.v0.ObserveService": _observe,
    "grpc.health.v1.Health": _health,
}
NAMES: Final = tuple(SERVICES)

# What is loaded beside, once the API answers, so that no call waits for it.
LATER: Final = (
    *("runtime.audit.log", "runtime.policy.document", "google.protobuf.json_format"),
    *("runtime.audit.service", "runtime.cells.service", "runtime.discovery.service"),
    *("runtime.node.service", "runtime.observe.service", "runtime.policy.service"),
    *("runtime.server.admission", "runtime.server.deciding", "runtime.server.health_service"),
    *("runtime.install.service", "runtime.trust.service"),
)


class Late(grpc.GenericRpcHandler):
    """A service that is made by the first call of one of its methods."""

    def __init__(self, name: str, parts: Parts) -> None:
        self._name = name
        self._parts = parts
        self._handlers: list[grpc.GenericRpcHandler] = []

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        if not handler_call_details.method.startswith(f"/{self._name}/"):
            return None
        if not self._handlers:
            servicer, register = SERVICES[self._name](self._parts)
            register(servicer, self)  # type: ignore[arg-type]
        (handler,) = self._handlers
        return handler.service(handler_call_details)

    # What generated code asks of a server.

    def add_generic_rpc_handlers(self, handlers: tuple[grpc.GenericRpcHandler, ...]) -> None:
        self._handlers += handlers

    def add_registered_method_handlers(self, service: str, handlers: dict[str, Any]) -> None:
        """The same once more, for servers that look them up faster."""
