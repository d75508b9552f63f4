"""Asks PID 1: the asyncio client of its control socket."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Final, Literal, Self

from initd.errors import Unavailable
from initd.linux import peer
from initd.processes import wire
from initd.processes.model import How, Process, Reloaded, Spawn, Status

# Seconds for an answer. PID 1 may be replaced meanwhile, and a busy machine is slow to start a
# program; less than the API gives a call.
TIMEOUT: Final = 25.0


class Initd:
    """One connection to PID 1.

    Requests are answered in order; several tasks may ask at once. Every call ends within `timeout`
    seconds. Refusals come back as `AuraedError`, failures in PID 1 as `OSError`. `Unavailable`
    means the connection is lost: the caller makes a new one.
    """

    def __init__(self, path: Path = Path(wire.SOCKET), *, timeout: float = TIMEOUT) -> None:
        self._path = path
        self._timeout = timeout
        self._socket: socket.socket | None = None
        self._turn = asyncio.Lock()
        # Answers still to come: a caller that was cancelled leaves its own behind.
        self._owed = 0

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def connect(self) -> None:
        """`Unavailable` when nobody answers there."""
        self._socket, self._owed = await self._connected(), 0

    async def close(self) -> None:
        """Once more does no harm."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    async def spawn(self, spawn: Spawn, *, fds: Mapping[int, int] | None = None) -> Process:
        """Start a process. `fds` maps descriptor numbers of the child to descriptors of ours,
        which stay ours to close."""
        passed = list((fds or {}).values())
        numbers = {str(child): index for index, child in enumerate(fds or {})}
        request = {"op": "spawn", **wire.spawn_to_object(spawn), "fds": numbers}
        return wire.process_from_object((await self._ask(request, passed))["process"])

    async def signal(self, id: str, signal: int) -> None:  # noqa: A002
        """Send a signal to the first process only."""
        await self._ask({"op": "signal", "id": id, "signal": int(signal)})

    async def stop(self, id: str, grace: float) -> Process:  # noqa: A002
        """Begin the end of the whole tree: SIGTERM now, SIGKILL after `grace` seconds.

        Answers at once; `events` tells the end."""
        answer = await self._ask({"op": "stop", "id": id, "grace": grace})
        return wire.process_from_object(answer["process"])

    async def list(self) -> list[Process]:
        """All processes, running and ended, the oldest first."""
        processes: list[Process] = []
        more = True
        while more:
            after = processes[-1].serial if processes else 0
            answer = await self._ask({"op": "list", "after": after})
            processes += map(wire.process_from_object, answer["processes"])
            more = answer["more"]
        return processes

    async def finish(self, id: str) -> None:  # noqa: A002
        """Close the log of an ended process that was spawned with an open one."""
        await self._ask({"op": "finish", "id": id})

    async def forget(self, id: str) -> None:  # noqa: A002
        """Drop an ended process and its output."""
        await self._ask({"op": "forget", "id": id})

    async def ready(self, message: str) -> None:
        """Tell that this service works; the console shows the message."""
        await self._ask({"op": "ready", "message": message})

    async def alive(self) -> float:
        """Tell that this service is well; in how many seconds to tell so again."""
        again: float = (await self._ask({"op": "alive"}))["again"]
        return again

    async def identity(self, spiffe_id: str = "", fingerprint: str = "") -> None:
        """Tell who the node is: its SPIFFE ID, or the fingerprint in words where it has none."""
        asked = {"op": "identity", "spiffe_id": spiffe_id, "fingerprint": fingerprint}
        await self._ask(asked)

    async def status(self) -> Status:
        return wire.status_from_object(await self._ask({"op": "status"}))

    async def shutdown(self, how: How) -> None:
        """Begin the road down. Asking again changes nothing."""
        await self._ask({"op": "shutdown", "how": how.value})

    async def reload(self) -> Reloaded:
        """Replace PID 1's program. The connection stays; give it a `timeout` for this."""
        return Reloaded(**await self._ask({"op": "reload"}))

    @asynccontextmanager
    async def events(
        self, going_down: Callable[[How], None] = lambda _: None
    ) -> AsyncIterator[AsyncIterator[Process]]:
        """Every change of every process from the moment the block is entered. `going_down` is told
        when the node begins its road down.

        Enter, then `list`: so nothing falls between. The iterator raises `Unavailable` when PID 1
        dropped us, which it does with a reader that is far behind: list again then."""
        async with asyncio.timeout(self._timeout):
            connection = await self._connected()
        try:
            async with asyncio.timeout(self._timeout):
                await _send(connection, wire.encode({"op": "subscribe"}), ())
                wire.result(await self._received(connection))
            yield self._changes(connection, going_down)
        finally:
            connection.close()

    async def _changes(
        self, connection: socket.socket, going_down: Callable[[How], None]
    ) -> AsyncIterator[Process]:
        while True:
            message = await self._received(connection)
            match message.get("event"):
                case "process":
                    yield wire.process_from_object(message["process"])
                case "shutdown":
                    going_down(How(message["how"]))

    async def _ask(self, request: wire.Object, fds: Sequence[int] = ()) -> wire.Object:
        async with self._turn:
            if self._socket is None:
                raise Unavailable(f"{self._path}: not connected")
            try:
                async with asyncio.timeout(self._timeout):
                    return await self._exchange(self._socket, request, fds)
            except TimeoutError as error:
                # A late answer would be taken for the next request's.
                await self.close()
                raise Unavailable(f"{self._path}: no answer in {self._timeout:g} s") from error
            except Unavailable:
                await self.close()
                raise

    async def _exchange(
        self, connection: socket.socket, request: wire.Object, fds: Sequence[int]
    ) -> wire.Object:
        data = wire.encode(request)
        wire.check_request(data)
        try:
            await _send(connection, data, fds)
        except (BrokenPipeError, ConnectionResetError) as error:
            raise Unavailable(f"{self._path}: connection lost") from error
        self._owed += 1
        while True:
            answer = await self._received(connection)
            self._owed -= 1
            if not self._owed:
                return wire.result(answer)

    async def _received(self, connection: socket.socket) -> wire.Object:
        while True:
            try:
                data = connection.recv(wire.ANSWER_LIMIT)
            except BlockingIOError:
                await _until(connection, "readable")
            except ConnectionResetError as error:
                raise Unavailable(f"{self._path}: connection lost") from error
            else:
                break
        if not data:
            raise Unavailable(f"{self._path}: connection lost")
        return wire.decode(data)

    async def _connected(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        connection.setblocking(False)
        try:
            async with asyncio.timeout(self._timeout):
                await asyncio.get_running_loop().sock_connect(connection, str(self._path))
        except (OSError, TimeoutError) as error:
            connection.close()
            raise Unavailable(f"{self._path}: PID 1 does not answer ({error})") from error
        except BaseException:
            connection.close()
            raise
        return connection


async def _send(connection: socket.socket, data: bytes, fds: Sequence[int]) -> None:
    while True:
        try:
            peer.send(connection, data, fds)
        except BlockingIOError:
            await _until(connection, "writable")
        else:
            return


async def _until(connection: socket.socket, what: Literal["readable", "writable"]) -> None:
    """Wait without taking anything: a cancelled wait loses no message, as `sock_recv` may."""
    loop = asyncio.get_running_loop()
    reached = loop.create_future()

    def resume() -> None:
        if not reached.done():
            reached.set_result(None)

    if what == "readable":
        loop.add_reader(connection, resume)
    else:
        loop.add_writer(connection, resume)
    try:
        await reached
    finally:
        loop.remove_reader(connection)
        loop.remove_writer(connection)
