"""The rtnetlink sockets: one for requests, one on which the kernel reports changes."""

import errno
import os
import socket
import struct
from collections.abc import Iterator
from typing import Final

from initd.network import codec
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
from initd.network.model import Address, Origin, Route

# include/uapi/linux/netlink.h
SOL_NETLINK: Final = 270
NETLINK_ADD_MEMBERSHIP: Final = 1
NETLINK_GET_STRICT_CHK: Final = 12
NLMSG_ERROR: Final = 2
NLMSG_DONE: Final = 3
NLM_F_DUMP_INTR: Final = 0x10
# RTNLGRP_LINK, IPV4_IFADDR, IPV4_ROUTE, IPV6_IFADDR, IPV6_ROUTE, ND_USEROPT
GROUPS: Final = (1, 5, 7, 9, 11, 20)
RECEIVE_BUFFER: Final = 1 << 20
READ: Final = 1 << 16
# The kernel answers at once; this is for a kernel that does not.
ANSWER_WITHIN: Final = 10.0
DUMP_TRIES: Final = 5


class Requests:
    """Ask and wait for the answer. Failures are OSError with the kernel's errno."""

    def __init__(self) -> None:
        self.socket = _open()
        self.socket.settimeout(ANSWER_WITHIN)
        # The kernel then gives only those of the link or origin asked for.
        self.socket.setsockopt(SOL_NETLINK, NETLINK_GET_STRICT_CHK, 1)
        self._sequence = 0

    def close(self) -> None:
        self.socket.close()

    def links(self) -> list[codec.AnyLink]:
        return [codec.decode_link(answer) for answer in self._dump(codec.dump_links())]

    def addresses(self, link: int, now: float) -> list[Address]:
        answers = self._dump(codec.dump_addresses(link))
        found = (codec.decode_address(answer, now) for answer in answers)
        # A kernel that does not know strict dumps gives those of every link.
        return [address for address in found if address and address.link == link]

    def routes(self) -> list[Route]:
        """Those that we made and those that routers advertise, on any link."""
        asked = (
            *((Origin.DHCP, 4), (Origin.STATIC, 4), (Origin.STATIC, 6)),
            *((Origin.DOCUMENT, 4), (Origin.DOCUMENT, 6), (Origin.ADVERTISED, 6)),
        )
        found: list[Route] = []
        for origin, version in asked:
            try:
                answers = self._dump(codec.dump_routes(origin, version))
            except OSError as e:
                # No IPv6 in this kernel, or no route yet in its table.
                if e.errno not in (errno.EOPNOTSUPP, errno.ENOENT, errno.EAFNOSUPPORT):
                    raise
                continue
            routes = (codec.decode_route(answer) for answer in answers)
            found += (route for route in routes if route and route.origin is origin)
        return found

    def apply(self, change: Change, now: float) -> None:
        """What is to be removed and is gone already counts as removed."""
        match change:
            case CreateLink() | RemoveLink() | RenameLink() | SetMaster() | SetOptions():
                self._build(change)
            case SetLink(link, up, mtu, mac):
                self._ask(codec.set_link(link, up=up, mtu=mtu, mac=mac))
            case AddAddress(address):
                self._ask(codec.add_address(address, now))
            case RemoveAddress(address):
                self._ask(codec.remove_address(address), absent=(errno.EADDRNOTAVAIL,))
            case AddRoute(route):
                self._ask(codec.add_route(route))
            case RemoveRoute(route):
                self._ask(codec.remove_route(route), absent=(errno.ESRCH, errno.ENOENT))

    def _build(self, change: CreateLink | RemoveLink | RenameLink | SetMaster | SetOptions) -> None:
        match change:
            case CreateLink(name, kind, options, parent, new_mac):
                request = codec.create_link(name, kind, options, parent=parent, mac=new_mac)
                self._ask(request)
            case RemoveLink(link):
                self._ask(codec.remove_link(link), absent=(errno.ENODEV,))
            case RenameLink(link, name):
                self._ask(codec.rename_link(link, name))
            case SetMaster(link, master):
                if master:
                    self._ask(codec.set_link(link, up=False, mtu=None, mac=None))
                self._ask(codec.set_master(link, master))
            case SetOptions(link, kind, options):
                self._ask(codec.set_options(link, kind, options))

    def _ask(self, request: bytes, absent: tuple[int, ...] = ()) -> None:
        for _ in self._answers(request, absent):
            pass

    def _dump(self, request: bytes) -> list[bytes]:
        """Again where the table changed meanwhile: such a dump may lack entries."""
        for _ in range(DUMP_TRIES - 1):
            answers = list(self._answers(request))
            if not any(_flags(answer) & NLM_F_DUMP_INTR for answer in answers):
                return answers
        return list(self._answers(request))

    def _answers(self, request: bytes, absent: tuple[int, ...] = ()) -> Iterator[bytes]:
        self._sequence = self._sequence % 0xFFFFFFFF + 1
        sequence = struct.pack("=I", self._sequence)
        self.socket.send(request[:8] + sequence + request[12:])
        while True:
            for answer in codec.split(self.socket.recv(READ)):
                # Left over from a request that was given up.
                if answer[8:12] != sequence:
                    continue
                kind = codec.kind_of(answer)
                if kind in (NLMSG_ERROR, NLMSG_DONE):
                    code = -struct.unpack_from("=i", answer, codec.HEADER)[0]
                    if code > 0 and code not in absent:
                        raise OSError(code, os.strerror(code))
                    return
                yield answer


class Reports:
    """What the kernel reports. ENOBUFS from `read` means that some of it was lost."""

    def __init__(self) -> None:
        self.socket = _open()
        self.socket.setblocking(False)
        for group in GROUPS:
            self.socket.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, group)

    def close(self) -> None:
        self.socket.close()

    def read(self) -> list[bytes]:
        """At once, with what is there."""
        messages: list[bytes] = []
        while True:
            try:
                messages += codec.split(self.socket.recv(READ))
            except BlockingIOError:
                return messages


def _flags(message: bytes) -> int:
    flags: int = struct.unpack_from("=H", message, 6)[0]
    return flags


def _open() -> socket.socket:
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
    sock.bind((0, 0))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
    return sock
