"""What PID 1 knows of processes, mirrored, and the road to ask it."""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Protocol

from initd.client import Initd
from initd.errors import AuraedError, NotFound, Unavailable
from initd.processes import wire
from initd.processes.model import How, Process, Reloaded, Spawn, State

log = logging.getLogger(__name__)

# As many ended processes as PID 1 keeps (docs/architecture.md): the mirror forgets with it.
KEPT: Final = 1024

# Seconds before a lost connection is tried again: first, and at most.
RETRY: Final = (0.05, 2.0)

# Seconds that PID 1 may take to be replaced. It gives the next program 60 to show that it starts.
RELOAD: Final = 120.0
# No init that is starting is any more in one of these.
_SETTLED: Final = (State.RUNNING, State.ENDED)

Request = Callable[[Initd], Awaitable[Any]]


class Listener(Protocol):
    """Told while PID 1 is here, in one turn with the table's change. What it raises is logged."""

    def changed(self, process: Process) -> None: ...

    def gone(self, id_: str) -> None:
        """It is forgotten."""

    def complete(self) -> None:
        """The table was made anew."""


class Processes:
    """One connection to PID 1 for all calls, and a table kept up to date by its events.

    Nobody who asks can break the connection by leaving: requests run in a task of their own. While
    PID 1 is away every call raises `Unavailable` at once; `tried` waits until that is known.
    """

    def __init__(
        self, path: Path = Path(wire.SOCKET), going_down: Callable[[How], None] = lambda _: None
    ) -> None:
        """`going_down` is told when PID 1 begins to take the node down."""
        self._path = path
        self._going_down = going_down
        self._table: dict[str, Process] = {}
        self._ended: OrderedDict[str, None] = OrderedDict()
        self._waiting: dict[tuple[str, int], set[asyncio.Future[Process]]] = {}
        self._settling: dict[tuple[str, int], set[asyncio.Future[Process]]] = {}
        self._requests: asyncio.Queue[tuple[Request, asyncio.Future[Any]]] = asyncio.Queue()
        self._here = False
        self._tried = asyncio.Event()
        self._listener: Listener | None = None

    def listen(self, listener: "Listener") -> None:
        """Tell one who acts on changes."""
        self._listener = listener

    async def run(self, here: Callable[[], None]) -> None:
        """Stay connected, for ever. `here` is called each time the table is complete."""
        delay = RETRY[0]
        while True:
            try:
                async with (
                    Initd(self._path) as initd,
                    initd.events(self._going_down) as events,
                ):
                    self._replace(await initd.list())
                    self._here, delay = True, RETRY[0]
                    self._tried.set()
                    self._tell(lambda listener: listener.complete())
                    here()
                    await self._connected(initd, events)
            except (Unavailable, OSError) as e:
                if self._here:
                    log.warning("PID 1: connection lost, trying again: %s", e)
                else:
                    self._give_up(e)
            finally:
                self._here = False
                self._tried.set()
                self._refuse()
            await asyncio.sleep(delay)
            delay = min(2 * delay, RETRY[1])

    async def tried(self) -> None:
        """Wait until PID 1 has answered for the first time, or has not."""
        await self._tried.wait()

    async def _connected(self, initd: Initd, events: AsyncIterator[Process]) -> None:
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._follow(events))
                tasks.create_task(self._serve(initd))
        except* (Unavailable, OSError) as group:
            raise Unavailable(str(group.exceptions[0])) from group

    async def _follow(self, events: AsyncIterator[Process]) -> None:
        async for process in events:
            self._apply(process)
        raise Unavailable("its events have ended")

    async def _serve(self, initd: Initd) -> None:
        while True:
            request, future = await self._requests.get()
            if future.cancelled():
                continue
            try:
                answer = await request(initd)
            except Unavailable as e:
                _fail(future, e)
                raise
            except (AuraedError, OSError) as e:
                _fail(future, e)
            except BaseException:
                _fail(future, Unavailable(f"{self._path}: connection lost; try again"))
                raise
            else:
                if isinstance(answer, Process):
                    self._apply(answer)
                if not future.done():
                    future.set_result(answer)

    def _refuse(self) -> None:
        while not self._requests.empty():
            _, future = self._requests.get_nowait()
            _fail(future, Unavailable(f"{self._path}: connection lost; try again"))

    def _give_up(self, cause: Exception) -> None:
        for futures in (*self._waiting.values(), *self._settling.values()):
            for future in tuple(futures):
                _fail(future, Unavailable(f"PID 1 is away ({cause}); try again"))

    def _replace(self, processes: list[Process]) -> None:
        self._table = {}
        self._ended.clear()
        for process in processes:
            self._apply(process)
        for (id_, serial), futures in (*self._waiting.items(), *self._settling.items()):
            now = self._table.get(id_)
            if now is None or now.serial != serial:
                for future in tuple(futures):
                    _fail(future, NotFound("executable: was started anew, or is forgotten"))

    def _apply(self, process: Process) -> None:
        """Take what is newer. Answers and events may overtake each other."""
        before = self._table.get(process.id)
        if before is not None and (before.serial, before.revision) >= (
            process.serial,
            process.revision,
        ):
            return
        self._table[process.id] = process
        self._ended.pop(process.id, None)
        if process.state in _SETTLED:
            for future in tuple(self._settling.get((process.id, process.serial), ())):
                if not future.done():
                    future.set_result(process)
        if process.state is State.ENDED:
            self._ended[process.id] = None
            for future in self._waiting.get((process.id, process.serial), ()):
                if not future.done():
                    future.set_result(process)
            while len(self._ended) > KEPT:
                self._drop(next(iter(self._ended)))
        self._tell(lambda listener: listener.changed(process))

    def _tell(self, what: Callable[[Listener], None]) -> None:
        """Nothing that a workload does may end the road to PID 1, and the API with it."""
        if not self._here or self._listener is None:
            return
        try:
            what(self._listener)
        except Exception:
            log.exception("PID 1: a change could not be acted on")

    def __iter__(self) -> Iterator[Process]:
        """All that are known, in the order they were started. Unavailable while PID 1 is away."""
        self._check()
        return iter(sorted(self._table.values(), key=lambda process: process.serial))

    def get(self, id_: str) -> Process | None:
        """Unavailable while PID 1 is away."""
        self._check()
        return self._table.get(id_)

    async def ended(self, process: Process) -> Process:
        """Wait until the process has ended and return how. Unbounded."""
        self._check()
        now = self._table.get(process.id)
        if now is not None and now.serial == process.serial and now.state is State.ENDED:
            return now
        if now is None or now.serial != process.serial:
            raise NotFound(f"process {process.pid}: PID 1 has forgotten it")
        key = (process.id, process.serial)
        future: asyncio.Future[Process] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(key, set()).add(future)
        try:
            return await future
        finally:
            self._waiting[key].discard(future)
            if not self._waiting[key]:
                del self._waiting[key]

    def settled(self, process: Process) -> asyncio.Future[Process]:
        """The process once it runs, or has ended: for an init, which is starting at first."""
        self._check()
        future: asyncio.Future[Process] = asyncio.get_running_loop().create_future()
        now = self._table.get(process.id)
        if now is None or now.serial != process.serial:
            _fail(future, NotFound(f"process {process.id}: PID 1 has forgotten it"))
        elif now.state in _SETTLED:
            future.set_result(now)
        else:
            key = (process.id, process.serial)
            self._settling.setdefault(key, set()).add(future)
            future.add_done_callback(lambda _: self._settling.pop(key, None))
        return future

    def spawn(self, spawn: Spawn) -> asyncio.Future[Process]:
        """Ask for a process. The request goes its way even if nobody awaits it: shield it."""
        return self._ask(lambda initd: initd.spawn(spawn))

    async def stop(self, id_: str, grace: float) -> Process:
        """Begin the end of a process tree; answers at once."""
        process: Process = await self._ask(lambda initd: initd.stop(id_, grace))
        return process

    def end(self, id_: str, grace: float) -> None:
        """As `stop`, for when nobody is there to be told how it went."""
        with suppress(Unavailable):
            self._ask(lambda initd: initd.stop(id_, grace)).add_done_callback(_ignored)

    def finish(self, id_: str) -> None:
        """Close the log of an ended process; done if nothing is there to be closed."""
        with suppress(Unavailable):
            self._ask(lambda initd: initd.finish(id_)).add_done_callback(_ignored)

    async def forget(self, process: Process) -> None:
        """Drop an ended process and its output; done if that was so already."""
        with suppress(NotFound):
            await self._ask(lambda initd: initd.forget(process.id))
        now = self._table.get(process.id)
        if now is not None and now.serial == process.serial:
            self._drop(process.id)

    def _drop(self, id_: str) -> None:
        del self._table[id_]
        self._ended.pop(id_, None)
        self._tell(lambda listener: listener.gone(id_))

    async def ready(self, message: str) -> None:
        await self._ask(lambda initd: initd.ready(message))

    async def introduce(self, spiffe_id: str = "", fingerprint: str = "") -> None:
        """Tell PID 1 who the node is, for people at the machine. One that does not care, or is
        away, is left alone."""
        with suppress(AuraedError, OSError):
            await self._ask(lambda initd: initd.identity(spiffe_id, fingerprint))

    async def alive(self) -> float:
        """Tell PID 1 that we are well; in how many seconds to tell it again."""
        again: float = await self._ask(Initd.alive)
        return again

    async def shutdown(self, how: How) -> None:
        await self._ask(lambda initd: initd.shutdown(how))

    async def reload(self) -> Reloaded:
        """Replace PID 1's program. On a connection of its own: the others' requests go on while the
        new program is tried out."""
        self._check()
        async with Initd(self._path, timeout=RELOAD) as initd:
            return await initd.reload()

    def _check(self) -> None:
        if not self._here:
            raise Unavailable(f"{self._path}: PID 1 is away; try again")

    def _ask(self, request: Request) -> asyncio.Future[Any]:
        self._check()
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._requests.put_nowait((request, future))
        return future


def _fail(future: asyncio.Future[Any], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)


def _ignored(future: asyncio.Future[Any]) -> None:
    """Look at the outcome, so that asyncio does not report it as never retrieved."""
    if not future.cancelled():
        future.exception()
