"""Unix sockets: who is at the other end, and descriptors passed along."""

import array
import errno
import os
import select
import socket
import struct
from collections.abc import Sequence
from typing import Final

_UCRED: Final = struct.Struct("iII")
# asm-generic/socket.h. Python has no name for it.
_SO_PEERPIDFD: Final = 77


def credentials(connection: socket.socket) -> tuple[int, int, int]:
    """(pid, uid, gid) of the process that connected."""
    data = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    pid, uid, gid = _UCRED.unpack(data)
    return pid, uid, gid


def pidfd(connection: socket.socket) -> int:
    """A pidfd of the process that connected, ours to close. ENOPROTOOPT: Linux before 6.5."""
    return connection.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD)


def is_alive(connection: socket.socket) -> bool:
    """Whether the process that connected still is the one that has its pid.

    True where the kernel cannot tell."""
    try:
        process = pidfd(connection)
    except OSError as error:
        # Anything but "no such option" speaks of a peer that is gone.
        return error.errno == errno.ENOPROTOOPT
    try:
        waiter = select.poll()
        waiter.register(process, select.POLLIN)
        return not waiter.poll(0)
    finally:
        os.close(process)


def send(connection: socket.socket, data: bytes, fds: Sequence[int] = ()) -> None:
    """One message with descriptors. BlockingIOError: nothing was sent."""
    ancillary = (
        [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds).tobytes())] if fds else []
    )
    connection.sendmsg([data], ancillary, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)


def receive(connection: socket.socket, size: int, limit: int) -> tuple[bytes, list[int], bool]:
    """One message of up to `size` bytes, its descriptors (ours to close), and whether it is whole.

    BlockingIOError: nothing is there. No bytes: the other end is closed."""
    data, fds, whole, _ = receive_from(connection, size, limit)
    return data, fds, whole


def pass_credentials(receiver: socket.socket) -> None:
    """Have the kernel tell with each message who sent it: unix(7), SO_PASSCRED."""
    receiver.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)


def receive_from(
    receiver: socket.socket, size: int, limit: int
) -> tuple[bytes, list[int], bool, int]:
    """As `receive`, with the sender's pid as we see it; 0 where the kernel does not tell."""
    space = socket.CMSG_SPACE(limit * array.array("i").itemsize) + socket.CMSG_SPACE(_UCRED.size)
    flags = socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC
    data, ancillary, received, _ = receiver.recvmsg(size, space, flags)
    fds = array.array("i")
    pid = 0
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
        elif level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS:
            pid, _, _ = _UCRED.unpack(content)
    return data, list(fds), not received & (socket.MSG_TRUNC | socket.MSG_CTRUNC), pid


def close(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)
