"""The collection of links that decides: it hears what happens and keeps the kernel as wanted."""

import errno
import logging
import os
import selectors
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from ipaddress import IPv6Interface
from pathlib import Path
from random import Random
from time import CLOCK_BOOTTIME, clock_gettime
from typing import Final

from initd.network import advertisements, codec
from initd.network.cmdline import settings_of
from initd.network.desired import (
    DHCP_METRIC,
    AddAddress,
    AddRoute,
    Change,
    RemoveAddress,
    RemoveRoute,
    SetLink,
    changes,
    wanted,
)
from initd.network.model import Address, LinkSettings, Origin, Route, Settings
from initd.network.netlink import Reports, Requests
from initd.network.pace import Pace
from initd.network.port import Port, Surroundings
from initd.network.resolver import resolv_conf
from initd.network.store import Store, write_atomically

log: Final = logging.getLogger(__name__)

SYSCTLS: Final = Path("/proc/sys/net")


@dataclass(frozen=True, slots=True)
class Places:
    cmdline: Path = Path("/proc/cmdline")
    run: Path = Path("/run/aurae")
    sys: Path = Path("/sys")


class Network:
    """`run` goes on until the process ends. Nothing is taken back then: addresses outlive us."""

    def __init__(self, settings: Settings, places: Places) -> None:
        self._settings = settings
        self._places = places
        self._ports: dict[int, Port] = {}
        self._selector = selectors.DefaultSelector()
        self._requests = Requests()
        self._reports = Reports()
        self._unsettled = True
        self._pace = Pace()
        self._seen: set[Address] = set()
        self._hostname: str | None = None
        self._shared = Surroundings(
            store=Store(places.run / "network"),
            random=Random(),
            hostname=settings.hostname,
            watch=self._watch_port,
            forget=self._forget,
        )

    def run(self) -> None:
        with ExitStack() as cleanup:
            for closable in (self._selector, self._requests, self._reports):
                cleanup.callback(closable.close)
            # Before the first look, so that nothing happens unseen between the two.
            self._watch(self._reports.socket, self._report)
            self._look(_now())
            while True:
                self._step()

    def _step(self) -> None:
        if self._unsettled:
            self._unsettled = False
            self._settle(_now())
        deadline = min(self._deadlines(), default=None)
        wait = None if deadline is None else max(0.0, deadline - _now())
        ready = self._selector.select(wait)
        now = _now()
        for key, _ in ready:
            # One that ran before may have closed this one.
            if self._selector.get_map().get(key.fd) is key:
                act: Callable[[float], None] = key.data
                act(now)
        for port in self._ports.values():
            if port.deadline is not None and port.deadline <= now:
                port.tick(now)
                self._unsettled = True
        if self._pace.deadline is not None and self._pace.deadline <= now:
            self._unsettled = True

    def _deadlines(self) -> Iterator[float]:
        if self._pace.deadline is not None:
            yield self._pace.deadline
        for port in self._ports.values():
            if port.deadline is not None:
                yield port.deadline

    def _watch(self, sock: socket.socket, act: Callable[[float], None]) -> None:
        self._selector.register(sock, selectors.EVENT_READ, act)

    def _forget(self, sock: socket.socket) -> None:
        self._selector.unregister(sock)

    def _watch_port(self, sock: socket.socket, act: Callable[[float], None]) -> None:
        def heard(now: float) -> None:
            act(now)
            self._unsettled = True

        self._watch(sock, heard)

    def _look(self, now: float) -> None:
        """At every link there is, as if each had just been reported."""
        found = self._requests.links()
        gone = self._ports.keys() - {one.link.index for one in found}
        for index in gone:
            self._remove(index)
        for one in sorted(found, key=lambda one: one.link.index):
            self._link(one, now)

    def _report(self, now: float) -> None:
        try:
            messages = self._reports.read()
        except OSError as e:
            if e.errno != errno.ENOBUFS:
                raise
            log.warning("the kernel's reports came too fast, looking at all links anew")
            self._look(now)
            for port in self._ports.values():
                port.solicit()
            return
        for message in messages:
            try:
                self._message(message, now)
            except ValueError as e:
                log.debug("netlink message ignored: %s", e)

    def _message(self, message: bytes, now: float) -> None:
        kind = codec.kind_of(message)
        # Only what is about our links or routes may wake the rest: workloads make links all day.
        if kind in (codec.RTM_NEWADDR, codec.RTM_DELADDR):
            self._unsettled |= codec.link_of_address(message) in self._ports
        if kind in (codec.RTM_NEWROUTE, codec.RTM_DELROUTE):
            self._unsettled |= codec.origin_of_route(message) in (Origin.STATIC, Origin.DHCP)
        # A bridge reports its ports by the same messages, with another family.
        if kind in (codec.RTM_NEWLINK, codec.RTM_DELLINK) and message[16] == socket.AF_UNSPEC:
            one = codec.decode_link(message)
            if kind == codec.RTM_NEWLINK:
                self._link(one, now)
            elif one.link.index in self._ports:
                log.info("%s: gone", one.link.name)
                self._remove(one.link.index)
        elif kind == codec.RTM_NEWNDUSEROPT:
            advice = advertisements.decode(message[codec.HEADER :])
            if advice and advice.link in self._ports:
                self._ports[advice.link].advised(advice, now)
                self._unsettled = True

    def _link(self, one: codec.AnyLink, now: float) -> None:
        link = one.link
        port = self._ports.get(link.index)
        self._unsettled |= port is not None
        if not (one.ethernet and one.master == 0 and self._physical(link.name)):
            if port:
                log.info("%s: left alone: it is a port of another link now", link.name)
                self._remove(link.index)
            return
        if port and (port.link.name, port.link.mac) == (link.name, link.mac):
            port.changed(link, now)
            return
        if port:
            self._remove(link.index)
        settings = self._link_settings(link.index, link.name)
        port = self._ports[link.index] = Port(link, settings, self._shared)
        self._unsettled = True
        self._write_sysctls(port)
        log.info("%s: found, %s, MTU %d", link.name, link.mac.hex(":"), link.mtu)
        port.start(now)

    def _link_settings(self, index: int, name: str) -> LinkSettings:
        names = {port.link.index: port.link.name for port in self._ports.values()} | {index: name}
        return settings_of(self._settings, [names[index] for index in sorted(names)])[name]

    def _remove(self, index: int) -> None:
        self._unsettled = True
        port = self._ports.pop(index)
        port.close()
        self._shared.store.remove(port.link.name)

    def _physical(self, name: str) -> bool:
        """Whether hardware is behind it; what workloads make (veth, bridge, tap) has none."""
        return (self._places.sys / "class/net" / name / "device").exists()

    def _write_sysctls(self, port: Port) -> None:
        name, on = port.link.name, int(port.settings.advertisements)
        values = {
            # 2: also where this node forwards for its workloads.
            f"ipv6/conf/{name}/accept_ra": 2 * on,
            f"ipv6/conf/{name}/autoconf": on,
            f"ipv6/conf/{name}/accept_ra_rt_info_max_plen": 64 * on,
            f"ipv6/conf/{name}/ra_defrtr_metric": DHCP_METRIC + port.link.index,
            # Removing a lease's old address must not remove the new one of the same network.
            f"ipv4/conf/{name}/promote_secondaries": 1,
            # With a second link, an unplugged first one is no way out.
            f"ipv4/conf/{name}/ignore_routes_with_linkdown": 1,
        }
        for key, value in values.items():
            try:
                # Never made: where the kernel has no such file, it has no such feature.
                with (SYSCTLS / key).open("r+") as file:
                    file.write(str(value))
            except FileNotFoundError:
                continue
            except OSError as e:
                log.warning("%s: cannot set sysctl net/%s: %s", name, key, e.strerror)

    def _settle(self, now: float) -> None:
        """Make the kernel, resolv.conf and the hostname what they should be."""
        pending: set[Change] = set()
        routes = self._requests.routes()
        for port in tuple(self._ports.values()):
            pending |= self._settle_port(port, routes, now)
        self._pace.settled(pending, now)
        in_order = [self._ports[index] for index in sorted(self._ports)]
        text = resolv_conf(self._settings.nameservers, (port.source for port in in_order))
        try:
            # On a node it leads to the folder that cells have as well.
            write_atomically((self._places.run / "resolv.conf").resolve(), text.encode())
        except OSError as e:
            log.warning("cannot write resolv.conf: %s", e.strerror)
        self._name(in_order)

    def _settle_port(self, port: Port, routes: list[Route], now: float) -> set[Change]:
        link = port.link
        try:
            addresses = self._requests.addresses(link.index, now)
        except OSError as e:
            # It has gone; the report of that is on its way.
            log.debug("%s: addresses unknown: %s", link.name, e.strerror)
            return set()
        self._tell_advertised(port, addresses)
        own_routes = [route for route in routes if route.link == link.index]
        want = wanted(link, port.settings, port.lease)
        needed = changes(link, want, addresses, own_routes)
        # Those that are done are not pending: their reports will say whether it helped.
        return {
            change
            for change in needed
            if not (self._pace.due(change, now) and self._apply(change, link.name, now))
        }

    def _apply(self, change: Change, name: str, now: float) -> bool:
        try:
            self._requests.apply(change, now)
        except OSError as e:
            if self._pace.failed(change, now) == 1:
                log.warning("%s: %s: failed: %s", name, _told(change), e.strerror)
            return False
        self._pace.done(change, now)
        # A lease's address has been told of already; the renewed lifetime is nothing to tell.
        if not (isinstance(change, AddAddress) and change.address.origin is Origin.DHCP):
            log.info("%s: %s", name, _told(change))
        return True

    def _tell_advertised(self, port: Port, addresses: list[Address]) -> None:
        by_router = {
            Address(a.link, a.interface, a.origin, 0)
            for a in addresses
            if a.origin is Origin.ADVERTISED and isinstance(a.interface, IPv6Interface)
        }
        for address in sorted(by_router - self._seen, key=lambda a: str(a.interface)):
            log.info("%s: address %s by router advertisement", port.link.name, address.interface)
        self._seen = {a for a in self._seen if a.link != port.link.index} | by_router

    def _name(self, ports: list[Port]) -> None:
        """The command line's hostname, else that of the first lease which has one."""
        by_dhcp = (port.lease.hostname for port in ports if port.lease and port.lease.hostname)
        hostname = self._settings.hostname or next(by_dhcp, None)
        if hostname is None or hostname == self._hostname:
            return
        self._hostname = hostname
        if os.uname().nodename == hostname:
            return
        with suppress(PermissionError):
            socket.sethostname(hostname)
            log.info("hostname %s", hostname)


def _now() -> float:
    return clock_gettime(CLOCK_BOOTTIME)


def _told(change: Change) -> str:
    match change:
        case SetLink(_, up, mtu, mac):
            words = ["up" if up else "down"] if up is not None else []
            words += [f"MAC {mac.hex(':')}"] if mac else []
            words += [f"MTU {mtu}"] if mtu else []
            return ", ".join(words)
        case AddAddress(address):
            how = "by DHCP" if address.origin is Origin.DHCP else "from the command line"
            return f"address {address.interface} {how}"
        case RemoveAddress(address):
            return f"address {address.interface} removed"
        case AddRoute(route):
            return _route(route)
        case RemoveRoute(route):
            return f"{_route(route)} removed"


def _route(route: Route) -> str:
    name = "default route" if not route.destination.prefixlen else f"route to {route.destination}"
    return f"{name} via {route.gateway}" if route.gateway else name
