"""The control socket: root asks, PID 1 answers, subscribers hear of every change."""

import os
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from initd.errors import (
    FailedPrecondition,
    InvalidArgument,
    PermissionDenied,
    Unimplemented,
)
from initd.linux import peer
from initd.loop import READABLE, Loop
from initd.processes import wire
from initd.processes.model import Process
from initd.processes.wire import Object

if TYPE_CHECKING:
    from initd.handover.model import ControlState

# op: given the request, its descriptors and the peer's pid, the answer's object. None: whoever
# does it gives the answer later, by `Control.answer`.
Operation = Callable[[Object, list[int], int], Object | None]

_BACKLOG: Final = 64
# A subscriber may be this far behind before it is dropped.
_SEND_BUFFER: Final = 1024 * 1024
_SO_SNDBUFFORCE: Final = 32


class Control:
    """Serves the socket at `path` until `close`. Never waits for a peer.

    `admits` is asked for the pid of whoever connects as `owner`; the process is alive then."""

    def __init__(
        self,
        loop: Loop,
        path: Path,
        operations: dict[str, Operation],
        *,
        admits: Callable[[int], bool],
        owner: int = 0,
        state: "ControlState | None" = None,
    ) -> None:
        self._loop = loop
        self._path = path
        self._operations = operations
        self._admits = admits
        self._owner = owner
        self._connections: dict[int, socket.socket] = {}
        self._subscribers: set[int] = set()
        # The connection whose request is being served, and the one that is owed an answer.
        self._served: int | None = None
        self._owed: int | None = None
        self._listener = _listen(path) if state is None else socket.socket(fileno=state.listener)
        self._listener.setblocking(False)
        loop.watch(self._listener.fileno(), self._accept)
        if state is not None:
            for fd in state.connections:
                self._serve_on(socket.socket(fileno=fd))
            self._subscribers.update(state.subscribers)
            if state.owed is not None:
                self._served = state.owed
                self.owe()

    def save(self) -> "ControlState":
        from initd.handover.model import ControlState, Descriptor

        return ControlState(
            listener=Descriptor(self._listener.fileno()),
            connections=tuple(map(Descriptor, self._connections)),
            subscribers=tuple(self._subscribers),
            owed=self._owed,
        )

    def close(self) -> None:
        for fd in list(self._connections):
            self._drop(fd)
        self._loop.unwatch(self._listener.fileno())
        self._listener.close()
        self._path.unlink(missing_ok=True)

    def publish(self, process: Process) -> None:
        """To all subscribers. One that does not keep up is dropped: it can list again."""
        if self._subscribers:
            self.tell({"event": "process", "process": wire.process_to_object(process)})

    def tell(self, event: Object) -> None:
        """As `publish`, for any event."""
        message = wire.encode(event)
        for fd in list(self._subscribers):
            self._send(fd, message)

    def owe(self) -> None:
        """The operation that is being served answers later; until then its connection's other
        requests wait. One at a time: FailedPrecondition."""
        if self._owed is not None:
            raise FailedPrecondition("control socket: another answer is still owed: try again")
        assert self._served is not None
        self._owed = self._served
        self._loop.change(self._owed, 0)

    def answer(self, answer: Object) -> None:
        """What was owed."""
        fd, self._owed = self._owed, None
        if fd is not None and fd in self._connections:
            self._loop.change(fd, READABLE)
            self._send(fd, wire.encode(answer))

    def _accept(self, _events: int) -> None:
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        if why := self._refusal(connection):
            refusal = wire.error_answer(PermissionDenied(f"control socket: {why}"))
            with suppress(OSError):
                peer.send(connection, wire.encode(refusal))
            connection.close()
            return
        with suppress(PermissionError):
            connection.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, _SEND_BUFFER)
        self._serve_on(connection)

    def _refusal(self, connection: socket.socket) -> str:
        """Why whoever connected may not speak here, or nothing."""
        pid, uid, _ = peer.credentials(connection)
        if uid != self._owner:
            return "for root only"
        # A pid may have passed on to another process since; one that is alive has its own still.
        if not self._admits(pid) or not peer.is_alive(connection):
            return f"for the runtime that PID 1 started only, not for pid {pid}: use the API"
        return ""

    def _serve_on(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self._connections[connection.fileno()] = connection
        self._loop.watch(connection.fileno(), lambda _: self._serve(connection))

    def _serve(self, connection: socket.socket) -> None:
        fd = connection.fileno()
        if fd == self._owed:
            # Hung up, for nothing else is listened for.
            self._drop(fd)
            return
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
                answer = self._answer(connection, data, fds, whole=whole)
                if answer is not None:
                    self._send(fd, wire.encode(answer))
        finally:
            peer.close(fds)

    def _answer(
        self, connection: socket.socket, data: bytes, fds: list[int], *, whole: bool
    ) -> Object | None:
        self._served = connection.fileno()
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
            answered = operation(request, fds, pid)
            return None if answered is None else {"ok": answered}
        except Exception as error:  # Whatever it was, the caller must hear of it.
            return wire.error_answer(error)

    def _send(self, fd: int, message: bytes) -> None:
        try:
            peer.send(self._connections[fd], message)
        except OSError:
            self._drop(fd)

    def _drop(self, fd: int) -> None:
        if fd == self._owed:
            self._owed = None
        self._subscribers.discard(fd)
        self._loop.unwatch(fd)
        self._connections.pop(fd).close()


def _listen(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    path.unlink(missing_ok=True)
    before = os.umask(0o177)
    try:
        listener.bind(str(path))
    finally:
        os.umask(before)
    listener.listen(_BACKLOG)
    return listener
