"""The sockets of one link's DHCP client. They are open only while an answer is awaited."""

import socket
from collections.abc import Iterator
from contextlib import suppress
from ipaddress import IPv4Address
from typing import Final

from initd.linux.packet import attach_filter
from initd.network.dhcp.client import Announce, Probe, Send
from initd.network.dhcp.message import UNSPECIFIED, encode
from initd.network.dhcp.packet import (
    ACCEPT_DHCP,
    CLIENT_PORT,
    ETHERTYPE_ARP,
    ETHERTYPE_IP,
    SERVER_PORT,
    Arp,
    arp_request,
    wrap,
)
from initd.network.model import Link

READ: Final = 1 << 16
TO_ALL: Final = b"\xff" * 6
ROUTER_SOLICITATION: Final = bytes((133, 0, 0, 0, 0, 0, 0, 0))
# RFC 4861 section 6.1.1: routers drop what has passed another router.
HOPS: Final = 255


class Wire:
    def __init__(self, link: Link) -> None:
        self._link = link
        self._dhcp: socket.socket | None = None
        self._arp: socket.socket | None = None
        self._unicast: socket.socket | None = None

    @property
    def sockets(self) -> tuple[tuple[socket.socket, bool], ...]:
        """Those to wait on, and whether ARP comes in there."""
        both = ((self._dhcp, False), (self._arp, True))
        return tuple((sock, arp) for sock, arp in both if sock is not None)

    def open_for(self, *, dhcp: bool, arp: bool) -> bool:
        """Open what is needed and close what is not; whether that changed anything."""
        before = self.sockets
        if dhcp and self._dhcp is None:
            self._dhcp = self._packet_socket(ETHERTYPE_IP)
        elif not dhcp:
            _close(self._dhcp, self._unicast)
            self._dhcp = self._unicast = None
        if arp and self._arp is None:
            self._arp = self._packet_socket(ETHERTYPE_ARP)
        elif not arp:
            _close(self._arp)
            self._arp = None
        return self.sockets != before

    def close(self) -> None:
        self.open_for(dhcp=False, arp=False)

    def send(self, output: Send | Probe | Announce) -> None:
        """Raises OSError where the link or its route is gone."""
        match output:
            case Send(message, to) if to is not None:
                self._renew(encode(message), message.client, to)
            case Send(message):
                self._broadcast(ETHERTYPE_IP, wrap(encode(message), message.client))
            case Probe(address):
                self._arp_for(Arp(self._link.mac, UNSPECIFIED, address))
            case Announce(address):
                self._arp_for(Arp(self._link.mac, address, address))

    def _arp_for(self, arp: Arp) -> None:
        self._broadcast(ETHERTYPE_ARP, arp_request(arp))

    def _broadcast(self, protocol: int, packet: bytes) -> None:
        # Protocol 0 receives nothing.
        with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0) as sock:
            sock.sendto(packet, (self._link.name, protocol, 0, 0, TO_ALL))

    def _renew(self, payload: bytes, client: IPv4Address, server: IPv4Address) -> None:
        """By the kernel's routes. The socket stays, so that the answer meets no ICMP error; it is
        read from the packet socket like all others."""
        if self._unicast is None:
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
            try:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                sock.setsockopt(
                    socket.SOL_SOCKET, socket.SO_BINDTODEVICE, self._link.name.encode() + b"\0"
                )
                sock.bind((str(client), CLIENT_PORT))
            except OSError:
                sock.close()
                raise
            self._unicast = sock
        self._unicast.sendto(payload, (str(server), SERVER_PORT))

    def _packet_socket(self, protocol: int) -> socket.socket:
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK, 0)
        try:
            # The filter goes before the protocol, so that nothing slips in.
            if protocol == ETHERTYPE_IP:
                attach_filter(sock, ACCEPT_DHCP)
            sock.bind((self._link.name, protocol))
        except OSError:
            sock.close()
            raise
        return sock


def packets(sock: socket.socket) -> Iterator[bytes]:
    """What has come in on a packet socket; nothing where its link went down."""
    with suppress(OSError):
        while True:
            yield sock.recv(READ)


def solicit(link: Link) -> None:
    """Ask the routers of the link to advertise now. Raises OSError where there is no IPv6 yet."""
    with socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as sock:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, HOPS)
        sock.sendto(ROUTER_SOLICITATION, ("ff02::2", 0, 0, link.index))


def _close(*sockets: socket.socket | None) -> None:
    for sock in sockets:
        if sock is not None:
            sock.close()
