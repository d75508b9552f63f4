"""Waiting until the API of a machine answers."""

import time
from collections.abc import Callable
from typing import Final

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

# A connection that was begun before the guest had its address is dropped after this long: the
# user mode network repeats a lost packet ever more slowly.
ATTEMPT_SECONDS: Final = 4.0
LOOK_SECONDS: Final = 0.2


class NotServingError(Exception):
    """The API did not answer in time."""


def wait_until_serving(
    connect: Callable[[], grpc.Channel], look: Callable[[], None], timeout: float
) -> None:
    """Return once health says SERVING. `look` is called meanwhile, and ends the wait by raising.

    Raises `NotServingError` after `timeout` seconds.
    """
    deadline = time.monotonic() + timeout
    last = "no answer"
    while (left := deadline - time.monotonic()) > 0:
        with connect() as channel:
            try:
                status = _ask(channel, look, min(ATTEMPT_SECONDS, left))
            except grpc.RpcError as e:
                last = f"{e.code().name}: {e.details()}"
                continue
        if status == health_pb2.HealthCheckResponse.SERVING:
            return
        last = health_pb2.HealthCheckResponse.ServingStatus.Name(status)
    raise NotServingError(f"the API did not answer in {timeout:g} s; last: {last}")


def _ask(channel: grpc.Channel, look: Callable[[], None], timeout: float) -> int:
    call = health_pb2_grpc.HealthStub(channel).Check.future(
        health_pb2.HealthCheckRequest(), timeout=timeout, wait_for_ready=True
    )
    try:
        while True:
            look()
            try:
                return int(call.result(timeout=LOOK_SECONDS).status)
            except grpc.FutureTimeoutError:
                continue
    finally:
        call.cancel()
