"""UpgradeService over gRPC, on a node that is made of files."""

import asyncio
import base64
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, cast

import grpc
import pytest
from aurae.node.v0 import upgrade_pb2 as pb
from aurae.node.v0 import upgrade_pb2_grpc
from grpc import aio

from initd.errors import AuraedError
from initd.processes.model import How
from runtime.processes import Processes
from runtime.server import errors
from runtime.upgrade.service import UpgradeService
from runtime.upgrade.upgrades import Upgrades
from tests.unit.runtime import upgrade_node
from tests.unit.runtime.test_upgrade_fetch import BUNDLE, server, well
from tests.unit.runtime.upgrade_node import Bundle, entries


class Power:
    """In the place of PID 1."""

    def __init__(self) -> None:
        self.went: list[How] = []

    async def shutdown(self, how: How) -> None:
        self.went.append(how)


class Translating(aio.ServerInterceptor):
    """What the border does with what a service raises."""

    async def intercept_service(self, continuation: Any, details: Any) -> Any:
        handler = await continuation(details)
        inner = handler.stream_stream or handler.unary_unary

        async def behave(request: Any, context: Any) -> Any:
            try:
                return await inner(request, context)
            except (AuraedError, OSError) as e:
                await context.abort(*errors.status(e))

        make = (
            grpc.stream_stream_rpc_method_handler
            if handler.stream_stream
            else grpc.unary_unary_rpc_method_handler
        )
        return make(behave, handler.request_deserializer, handler.response_serializer)


class Served:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.power = Power()
        self.upgrades = Upgrades(upgrade_node.make(folder))

    @asynccontextmanager
    async def stub(self) -> AsyncIterator[Any]:
        serving = aio.server(interceptors=[Translating()])
        service = UpgradeService(self.upgrades, cast("Processes", self.power))
        upgrade_pb2_grpc.add_UpgradeServiceServicer_to_server(service, serving)
        port = serving.add_insecure_port("127.0.0.1:0")
        await serving.start()
        try:
            async with aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                yield upgrade_pb2_grpc.UpgradeServiceStub(channel)
        finally:
            await serving.stop(1)

    def run(self, *requests: pb.UpgradeRequest) -> list[pb.UpgradeResponse]:
        async def work() -> list[pb.UpgradeResponse]:
            async with self.stub() as stub:
                return [answer async for answer in stub.Upgrade(iter(requests), timeout=60)]

        return asyncio.run(work())

    def call(self, look: Callable[[Any], Any]) -> Any:
        async def work() -> Any:
            async with self.stub() as stub:
                return await look(stub)

        return asyncio.run(work())


@pytest.fixture
def served(tmp_path: Path) -> Served:
    return Served(tmp_path)


def sent(bundle: Bundle, **begin: Any) -> Iterator[pb.UpgradeRequest]:
    yield pb.UpgradeRequest(
        begin=pb.UpgradeBegin(manifest=bundle.manifest, signature=bundle.signature, **begin)
    )
    for at in range(0, len(bundle.content), 200_000):
        yield pb.UpgradeRequest(content=bundle.content[at : at + 200_000])


def test_a_bundle_is_streamed_and_progress_told(served: Served) -> None:
    answers = served.run(*sent(BUNDLE, reboot=True))
    assert answers[0].offset == 0
    assert [a.stage for a in answers[-2:]] == [
        pb.UPGRADE_STAGE_VERIFYING,
        pb.UPGRADE_STAGE_DONE,
    ]
    assert {(a.version, a.slot, a.size) for a in answers} == {("2.0", "b", len(BUNDLE.content))}
    assert "aurae_2.0+3.efi" in entries(served.folder)
    assert served.power.went == [How.REBOOT]


def test_a_signature_may_be_as_its_file_has_it(served: Served) -> None:
    bundle = Bundle()
    bundle.signature = base64.b64encode(bundle.signature) + b"\n"
    served.run(*sent(bundle))
    assert not served.power.went


def test_a_bundle_is_fetched_by_url(served: Served) -> None:
    with server(well) as url:
        answers = served.run(pb.UpgradeRequest(begin=pb.UpgradeBegin(url=url)))
    assert answers[-1].stage == pb.UPGRADE_STAGE_DONE
    assert "aurae_2.0+3.efi" in entries(served.folder)


def test_a_url_is_gone_on_with_where_its_caller_left(served: Served) -> None:
    asked: list[str | None] = []
    left = threading.Event()

    def slow(to: BaseHTTPRequestHandler) -> None:
        if to.path.endswith(".sig") or to.headers["Range"] or left.is_set():
            asked.append(to.headers["Range"])
            well(to)
            return
        to.send_response(200)
        to.send_header("Content-Length", str(len(BUNDLE.file)))
        to.end_headers()
        to.wfile.write(BUNDLE.file[:2_500_000])
        left.wait(20)

    async def leave(url: str) -> None:
        async with served.stub() as stub:
            call = stub.Upgrade(iter([pb.UpgradeRequest(begin=pb.UpgradeBegin(url=url))]))
            async with asyncio.timeout(20):
                status = pb.GetUpgradeStatusResponse()
                while status.upgrade.offset < 2 << 20:
                    status = await stub.GetUpgradeStatus(pb.GetUpgradeStatusRequest())
                call.cancel()
                while status.active:
                    status = await stub.GetUpgradeStatus(pb.GetUpgradeStatusRequest())

    with server(slow) as url:
        asyncio.run(leave(url))
        left.set()
        answers = served.run(pb.UpgradeRequest(begin=pb.UpgradeBegin(url=url)))
    assert answers[0].offset > 2 << 20
    assert answers[-1].stage == pb.UPGRADE_STAGE_DONE
    assert asked[-1] == f"bytes={len(BUNDLE.file) - len(BUNDLE.content) + answers[0].offset}-"


@pytest.mark.parametrize(
    ("requests", "text"),
    [
        ([], "first message must be begin"),
        ([pb.UpgradeRequest(content=b"x")], "first message must be begin"),
        ([pb.UpgradeRequest(begin=pb.UpgradeBegin())], "give a manifest and its signature"),
        ([pb.UpgradeRequest(begin=pb.UpgradeBegin(url="ftp://x"))], "must be http"),
        (
            [pb.UpgradeRequest(begin=pb.UpgradeBegin(url="http://x/", manifest=b"m"))],
            "not both",
        ),
        (
            [pb.UpgradeRequest(begin=pb.UpgradeBegin(manifest=b"m", signature=b"s"))],
            "signature: is none",
        ),
        ([*sent(BUNDLE)][:3], "ends within part root"),
        ([*sent(BUNDLE)][:1] * 2, "comes content only"),
    ],
)
def test_what_is_no_upgrade_is_refused(
    served: Served, requests: list[pb.UpgradeRequest], text: str
) -> None:
    with pytest.raises(aio.AioRpcError, match=text) as refused:
        served.run(*requests)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert list(entries(served.folder)) == ["aurae_1.0.efi"]


def test_status_says_what_there_is(served: Served) -> None:
    served.run(*sent(BUNDLE))
    status = served.call(lambda stub: stub.GetUpgradeStatus(pb.GetUpgradeStatusRequest()))
    assert (status.version, status.slot, status.health) == ("1.0", "a", "healthy")
    assert {v.version: (v.state, v.tries_left, v.running) for v in status.versions} == {
        "1.0": (pb.VERSION_STATE_GOOD, 0, True),
        "2.0": (pb.VERSION_STATE_TRYING, 3, False),
    }
    assert not status.active
    assert not status.HasField("upgrade")


def test_a_rollback_is_the_next_boots(served: Served) -> None:
    served.run(*sent(BUNDLE))
    answer = served.call(lambda stub: stub.Rollback(pb.RollbackRequest(reboot=True)))
    assert answer.version == "2.0"
    assert served.power.went == [How.REBOOT]
    with pytest.raises(aio.AioRpcError, match="none is under way"):
        served.call(lambda stub: stub.CancelUpgrade(pb.CancelUpgradeRequest()))


def test_a_caller_that_leaves_leaves_what_was_written(served: Served) -> None:
    async def work() -> None:
        async with served.stub() as stub:
            call = stub.Upgrade()
            for request in [*sent(BUNDLE)][:8]:
                await call.write(request)
            assert (await call.read()).version == "2.0"
            call.cancel()
            async with asyncio.timeout(20):
                while (await stub.GetUpgradeStatus(pb.GetUpgradeStatusRequest())).active:
                    continue
            status = await stub.GetUpgradeStatus(pb.GetUpgradeStatusRequest())
            assert status.upgrade.version == "2.0"
            await stub.CancelUpgrade(pb.CancelUpgradeRequest())
            status = await stub.GetUpgradeStatus(pb.GetUpgradeStatusRequest())
            assert not status.HasField("upgrade")

    asyncio.run(work())
    assert served.run(*sent(BUNDLE))[-1].stage == pb.UPGRADE_STAGE_DONE
