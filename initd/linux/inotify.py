"""inotify(7)."""

import ctypes
import os
import struct
from typing import Final

from initd.linux.libc import check, libc
from initd.values import NamedTuple

# include/uapi/linux/inotify.h
MODIFY: Final = 0x2
CLOSE_WRITE: Final = 0x8
MOVED_TO: Final = 0x80
CREATE: Final = 0x100
DELETE: Final = 0x200
DELETE_SELF: Final = 0x400
IGNORED: Final = 0x8000

_EVENT: Final = struct.Struct("iIII")
_ROOM: Final = 16 * 1024


class Event(NamedTuple):
    watch: int
    mask: int
    name: str


def init() -> int:
    """A descriptor that does not block, ours to close."""
    return check(libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))


def watch(descriptor: int, path: str, mask: int) -> int:
    """The watch's number. Watching the same file again gives the same number."""
    return check(libc.inotify_add_watch(descriptor, os.fsencode(path), ctypes.c_uint32(mask)), path)


def unwatch(descriptor: int, number: int) -> None:
    check(libc.inotify_rm_watch(descriptor, number))


def read(descriptor: int) -> list[Event]:
    """All that is there; nothing when nothing happened."""
    try:
        data = os.read(descriptor, _ROOM)
    except BlockingIOError:
        return []
    events = []
    position = 0
    while position < len(data):
        number, mask, _, length = _EVENT.unpack_from(data, position)
        position += _EVENT.size
        name = data[position : position + length].rstrip(b"\0")
        events.append(Event(number, mask, os.fsdecode(name)))
        position += length
    return events
