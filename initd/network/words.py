"""Changes as the log tells them."""

from initd.network.desired import (
    AddAddress,
    AddRoute,
    Change,
    CreateLink,
    RemoveAddress,
    RemoveLink,
    RemoveRoute,
    RenameLink,
    SetLink,
    SetMaster,
    SetOptions,
)
from initd.network.model import Origin, Route

_BY: dict[Origin, str] = {
    Origin.DHCP: "by DHCP",
    Origin.STATIC: "from the command line",
    Origin.DOCUMENT: "from the configuration",
}


def told(change: Change) -> str:
    match change:
        case SetLink(_, up, mtu, mac):
            words = ["up" if up else "down"] if up is not None else []
            words += [f"MAC {mac.hex(':')}"] if mac else []
            words += [f"MTU {mtu}"] if mtu else []
            return ", ".join(words)
        case AddAddress(address):
            return f"address {address.interface} {_BY.get(address.origin, '')}".rstrip()
        case RemoveAddress(address):
            return f"address {address.interface} removed"
        case AddRoute(route):
            return _route(route)
        case RemoveRoute(route):
            return f"{_route(route)} removed"
        case _:
            return _of_link(change)


def _of_link(change: CreateLink | RemoveLink | RenameLink | SetMaster | SetOptions) -> str:
    match change:
        case CreateLink():
            return f"{change.kind} made"
        case RemoveLink():
            return "removed"
        case RenameLink():
            return "moved out of the way" if "%" in change.name else f"is {change.name} from now on"
        case SetMaster():
            return "made a port" if change.master else "let go"
        case SetOptions():
            return ", ".join(f"{name} {value}" for name, value in change.options)


def _route(route: Route) -> str:
    name = "default route" if not route.destination.prefixlen else f"route to {route.destination}"
    return f"{name} via {route.gateway}" if route.gateway else name
