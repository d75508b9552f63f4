"""The kernel's announcements of devices, over netlink."""

import socket
from typing import Final

_NETLINK_KOBJECT_UEVENT: Final = 15
_KERNEL_GROUP: Final = 1
_SO_RCVBUFFORCE: Final = 33
_BUFFER: Final = 16 * 1024 * 1024
_MESSAGE: Final = 16 * 1024


def listen() -> socket.socket:
    """A socket that does not block, ours to close."""
    kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
    listener = socket.socket(socket.AF_NETLINK, kind, _NETLINK_KOBJECT_UEVENT)
    try:
        listener.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
        listener.bind((0, _KERNEL_GROUP))
    except BaseException:
        listener.close()
        raise
    return listener


def read(listener: socket.socket) -> dict[str, str] | None:
    """One announcement's fields (ACTION, DEVPATH, SUBSYSTEM, ...), or None: there is no more.

    OSError(ENOBUFS): some were lost."""
    try:
        data, (port, _) = listener.recvfrom(_MESSAGE)
    except BlockingIOError:
        return None
    if port != 0:
        return {}
    # "add@/devices/..." and then NAME=VALUE, each ended by a null.
    fields = data.decode(errors="surrogateescape").split("\0")[1:]
    return dict(field.split("=", 1) for field in fields if "=" in field)
