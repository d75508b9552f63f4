"""Addresses of network interfaces by rtnetlink(7), and when they change."""

import socket
import struct
from collections.abc import Iterator
from typing import Final

from initd.values import NamedTuple

# include/uapi/linux/{netlink,rtnetlink,if_addr}.h
_MESSAGE: Final = struct.Struct("=IHHII")
_ADDRESS: Final = struct.Struct("=BBBBI")
_ATTRIBUTE: Final = struct.Struct("=HH")
_RTM_GETADDR: Final = 22
_RTM_NEWADDR: Final = 20
_DONE: Final = (2, 3)  # NLMSG_ERROR, NLMSG_DONE
_REQUEST_DUMP: Final = 0x301
_IFA_ADDRESS: Final = 1
_IFA_LOCAL: Final = 2
# Not yet usable, or found to be another's.
_NOT_OURS: Final = 0x40 | 0x08
# RTMGRP_LINK, RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR
_GROUPS: Final = 0x1 | 0x10 | 0x100
_ANSWER: Final = 1 << 16


class Address(NamedTuple):
    """`scope` is 0 for what is routed, 253 for one link, 254 for this host."""

    interface: int
    text: str
    prefix: int
    scope: int


def listen() -> socket.socket:
    """Readable when links or addresses have changed. Does not block; ours to close."""
    listener = _open(socket.SOCK_NONBLOCK)
    try:
        listener.bind((0, _GROUPS))
    except OSError:
        listener.close()
        raise
    return listener


def drain(listener: socket.socket) -> None:
    """Take all that has come; what it says is to be asked for."""
    while True:
        try:
            listener.recv(_ANSWER)
        except BlockingIOError:
            return
        except OSError:
            # So many came that some were lost, which is all the same.
            continue


def addresses() -> list[Address]:
    """All that are usable."""
    found: list[Address] = []
    with _open() as asked:
        asked.settimeout(1.0)
        request = _ADDRESS.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
        length = _MESSAGE.size + len(request)
        asked.send(_MESSAGE.pack(length, _RTM_GETADDR, _REQUEST_DUMP, 1, 0) + request)
        while True:
            for kind, body in _messages(asked.recv(_ANSWER)):
                if kind in _DONE:
                    return found
                if kind == _RTM_NEWADDR and (address := parse(body)) is not None:
                    found.append(address)


def parse(body: bytes) -> Address | None:
    """What an RTM_NEWADDR says. None: the address is not usable."""
    family, prefix, flags, scope, index = _ADDRESS.unpack_from(body)
    told = dict(_attributes(body[_ADDRESS.size :]))
    # With a peer, the one is the peer's.
    data = told.get(_IFA_LOCAL) or told.get(_IFA_ADDRESS)
    if data is None or flags & _NOT_OURS or len(data) not in (4, 16):
        return None
    return Address(index, socket.inet_ntop(family, data), prefix, scope)


def _open(flags: int = 0) -> socket.socket:
    kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | flags
    return socket.socket(socket.AF_NETLINK, kind, socket.NETLINK_ROUTE)


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + _MESSAGE.size <= len(data):
        length, kind, *_ = _MESSAGE.unpack_from(data, at)
        yield kind, data[at + _MESSAGE.size : at + length]
        at += max(_MESSAGE.size, -(-length // 4) * 4)


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        yield kind, data[at + _ATTRIBUTE.size : at + length]
        at += max(_ATTRIBUTE.size, -(-length // 4) * 4)
