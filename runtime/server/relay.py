"""The API's Unix socket: accepts, finds out who calls, and passes bytes on to gRPC.

gRPC tells nothing of the process at the other end of a Unix socket. So connections are accepted
here, and each goes on to a socket of gRPC's that nobody else reaches, from an address that is
known to be this caller's: gRPC gives it as the call's peer. See docs/decisions/0060.
"""

import asyncio
import errno
import logging
import os
import socket
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Protocol, Self

from initd.errors import AuraedError
from runtime.server import callers
from runtime.server.callers import Caller
from runtime.server.peers import Peer

log = logging.getLogger(__name__)

# Bytes that are read at once. What the other side does not take then waits, and nothing more is
# read until it has gone: so this is also what a connection holds each way, at most.
CHUNK: Final = 64 * 1024
BACKLOG: Final = 128
# How many are accepted before others have a turn.
ACCEPTED: Final = 16
# Open connections from one outermost cell with all below it, and from users outside of cells that
# are not root. Root's are not counted.
CONNECTIONS: Final = 128
STRANGERS: Final = 16
# Seconds until another try when there are no descriptors left to accept with.
PAUSE: Final = 0.1

Find = Callable[[socket.socket], Peer]


class Known(Protocol):
    """Who is let in, and which address gRPC will know them by."""

    def caller(self, peer: Peer) -> Caller | None: ...

    def enter(self, address: str, caller: Caller) -> None: ...

    def leave(self, address: str) -> None: ...


def share(shared: Path, link: Path) -> socket.socket:
    """A listening socket that callers connect to: in a folder that cells can have, and as `link`,
    the folder's neighbour."""
    listener = listen(shared / link.name)
    fresh = link.with_name(f".{link.name}")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(Path(shared.name, link.name))
    fresh.rename(link)
    return listener


def listen(path: Path) -> socket.socket:
    """A listening socket at `path`, where another's may be already. Everybody may connect.

    An earlier one's file stays until ours takes its place, so there is no moment without a file.
    """
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}")
    fresh.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.setblocking(False)
        listener.bind(str(fresh))
        fresh.chmod(0o666)
        listener.listen(BACKLOG)
        fresh.rename(path)
    except BaseException:
        listener.close()
        raise
    return listener


class Relay:
    """While entered, the running loop serves the listener. `target` is gRPC's own socket."""

    def __init__(self, listener: socket.socket, target: Path, callers: Known, find: Find) -> None:
        self._listener = listener
        self._target = str(target)
        self._callers = callers
        self._find = find
        self._connections: set[_Connection] = set()
        self._counts: Counter[str] = Counter()
        self._full: set[str] = set()
        self._empty = asyncio.Event()
        self._pause: asyncio.TimerHandle | None = None

    def __enter__(self) -> Self:
        self._resume()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop_accepting()
        self._listener.close()
        for connection in tuple(self._connections):
            connection.close()

    def drop(self, cell: str) -> None:
        """End what the processes of a cell have opened: it is gone, and they with it."""
        for connection in tuple(self._connections):
            if connection.caller.scope.cell == cell:
                connection.close()

    async def drain(self, seconds: float) -> None:
        """Accept no more, and let what gRPC has still said reach the callers."""
        self._stop_accepting()
        if self._connections:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._empty.wait()

    def _resume(self) -> None:
        self._pause = None
        asyncio.get_running_loop().add_reader(self._listener, self._accept)

    def _stop_accepting(self) -> None:
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
        asyncio.get_running_loop().remove_reader(self._listener)

    def _accept(self) -> None:
        for _ in range(ACCEPTED):
            try:
                client, _address = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as e:
                if e.errno in (errno.ECONNABORTED, errno.EINTR):
                    continue
                log.warning("%s: cannot accept, trying again: %s", self._target, e)
                self._stop_accepting()
                self._pause = asyncio.get_running_loop().call_later(PAUSE, self._resume)
                return
            try:
                self._begin(client)
            except (AuraedError, OSError) as e:
                log.debug("a caller on the Unix socket: %s", e)
                client.close()

    def _begin(self, client: socket.socket) -> None:
        """Raises OSError: the caller has gone, or gRPC takes no more; AuraedError: who it is cannot
        be told now."""
        client.setblocking(False)
        caller = self._callers.caller(self._find(client))
        if caller is None or not self._room(caller.tenant):
            client.close()
            return
        inner = socket.socket(socket.AF_UNIX)
        try:
            inner.setblocking(False)
            # In the abstract namespace: nothing to remove. No other caller can have this address.
            name = f"aurae-{os.urandom(16).hex()}"
            inner.bind(f"\0{name}")
            inner.connect(self._target)
        except BaseException:
            inner.close()
            raise
        self._counts[caller.tenant] += 1
        self._empty.clear()
        address = f"unix-abstract:{name}"
        self._callers.enter(address, caller)
        connection = _Connection(
            client, inner, caller, lambda ended: self._ended(ended, address, caller)
        )
        self._connections.add(connection)

    def _ended(self, connection: "_Connection", address: str, caller: Caller) -> None:
        self._connections.discard(connection)
        self._callers.leave(address)
        self._counts[caller.tenant] -= 1
        if not self._counts[caller.tenant]:
            del self._counts[caller.tenant]
        self._full.discard(caller.tenant)
        if not self._connections:
            self._empty.set()

    def _room(self, tenant: str) -> bool:
        most = STRANGERS if tenant == callers.STRANGERS else CONNECTIONS
        if tenant == callers.ROOT or self._counts[tenant] < most:
            return True
        if tenant not in self._full:
            self._full.add(tenant)
            log.warning("%s: has %d connections to the API, no more are taken", tenant, most)
        return False


class _Connection:
    """A caller's socket and its counterpart to gRPC, until either side ends."""

    def __init__(
        self,
        client: socket.socket,
        inner: socket.socket,
        caller: Caller,
        ended: "Callable[[_Connection], None]",
    ) -> None:
        self.caller = caller
        self._sockets = (client, inner)
        self._on_end = ended
        self._ways = (_Way(client, inner, self.close), _Way(inner, client, self.close))

    def close(self) -> None:
        """Once more does no harm."""
        loop = asyncio.get_running_loop()
        if self._sockets[0].fileno() < 0:
            return
        for one in self._sockets:
            loop.remove_reader(one)
            loop.remove_writer(one)
            one.close()
        self._on_end(self)


# All connections read into one buffer: the loop serves one at a time.
_chunk: Final = memoryview(bytearray(CHUNK))


class _Way:
    """Bytes from one socket to the other. Nothing is read while something waits to be sent."""

    def __init__(
        self, source: socket.socket, target: socket.socket, ended: Callable[[], None]
    ) -> None:
        self._source = source
        self._target = target
        self._ended = ended
        self._rest = memoryview(b"")
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(source, self._read)

    def _read(self) -> None:
        try:
            count = self._source.recv_into(_chunk)
            sent = self._send(_chunk[:count]) if count else -1
        except BlockingIOError:
            return
        except OSError:
            sent = -1
        if sent < 0:
            self._ended()
        elif sent < count:
            self._rest = memoryview(bytes(_chunk[sent:count]))
            self._loop.remove_reader(self._source)
            self._loop.add_writer(self._target, self._write)

    def _write(self) -> None:
        try:
            self._rest = self._rest[self._send(self._rest) :]
        except OSError:
            self._ended()
            return
        if not self._rest:
            self._loop.remove_writer(self._target)
            self._loop.add_reader(self._source, self._read)

    def _send(self, data: memoryview) -> int:
        try:
            return self._target.send(data, socket.MSG_NOSIGNAL)
        except BlockingIOError:
            return 0
