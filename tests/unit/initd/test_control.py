import asyncio
import os
import signal
import socket
import stat
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from initd.client import Initd
from initd.errors import InvalidArgument, NotFound, Unavailable, Unimplemented
from initd.linux import peer
from initd.processes import wire
from initd.processes.model import Spawn, State
from tests.unit.initd.owner import Owner


def sh(script: str, name: str = "web", **fields: Any) -> Spawn:
    env = {"PATH": "/usr/bin:/bin"}
    return Spawn(id=name, argv=("sh", "-c", script), cgroup=name, env=env, **fields)


def run(owner: Owner, test: Callable[[Initd], Awaitable[None]]) -> None:
    async def served() -> None:
        async with asyncio.timeout(30), owner.served() as client:
            await test(client)

    asyncio.run(served())
    assert not owner.errors


async def ended(client: Initd, name: str = "web") -> None:
    async with client.events() as events:
        for process in await client.list():
            if process.id == name and process.state is State.ENDED:
                return
        async for process in events:
            if process.id == name and process.state is State.ENDED:
                return


def test_a_client_spawns_and_hears_of_the_end(owner: Owner) -> None:
    async def test(client: Initd) -> None:
        async with client.events() as events:
            meta = {"cell": "web", "deep": {"list": [1, None]}}
            process = await client.spawn(sh("exit 4", meta=meta))
            assert (process.state, process.meta) == (State.RUNNING, meta)
            heard = [await anext(events), await anext(events)]
        assert [event.state for event in heard] == [State.RUNNING, State.ENDED]
        assert heard[1].code == 4
        assert await client.list() == [heard[1]]

    run(owner, test)


def test_a_client_passes_descriptors(owner: Owner) -> None:
    async def test(client: Initd) -> None:
        read, write = os.pipe()
        try:
            await client.spawn(sh("echo hello >&5"), fds={5: write})
            await ended(client)
            assert os.read(read, 100) == b"hello\n"
        finally:
            os.close(read)
            os.close(write)

    run(owner, test)


def test_a_client_signals_stops_and_forgets(owner: Owner) -> None:
    async def test(client: Initd) -> None:
        await client.spawn(sh("exec sleep 1000"))
        await client.signal("web", signal.SIGCONT)
        assert (await client.stop("web", 5)).state is State.STOPPING
        await ended(client)
        await client.forget("web")
        assert await client.list() == []

    run(owner, test)


def test_refusals_and_failures_come_back_as_what_they_are(owner: Owner) -> None:
    async def test(client: Initd) -> None:
        with pytest.raises(NotFound, match="process web: does not exist"):
            await client.stop("web", 1)
        with pytest.raises(NotFound, match="cwd /nowhere: no such folder"):
            await client.spawn(sh("true", cwd="/nowhere"))
        with pytest.raises(Unimplemented, match="op ready: unknown"):
            await client.ready("here")
        # execve(2) takes no single string beyond 128 KiB; a page of it fits no message either.
        with pytest.raises(InvalidArgument, match="131072 is the most"):
            await client.spawn(sh("x" * 200_000))
        assert await client.list() == []

    run(owner, test)


def test_a_list_longer_than_a_message_comes_in_pages(owner: Owner) -> None:
    async def test(client: Initd) -> None:
        for number in range(5):
            await client.spawn(sh("true", f"p{number}", meta={"fill": "x" * 50_000}))
        assert [process.serial for process in await client.list()] == [1, 2, 3, 4, 5]

    run(owner, test)


def test_a_cancelled_call_leaves_the_connection_in_order(owner: Owner) -> None:
    async def test(client: Initd) -> None:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(client.spawn(sh("exec sleep 1000")))
            await asyncio.sleep(0)
            task.cancel()
        assert [process.id for process in await client.list()] == ["web"]
        with pytest.raises(NotFound):
            await client.stop("other", 1)

    run(owner, test)


def test_without_pid_1_a_client_is_told_so(owner: Owner) -> None:
    async def test() -> None:
        with pytest.raises(Unavailable, match="PID 1 does not answer"):
            await Initd(owner.socket.with_name("nobody")).connect()

    asyncio.run(test())


def test_the_socket_is_for_its_owner_only(owner: Owner) -> None:
    assert stat.S_IMODE(owner.socket.stat().st_mode) == 0o600


def ask(owner: Owner, data: bytes) -> wire.Object:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.connect(str(owner.socket))
        connection.send(data)
        answers: list[bytes] = []

        def answered() -> bool:
            try:
                answers.append(peer.receive(connection, wire.ANSWER_LIMIT, 0)[0])
            except BlockingIOError:
                return False
            return True

        owner.until(answered)
        return wire.decode(answers[0])


@pytest.mark.parametrize(
    ("message", "rule"),
    [
        (b"{", "message: not JSON"),
        (b"[]", "message: not a JSON object"),
        (b"[" * 100_000, "message: nested too deeply"),
        (b"x" * (wire.REQUEST_LIMIT + 1), "message: longer than"),
        (b'{"op":"spawn"}', "argv: must be a list"),
        (b'{"op":"spawn","argv":["x"]}', "id: must not be empty"),
        (b'{"op":"spawn","argv":["x"],"id":"a"}', "cgroup: must be text"),
        (b'{"op":"spawn","argv":["x"],"id":"a","cgroup":"../b"}', "cgroup ../b: must be a path"),
        (b'{"op":"spawn","argv":["x"],"id":"a","cgroup":"/b"}', "cgroup /b: must be a path below"),
        (b'{"op":"spawn","argv":["x"],"id":"a","cgroup":"."}', "cgroup .: must be a path below"),
        (b'{"op":"spawn","argv":["x\\u0000"],"id":"a","cgroup":"b"}', "argv: must not hold a null"),
        (b'{"op":"spawn","argv":["x"],"env":{"":"y"}}', "env '': a name is not empty"),
        (b'{"op":"spawn","argv":["x"],"id":"a","uid":-1,"cgroup":"b"}', "uid: must be a number"),
        (b'{"op":"spawn","argv":["x"],"id":"a","cgroup":"b","fds":{"1":0}}', "fds 1: 0 descript"),
        (b'{"op":"stop","id":"a","grace":"1"}', "grace: must be a number"),
        (b'{"op":"signal","id":"a"}', "signal: must be a number"),
    ],
)
def test_a_bad_request_is_refused_by_field_and_rule(
    owner: Owner, message: bytes, rule: str
) -> None:
    error = ask(owner, message)["error"]
    assert error["kind"] == "InvalidArgument"
    assert error["message"].startswith(rule)


def test_a_subscriber_that_does_not_read_is_dropped(owner: Owner) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as idle:
        idle.connect(str(owner.socket))
        idle.send(b'{"op":"subscribe"}')
        owner.turn(1)
        owner.turn(1)
        big = {"fill": "x" * 100_000}
        for number in range(50):
            owner.processes.spawn(sh("true", f"p{number}", meta=big), {})
        idle.settimeout(5)
        received = 0
        while data := idle.recv(wire.ANSWER_LIMIT):
            received += bool(data)
        assert 0 < received < 50
