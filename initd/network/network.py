"""The collection of links that decides: it hears what happens and keeps the kernel as wanted."""

import errno
import logging
import os
import selectors
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from ipaddress import IPv6Interface
from pathlib import Path
from random import Random
from time import CLOCK_BOOTTIME, clock_gettime
from typing import Final

from initd.network import advertisements, codec, status, sysctls
from initd.network.codec import AnyLink
from initd.network.desired import (
    AddAddress,
    Change,
    CreateLink,
    RemoveAddress,
    SetLink,
    changes,
    wanted,
)
from initd.network.follower import Follower
from initd.network.model import Address, LinkSettings, Origin, Route, Settings
from initd.network.netlink import Reports, Requests
from initd.network.pace import Pace
from initd.network.port import Port, Surroundings
from initd.network.resolver import Resolver, resolver
from initd.network.store import Store, write_atomically
from initd.network.timekeeper import Timekeeper
from initd.network.topology import arrange, in_order, master_names, settings_of
from initd.network.words import told

log: Final = logging.getLogger(__name__)

# Below it the kernel takes IPv6 from a link, with all that was set there.
LEAST_MTU_6: Final = 1280


@dataclass(frozen=True, slots=True)
class Places:
    cmdline: Path = Path("/proc/cmdline")
    run: Path = Path("/run/aurae")
    sys: Path = Path("/sys")


class Network:
    """`run` goes on until the process ends. Nothing is taken back then: addresses outlive us."""

    def __init__(self, command_line: Settings, places: Places) -> None:
        self._command_line = command_line
        self._places = places
        self._follower = Follower(places.run)
        # Those that hardware is behind, and those that we made. Ports of bonds and bridges are no
        # `Port`, which is what has addresses.
        self._links: dict[int, AnyLink] = {}
        self._ports: dict[int, Port] = {}
        self._addresses: dict[int, tuple[Address, ...]] = {}
        self._selector = selectors.DefaultSelector()
        self._requests = Requests()
        self._reports = Reports()
        self._unsettled = True
        self._pace = Pace()
        self._problems: dict[Change, str] = {}
        self._seen: set[Address] = set()
        self._hostname: str | None = None
        self._timekeeper = Timekeeper(self._watch, self._selector.unregister)
        self._shared = Surroundings(
            store=Store(places.run / "network"),
            random=Random(),
            hostname=self._given_hostname,
            watch=self._watch_port,
            forget=self._forget,
        )

    @property
    def _document(self) -> Settings:
        return self._follower.settings

    def _given_hostname(self) -> str | None:
        return self._command_line.hostname or self._document.hostname

    def run(self) -> None:
        with ExitStack() as cleanup:
            for closable in (self._selector, self._requests, self._reports):
                cleanup.callback(closable.close)
            # Before the first look, so that nothing happens unseen between the two.
            self._watch(self._reports.socket, self._report)
            self._watch(self._follower, self._follow)
            self._load()
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
        self._timekeeper.tick(now)

    def _deadlines(self) -> Iterator[float]:
        if self._pace.deadline is not None:
            yield self._pace.deadline
        if self._timekeeper.deadline is not None:
            yield self._timekeeper.deadline
        for port in self._ports.values():
            if port.deadline is not None:
                yield port.deadline

    def _watch(self, sock: socket.socket | Follower | int, act: Callable[[float], None]) -> None:
        self._selector.register(sock, selectors.EVENT_READ, act)

    def _forget(self, sock: socket.socket) -> None:
        self._selector.unregister(sock)

    def _watch_port(self, sock: socket.socket, act: Callable[[float], None]) -> None:
        def heard(now: float) -> None:
            act(now)
            self._unsettled = True

        self._watch(sock, heard)

    def _follow(self, now: float) -> None:
        if self._follower.heard() and self._load():
            self._consider_all(now)
            self._ask_ports(now)

    def _load(self) -> bool:
        changed = self._follower.load()
        if changed:
            log.info("configuration read")
            for name, master in master_names(self._document).items():
                if name in self._kept:
                    log.warning("%s: no port of %s: ip= is for it", name, master)
        return changed

    @property
    def _kept(self) -> set[str]:
        """Links that the command line has something to say about by name become no ports."""
        return {link.device for link in self._command_line.links if link.device}

    def _look(self, now: float) -> None:
        """At every link there is, as if each had just been reported."""
        found = self._requests.links()
        for index in self._links.keys() - {one.link.index for one in found}:
            self._gone(index)
        # Those that we made are known before their ports are looked at.
        self._links |= {one.link.index: one for one in found if one.ethernet and one.ours}
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
            self._unsettled |= codec.origin_of_route(message) in codec.ORIGINS
        # A bridge reports its ports by the same messages, with another family.
        if kind in (codec.RTM_NEWLINK, codec.RTM_DELLINK) and message[16] == socket.AF_UNSPEC:
            one = codec.decode_link(message)
            if kind == codec.RTM_NEWLINK:
                self._link(one, now)
            elif one.link.index in self._links:
                self._gone(one.link.index)
        elif kind == codec.RTM_NEWNDUSEROPT:
            advice = advertisements.decode(message[codec.HEADER :])
            if advice and advice.link in self._ports:
                self._ports[advice.link].advised(advice, now)
                self._unsettled = True

    def _link(self, one: AnyLink, now: float) -> None:
        one = replace(one, physical=self._physical(one.link.name))
        index = one.link.index
        before = self._links.pop(index, None)
        if one.ethernet and (one.physical or one.ours):
            self._links[index] = one
            self._unsettled = True
            if one.master in self._links and (before is None or before.master != one.master):
                self._clear(one, now)
        self._consider(one, now)

    def _gone(self, index: int) -> None:
        one = self._links.pop(index)
        self._unsettled = True
        if index in self._ports:
            log.info("%s: gone", one.link.name)
            self._remove(index)

    def _physical(self, name: str) -> bool:
        """Whether hardware is behind it; what workloads make (veth, bridge, tap) has none."""
        return (self._places.sys / "class/net" / name / "device").exists()

    def _clear(self, one: AnyLink, now: float) -> None:
        """A port of a link that we made has none of the addresses that we gave it before."""
        sysctls.write(one.link.name, one.link.index, advertisements=False)
        with suppress(OSError):
            for address in self._requests.addresses(one.link.index, now):
                if address.origin is not Origin.ADVERTISED:
                    self._apply(RemoveAddress(address), one.link.name, now)

    def _has_addresses(self, one: AnyLink) -> bool:
        """Whether it is a link to give addresses to, rather than a port or another's."""
        if one.link.index not in self._links or one.master:
            return False
        return one.physical or one.link.name in _virtual_names(self._document)

    def _consider_all(self, now: float) -> None:
        self._unsettled = True
        for index in sorted(self._links):
            self._consider(self._links[index], now)

    def _consider(self, one: AnyLink, now: float) -> None:
        link = one.link
        port = self._ports.get(link.index)
        if not self._has_addresses(one):
            if port:
                why = "is a port of another link now" if one.master else "is not wanted any more"
                log.info("%s: left alone: it %s", link.name, why)
                self._remove(link.index)
            return
        if port and (port.link.name, port.link.mac) == (link.name, link.mac):
            before = port.link.mtu
            port.changed(link, now)
            if before < LEAST_MTU_6 <= link.mtu:
                self._write_sysctls(port)
            return
        if port:
            if port.link.mac == link.mac:
                # It goes on with its lease under its new name.
                self._shared.store.rename(port.link.name, link.name)
            self._remove(link.index)
        self._unsettled = True
        settings = self._assigned((link.index, link.name))[link.name]
        port = self._ports[link.index] = Port(link, settings, self._shared)
        self._write_sysctls(port)
        log.info("%s: found, %s, MTU %d", link.name, link.mac.hex(":"), link.mtu)
        port.start(now)

    def _ask_ports(self, now: float) -> None:
        """Give each the settings that it has by now."""
        assigned = self._assigned()
        for port in self._ports.values():
            before, settings = port.settings, assigned[port.link.name]
            if settings.advertisements != before.advertisements:
                port.settings = settings
                self._write_sysctls(port)
                port.settings = before
            port.ask_for(settings, now)

    def _assigned(self, *further: tuple[int, str]) -> dict[str, LinkSettings]:
        names = {port.link.index: port.link.name for port in self._ports.values()} | dict(further)
        in_order_of_appearance = [names[index] for index in sorted(names)]
        hardware = {one.link.name: one.hardware for one in self._links.values() if one.physical}
        return settings_of(self._command_line, self._document, in_order_of_appearance, hardware)

    def _remove(self, index: int) -> None:
        self._unsettled = True
        port = self._ports.pop(index)
        self._addresses.pop(index, None)
        port.close()
        self._shared.store.remove(port.link.name)

    def _write_sysctls(self, port: Port) -> None:
        sysctls.write(port.link.name, port.link.index, advertisements=port.settings.advertisements)

    def _settle(self, now: float) -> None:
        """Make the kernel, resolv.conf and the hostname what they should be."""
        routes = self._requests.routes()
        # What lies on others comes after them: it can be up and as long as they are.
        arranged = arrange(self._document, self._links.values(), self._kept)
        pending = self._do(arranged, now)
        if any(isinstance(change, CreateLink) for _, change in arranged if change not in pending):
            # Its report comes at once, and its ports should not be set up before they are that.
            self._pace.settled(pending, now)
            return
        for port in self._in_order():
            pending |= self._settle_port(port, routes, now)
        self._pace.settled(pending, now)
        self._problems = {c: text for c, text in self._problems.items() if c in pending}
        by_index = [self._ports[index] for index in sorted(self._ports)]
        found = resolver(
            (*self._command_line.nameservers, *self._document.nameservers),
            self._document.search,
            (port.source for port in by_index),
        )
        # On a node it leads to the folder that cells have as well.
        self._write((self._places.run / "resolv.conf").resolve(), found.text.encode())
        self._write(self._places.run / "network" / status.NAME, self._status(found, routes))
        self._name(by_index)
        leases = (port.lease for port in by_index if port.lease)
        by_dhcp = dict.fromkeys(str(server) for lease in leases for server in lease.timeservers)
        self._timekeeper.ask(self._document.timeservers or tuple(by_dhcp), now)

    def _write(self, path: Path, content: bytes) -> None:
        try:
            write_atomically(path, content)
        except OSError as e:
            log.warning("cannot write %s: %s", path.name, e.strerror)

    def _in_order(self) -> list[Port]:
        places = {name: place for place, name in enumerate(in_order(self._document))}
        ports = (self._ports[index] for index in sorted(self._ports))
        return sorted(ports, key=lambda port: places.get(port.link.name, -1))

    def _settle_port(self, port: Port, routes: list[Route], now: float) -> set[Change]:
        link = port.link
        try:
            addresses = self._requests.addresses(link.index, now)
        except OSError as e:
            # It has gone; the report of that is on its way.
            log.debug("%s: addresses unknown: %s", link.name, e.strerror)
            return set()
        self._addresses[link.index] = tuple(addresses)
        self._tell_advertised(port, addresses)
        own_routes = [route for route in routes if route.link == link.index]
        want = wanted(link, port.settings, port.lease, self._usual_mtu(port))
        needed = changes(link, want, addresses, own_routes)
        return self._do(((link.name, change) for change in needed), now)

    def _usual_mtu(self, port: Port) -> int | None:
        """A VLAN has that of what it lies on."""
        one = self._links.get(port.link.index)
        parent = self._links.get(one.parent) if one and one.kind == "vlan" else None
        return parent.link.mtu if parent else port.usual_mtu

    def _do(self, needed: Iterable[tuple[str, Change]], now: float) -> set[Change]:
        """Those that could not be done. Those that are done are not pending: their reports will say
        whether it helped."""
        return {
            change
            for name, change in needed
            if not (self._pace.due(change, now) and self._apply(change, name, now))
        }

    def _apply(self, change: Change, name: str, now: float) -> bool:
        try:
            self._requests.apply(change, now)
        except OSError as e:
            self._problems[change] = f"{name}: {told(change)}: failed: {e.strerror or e}"
            if self._pace.failed(change, now) == 1:
                log.warning("%s", self._problems[change])
            return False
        self._pace.done(change, now)
        if isinstance(change, SetLink) and change.mtu and change.link in self._ports:
            self._ports[change.link].changes_mtu(change.mtu)
        # A lease's address has been told of already; the renewed lifetime is nothing to tell.
        if not (isinstance(change, AddAddress) and change.address.origin is Origin.DHCP):
            log.info("%s: %s", name, told(change))
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

    def _status(self, found: Resolver, routes: list[Route]) -> bytes:
        return status.encode(
            (
                status.LinkStatus(
                    one.link,
                    "ethernet" if one.physical else one.kind or "",
                    self._links[one.master].link.name if one.master in self._links else None,
                    self._addresses.get(index, ()),
                    tuple(route for route in routes if route.link == index),
                )
                for index, one in sorted(self._links.items())
            ),
            found,
            self._problems.values(),
        )

    def _name(self, ports: list[Port]) -> None:
        """The command line's hostname, else the document's, else that of the first lease with
        one."""
        by_dhcp = (port.lease.hostname for port in ports if port.lease and port.lease.hostname)
        hostname = self._given_hostname() or next(by_dhcp, None)
        if hostname is None or hostname == self._hostname:
            return
        self._hostname = hostname
        if os.uname().nodename == hostname:
            return
        with suppress(PermissionError):
            socket.sethostname(hostname)
            log.info("hostname %s", hostname)


def _virtual_names(document: Settings) -> set[str]:
    return {link.device for link in document.links if link.device and link.virtual}


def _now() -> float:
    return clock_gettime(CLOCK_BOOTTIME)
