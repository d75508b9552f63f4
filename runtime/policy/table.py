"""What each method of the API needs, and what each role has: the two tables."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final


class Permission(StrEnum):
    """What a caller must have. The proto says what each lets do."""

    IDENTITY = "identity"
    """Nothing but an identity: everybody may ask what they may."""
    NODE_READ = "node.read"
    CELLS_READ = "cells.read"
    CELLS_WRITE = "cells.write"
    LOGS_READ = "logs.read"
    NODE_OBSERVE = "node.observe"
    NODE_CONTROL = "node.control"
    NODE_INSTALL = "node.install"
    NODE_UPGRADE = "node.upgrade"
    AUDIT_READ = "audit.read"
    IDENTITY_READ = "identity.read"
    IDENTITY_WRITE = "identity.write"
    POLICY_READ = "policy.read"
    POLICY_WRITE = "policy.write"
    CONFIG_READ = "config.read"
    CONFIG_WRITE = "config.write"


# These can be had for a part of the node: what is read and done then stays within it.
PARTIAL: Final = frozenset(
    {
        Permission.IDENTITY,
        Permission.NODE_READ,
        Permission.CELLS_READ,
        Permission.CELLS_WRITE,
        Permission.LOGS_READ,
    }
)

TABLE: Final[Mapping[str, Permission]] = {
    "/aurae.audit.v0.AuditService/GetHead": Permission.AUDIT_READ,
    "/aurae.audit.v0.AuditService/Watch": Permission.AUDIT_READ,
    "/aurae.auth.v0.AuthService/CanI": Permission.IDENTITY,
    "/aurae.auth.v0.AuthService/GetPolicy": Permission.POLICY_READ,
    "/aurae.auth.v0.AuthService/SetPolicy": Permission.POLICY_WRITE,
    "/aurae.auth.v0.AuthService/WhoAmI": Permission.IDENTITY,
    "/aurae.cells.v0.CellService/Allocate": Permission.CELLS_WRITE,
    "/aurae.cells.v0.CellService/Apply": Permission.CELLS_WRITE,
    "/aurae.cells.v0.CellService/Free": Permission.CELLS_WRITE,
    "/aurae.cells.v0.CellService/List": Permission.CELLS_READ,
    "/aurae.cells.v0.CellService/Start": Permission.CELLS_WRITE,
    "/aurae.cells.v0.CellService/Stop": Permission.CELLS_WRITE,
    "/aurae.cells.v0.CellService/Wait": Permission.CELLS_READ,
    "/aurae.cells.v0.CellService/Watch": Permission.CELLS_READ,
    "/aurae.discovery.v0.DiscoveryService/Discover": Permission.NODE_READ,
    "/aurae.identity.v0.IdentityService/GetIdentity": Permission.IDENTITY_READ,
    "/aurae.identity.v0.IdentityService/GetSigningRequest": Permission.IDENTITY_WRITE,
    "/aurae.identity.v0.IdentityService/SetCertificate": Permission.IDENTITY_WRITE,
    "/aurae.identity.v0.IdentityService/SetTrust": Permission.IDENTITY_WRITE,
    "/aurae.node.v0.ConfigService/Apply": Permission.CONFIG_WRITE,
    "/aurae.node.v0.ConfigService/Confirm": Permission.CONFIG_WRITE,
    "/aurae.node.v0.ConfigService/Get": Permission.CONFIG_READ,
    "/aurae.node.v0.ConfigService/Revert": Permission.CONFIG_WRITE,
    "/aurae.node.v0.ConfigService/Validate": Permission.CONFIG_READ,
    "/aurae.node.v0.InstallService/Install": Permission.NODE_INSTALL,
    "/aurae.node.v0.InstallService/ListDisks": Permission.NODE_INSTALL,
    "/aurae.node.v0.NodeService/ReloadDaemon": Permission.NODE_CONTROL,
    "/aurae.node.v0.NodeService/Shutdown": Permission.NODE_CONTROL,
    "/aurae.node.v0.UpgradeService/CancelUpgrade": Permission.NODE_UPGRADE,
    "/aurae.node.v0.UpgradeService/GetUpgradeStatus": Permission.NODE_OBSERVE,
    "/aurae.node.v0.UpgradeService/Rollback": Permission.NODE_UPGRADE,
    "/aurae.node.v0.UpgradeService/Upgrade": Permission.NODE_UPGRADE,
    "/aurae.observe.v0.ObserveService/GetAuraeDaemonLogStream": Permission.NODE_OBSERVE,
    "/aurae.observe.v0.ObserveService/GetPosixSignalsStream": Permission.NODE_OBSERVE,
    "/aurae.observe.v0.ObserveService/GetSubProcessStream": Permission.LOGS_READ,
    "/grpc.health.v1.Health/Check": Permission.NODE_READ,
    "/grpc.health.v1.Health/List": Permission.NODE_READ,
    "/grpc.health.v1.Health/Watch": Permission.NODE_READ,
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": Permission.NODE_READ,
}


# Services that are not on the API's sockets, and what stands there in the place of a policy.
APART: Final[Mapping[str, str]] = {
    "aurae.claim.v0.ClaimService": "of a node that nobody has claimed, to who reads its console",
    "SpiffeWorkloadAPI": "on its own socket; a caller gets the identity of its cell and no other",
    "spire.api.agent.delegatedidentity.v1.DelegatedIdentity": "not served: a SPIRE agent is called",
}


class Role(StrEnum):
    """What a rule gives."""

    READER = "reader"
    OPERATOR = "operator"
    ADMIN = "admin"
    TENANT = "tenant"


# These change nothing.
LOOKS: Final = frozenset(
    {
        Permission.IDENTITY,
        Permission.NODE_READ,
        Permission.CELLS_READ,
        Permission.LOGS_READ,
        Permission.NODE_OBSERVE,
        Permission.AUDIT_READ,
        Permission.IDENTITY_READ,
        Permission.POLICY_READ,
        Permission.CONFIG_READ,
    }
)

ROLES: Final[Mapping[Role, frozenset[Permission]]] = {
    Role.READER: LOOKS,
    Role.OPERATOR: LOOKS | {Permission.CELLS_WRITE, Permission.NODE_CONTROL},
    Role.ADMIN: frozenset(Permission),
    Role.TENANT: PARTIAL,
}


LOOKING: Final = frozenset(method for method, needs in TABLE.items() if needs in LOOKS)


def needed(method: str) -> Permission | None:
    """None: the API has no such method, so nobody may call it."""
    return TABLE.get(method)
