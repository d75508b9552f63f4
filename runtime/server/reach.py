"""Which calls a caller inside of a cell may make: the one table, with every method of the API."""

from collections.abc import Mapping
from enum import Enum
from typing import Final


class Reach(Enum):
    """Whom a method is for."""

    CELL = "callers in a cell too: what it reads and does stays within their subtree"
    NODE = "callers of the node only"


REACH: Final[Mapping[str, Reach]] = {
    "/aurae.audit.v0.AuditService/GetHead": Reach.NODE,
    "/aurae.audit.v0.AuditService/Watch": Reach.NODE,
    "/aurae.cells.v0.CellService/Allocate": Reach.CELL,
    "/aurae.cells.v0.CellService/Apply": Reach.CELL,
    "/aurae.cells.v0.CellService/Free": Reach.CELL,
    "/aurae.cells.v0.CellService/List": Reach.CELL,
    "/aurae.cells.v0.CellService/Start": Reach.CELL,
    "/aurae.cells.v0.CellService/Stop": Reach.CELL,
    "/aurae.cells.v0.CellService/Wait": Reach.CELL,
    "/aurae.cells.v0.CellService/Watch": Reach.CELL,
    "/aurae.discovery.v0.DiscoveryService/Discover": Reach.CELL,
    "/aurae.node.v0.NodeService/ReloadDaemon": Reach.NODE,
    "/aurae.node.v0.NodeService/Shutdown": Reach.NODE,
    "/aurae.observe.v0.ObserveService/GetAuraeDaemonLogStream": Reach.NODE,
    "/aurae.observe.v0.ObserveService/GetPosixSignalsStream": Reach.NODE,
    "/aurae.observe.v0.ObserveService/GetSubProcessStream": Reach.CELL,
    "/grpc.health.v1.Health/Check": Reach.CELL,
    "/grpc.health.v1.Health/List": Reach.CELL,
    "/grpc.health.v1.Health/Watch": Reach.CELL,
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": Reach.CELL,
}


def reaches(method: str) -> bool:
    """Whether a caller inside of a cell may call it. What the table does not know is not."""
    return REACH.get(method) is Reach.CELL
