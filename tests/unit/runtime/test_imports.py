"""Modules that the API does without at its start."""

import functools
import inspect
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from runtime import inspection

PROGRAM = """
import sys
from runtime import imports

names = (*imports.POSTPONED, *imports.SMALLER, *imports.CALLING)
from runtime import ahead
for _ in ahead.steps():
    pass
before = set(sys.modules)
import runtime.__main__
runtime.__main__.load()
import asyncio
async def work():
    asyncio.get_running_loop().add_signal_handler(10, print)
    await asyncio.gather(asyncio.sleep(0), asyncio.sleep(0))
asyncio.run(work())
loaded = [name for name in names if type(sys.modules[name]).__name__ != "_StandIn"]
assert not loaded, loaded
for name in ("ssl", "grpc_reflection.v1alpha", "cryptography", "google.protobuf.text_format",
             "grpc_health.v1.health_pb2", "runtime.policy.table"):
    assert name not in sys.modules, name
import inspect
assert inspect.signature(print).parameters
assert type(sys.modules["inspect"]).__name__ == "module"
from google.protobuf.internal import python_message
assert python_message.GeneratedProtocolMessageType.__name__ == "GeneratedProtocolMessageType"
assert type(sys.modules["google.protobuf.internal.python_message"]).__name__ == "module"
from runtime import borrowed
assert borrowed.extract_stack()[0].name == "<module>"
import traceback
assert type(traceback).__name__ == "module" and traceback.extract_stack()
import subprocess
assert (subprocess.PIPE, subprocess.STDOUT, subprocess.DEVNULL) == (
    borrowed.PIPE, borrowed.STDOUT, borrowed.DEVNULL
)
assert subprocess.run(["true"]).returncode == 0
import ssl
"""


async def async_function() -> None:
    pass


def plain() -> None:
    pass


def generator() -> Iterator[None]:
    yield


class Asynchronous:
    async def method(self) -> None:
        pass

    async def __call__(self) -> None:
        pass


def run(program: str) -> str:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    line = [sys.executable, "-c", program]
    done = subprocess.run(line, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_nothing_that_is_postponed_is_loaded_by_the_server_and_all_can_be_used() -> None:
    run(PROGRAM)


AHEAD = """
import sys
import runtime.__main__
runtime.__main__.load()
loaded = set(sys.modules)
from runtime import ahead
for _ in ahead.steps():
    pass
print(*(set(sys.modules) - loaded))
"""


def test_nothing_is_imported_ahead_that_the_server_does_without() -> None:
    assert run(AHEAD).split() == ["runtime.ahead"]


@pytest.mark.parametrize(
    "value",
    [
        async_function,
        plain,
        functools.partial(async_function),
        functools.partial(plain),
        Asynchronous().method,
        Asynchronous(),
        Asynchronous,
        print,
        "text",
        generator,
    ],
)
def test_functions_look_as_to_the_standard_library(value: object) -> None:
    assert inspection.iscoroutinefunction(value) is inspect.iscoroutinefunction(value)
    assert inspection.isawaitable(value) is inspect.isawaitable(value)


def test_awaitables_look_as_to_the_standard_library() -> None:
    coroutine = async_function()
    assert inspection.isawaitable(coroutine) is inspect.isawaitable(coroutine) is True
    coroutine.close()


CALLS = """
import asyncio
import runtime.__main__
runtime.__main__.load()
import grpc
from grpc import aio
from runtime import imports

class Interceptor(aio.ServerInterceptor):
    async def intercept_service(self, continuation, details):
        return await continuation(details)

class Handler(grpc.GenericRpcHandler):
    def service(self, details):
        async def answer(request, context):
            if not request:
                await context.abort(grpc.StatusCode.NOT_FOUND, "nothing")
            return request
        return grpc.unary_unary_rpc_method_handler(answer)

async def work():
    server = aio.server(interceptors=[Interceptor()])
    server.add_generic_rpc_handlers((Handler(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    imports.calling()
    imports.calling()
    async with aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.unary_unary("/a/b")
        print((await call(b"said", metadata=(("key", "value"),))).decode())
        try:
            await call(b"")
        except aio.AioRpcError as e:
            print(e.details())
    await server.stop(None)

asyncio.run(work())
"""


def test_who_serves_without_grpcs_client_can_still_become_one() -> None:
    assert run(CALLS).split() == ["said", "nothing"]
