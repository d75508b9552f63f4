"""One link of ours: its DHCP client, its sockets, and what is known of it."""

import logging
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from random import Random
from typing import Final

from initd.network.advertisements import Advice, advised
from initd.network.dhcp.client import Client, Note, Output
from initd.network.dhcp.message import decode
from initd.network.dhcp.packet import arp_of, conflicts, unwrap
from initd.network.model import Advertisements, Lease, Link, LinkSettings
from initd.network.resolver import Source
from initd.network.store import Known, Store
from initd.network.wire import Wire, packets, solicit

log: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What ports share. `watch` and `forget` tell the loop of sockets that come and go."""

    store: Store
    random: Random
    hostname: Callable[[], str | None]
    watch: Callable[[socket.socket, Callable[[float], None]], None]
    forget: Callable[[socket.socket], None]


class Port:
    """It keeps itself on file whenever what it knows changes."""

    def __init__(self, link: Link, settings: LinkSettings, shared: Surroundings) -> None:
        self.link = link
        self.settings = settings
        self._shared = shared
        self._wire = Wire(link)
        self._watched: tuple[tuple[socket.socket, bool], ...] = ()
        known = shared.store.load(link.name, link.mac)
        self._saved = known
        self.advertisements = known.advertisements
        self.usual_mtu = known.usual_mtu
        """What the link had before we gave it another."""
        self.client: Client | None = None
        if settings.dhcp:
            self.client = self._new_client(known.lease)

    def _new_client(self, lease: Lease | None) -> Client:
        client = Client(self.link.mac, self._shared.random, lease=lease)
        client.hostname = self._shared.hostname()
        return client

    @property
    def lease(self) -> Lease | None:
        return self.client.lease if self.client else None

    @property
    def source(self) -> Source:
        return Source(self.link.name, self.lease, self.advertisements)

    @property
    def deadline(self) -> float | None:
        own = self.client.deadline if self.client else None
        both = (own, self.advertisements.expires)
        return min((time for time in both if time is not None), default=None)

    def start(self, now: float) -> None:
        """A lease on file is gone on with: the service was started anew."""
        if self.link.carrier:
            if self.client:
                self._perform(self.client.adopt(now))
            self.solicit()

    def ask_for(self, settings: LinkSettings, now: float) -> None:
        """Other settings: DHCP goes on as it is where both have it."""
        before, self.settings = self.settings, settings
        if self.client:
            self.client.hostname = self._shared.hostname()
        if settings.dhcp and not self.client:
            self.client = self._new_client(None)
            if self.link.carrier:
                self._perform(self.client.adopt(now))
        elif self.client and not settings.dhcp:
            self.client = None
            self.close()
        if settings.advertisements and not before.advertisements:
            self.solicit()
        if not settings.advertisements:
            self.advertisements = Advertisements()
        self._save()

    def changes_mtu(self, mtu: int) -> None:
        """To be called before it is given another: what it has is remembered, until it has that
        again."""
        if self.usual_mtu is None:
            self.usual_mtu = self.link.mtu
        elif mtu == self.usual_mtu:
            self.usual_mtu = None
        self._save()

    def close(self) -> None:
        for sock, _ in self._watched:
            self._shared.forget(sock)
        self._watched = ()
        self._wire.close()

    def changed(self, link: Link, now: float) -> None:
        """The link has changed, but for its MAC and name: these make another port of it."""
        before, self.link = self.link, link
        if link.carrier == before.carrier:
            return
        log.info("%s: %s", link.name, "carrier" if link.carrier else "no carrier")
        if self.client and link.carrier:
            self._perform(self.client.carrier_found(now))
        elif self.client:
            self.client.carrier_lost()
            self._perform(())
        if link.carrier:
            # The kernel asks only when the link comes up, not when the cable comes back.
            self.solicit()

    def solicit(self) -> None:
        if not self.settings.advertisements:
            return
        try:
            solicit(self.link)
        except OSError as e:
            # No link-local address yet: the kernel asks by itself once there is one.
            log.debug("%s: routers not asked: %s", self.link.name, e.strerror)

    def advised(self, advice: Advice, now: float) -> None:
        if self.settings.advertisements:
            self.advertisements = advised(self.advertisements, advice, now)
            self._save()

    def tick(self, now: float) -> None:
        """To be called when `deadline` is reached."""
        self.advertisements = self.advertisements.at(now)
        if self.client and self.client.deadline is not None and self.client.deadline <= now:
            self._perform(self.client.timeout(now))
        self._save()

    def _perform(self, outputs: Iterable[Output]) -> None:
        for output in outputs:
            # First the sockets, so that an answer finds them open.
            self._open()
            if isinstance(output, Note):
                level = logging.WARNING if output.warning else logging.INFO
                log.log(level, "%s: %s", self.link.name, output.text)
                continue
            try:
                self._wire.send(output)
            except OSError as e:
                log.debug("%s: not sent: %s", self.link.name, e.strerror)
        self._open()
        self._save()

    def _open(self) -> None:
        assert self.client is not None
        try:
            self._wire.open_for(dhcp=self.client.listening, arp=self.client.probing is not None)
        except OSError as e:
            # The link is just going away, or down; what was to be heard is asked for again.
            log.debug("%s: no packet socket: %s", self.link.name, e.strerror)
        now_open = self._wire.sockets
        for sock, _ in set(self._watched) - set(now_open):
            self._shared.forget(sock)
        for sock, arp in set(now_open) - set(self._watched):
            self._shared.watch(sock, self._arp_reader(sock) if arp else self._dhcp_reader(sock))
        self._watched = now_open

    def _dhcp_reader(self, sock: socket.socket) -> Callable[[float], None]:
        def read(now: float) -> None:
            for packet in packets(sock):
                try:
                    message = decode(unwrap(packet))
                except ValueError as e:
                    log.debug("%s: malformed DHCP packet: %s", self.link.name, e)
                    continue
                if self.client:
                    self._perform(self.client.received(message, now))

        return read

    def _arp_reader(self, sock: socket.socket) -> Callable[[float], None]:
        def read(now: float) -> None:
            for packet in packets(sock):
                address = self.client.probing if self.client else None
                try:
                    arp = arp_of(packet)
                except ValueError:
                    continue
                if self.client and address and conflicts(arp, address, self.link.mac):
                    self._perform(self.client.conflict(arp.mac, now))

        return read

    def _save(self) -> None:
        known = Known(self.link.mac, self.lease, self.advertisements, self.usual_mtu)
        if known == self._saved:
            return
        try:
            self._shared.store.save(self.link.name, known)
        except OSError as e:
            log.warning("%s: state not kept: %s", self.link.name, e.strerror)
            return
        self._saved = known
