"""The control socket: root asks, PID 1 answers, subscribers hear of every change."""

import os
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from initd.errors import InvalidArgument, PermissionDenied, Unimplemented
from initd.linux import peer
from initd.loop import Loop
from initd.processes import wire
from initd.processes.model import Process
from initd.processes.wire import Object

# op: given the request, its descriptors and the peer's pid, the answer's object.
Operation = Callable[[Object, list[int], int], Object]

_BACKLOG: Final = 64
# A subscriber may be this far behind before it is dropped.
_SEND_BUFFER: Final = 1024 * 1024
_SO_SNDBUFFORCE: Final = 32


class Control:
    """Serves the socket at `path` until `close`. Never waits for a peer."""

    def __init__(
        self, loop: Loop, path: Path, operations: dict[str, Operation], *, owner: int = 0
    ) -> None:
        self._loop = loop
        self._path = path
        self._operations = operations
        self._owner = owner
        self._connections: dict[int, socket.socket] = {}
        self._subscribers: set[int] = set()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.setblocking(False)
        path.unlink(missing_ok=True)
        before = os.umask(0o177)
        try:
            self._listener.bind(str(path))
        finally:
            os.umask(before)
        self._listener.listen(_BACKLOG)
        loop.watch(self._listener.fileno(), self._accept)

    def close(self) -> None:
        for fd in list(self._connections):
            self._drop(fd)
        self._loop.unwatch(self._listener.fileno())
        self._listener.close()
        self._path.unlink(missing_ok=True)

    def publish(self, process: Process) -> None:
        """To all subscribers. One that does not keep up is dropped: it can list again."""
        if not self._subscribers:
            return
        event = wire.encode({"event": "process", "process": wire.process_to_object(process)})
        for fd in list(self._subscribers):
            self._send(fd, event)

    def _accept(self, _events: int) -> None:
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        _, uid, _ = peer.credentials(connection)
        if uid != self._owner:
            refusal = wire.error_answer(PermissionDenied("control socket: for root only"))
            with suppress(OSError):
                peer.send(connection, wire.encode(refusal))
            connection.close()
            return
        connection.setblocking(False)
        with suppress(PermissionError):
            connection.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, _SEND_BUFFER)
        self._connections[connection.fileno()] = connection
        self._loop.watch(connection.fileno(), lambda _: self._serve(connection))

    def _serve(self, connection: socket.socket) -> None:
        fd = connection.fileno()
        try:
            data, fds, whole = peer.receive(connection, wire.REQUEST_LIMIT, wire.DESCRIPTOR_LIMIT)
        except BlockingIOError:
            return
        except ConnectionResetError:
            data, fds, whole = b"", [], True
        try:
            if not data or fd in self._subscribers:
                self._drop(fd)
            else:
                self._send(fd, wire.encode(self._answer(connection, data, fds, whole=whole)))
        finally:
            peer.close(fds)

    def _answer(
        self, connection: socket.socket, data: bytes, fds: list[int], *, whole: bool
    ) -> Object:
        try:
            if not whole:
                raise InvalidArgument(f"message: longer than {wire.REQUEST_LIMIT} bytes")
            request = wire.decode(data)
            op = request.get("op")
            if op == "subscribe":
                self._subscribers.add(connection.fileno())
                return {"ok": {}}
            operation = self._operations.get(op) if isinstance(op, str) else None
            if operation is None:
                raise Unimplemented(f"op {op}: unknown")
            pid, _, _ = peer.credentials(connection)
            return {"ok": operation(request, fds, pid)}
        except Exception as error:  # Whatever it was, the caller must hear of it.
            return wire.error_answer(error)

    def _send(self, fd: int, message: bytes) -> None:
        try:
            peer.send(self._connections[fd], message)
        except OSError:
            self._drop(fd)

    def _drop(self, fd: int) -> None:
        self._subscribers.discard(fd)
        self._loop.unwatch(fd)
        self._connections.pop(fd).close()
