"""One command's conversation with a node."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import grpc

from aer import failures
from aer.client import connect
from aer.command import Call
from aer.settings import Config

# Without --timeout. A call that was given a grace has that in addition.
TIMEOUT: Final = 30.0

_Answer = TypeVar("_Answer")


@dataclass(frozen=True, slots=True)
class Session:
    config: Config
    channel: grpc.Channel
    grace: float

    def unary(self, method: Callable[..., _Answer], request: Any) -> _Answer:
        """The answer, within the time of the settings."""
        timeout = self.config.timeout or TIMEOUT + self.grace
        return method(request, timeout=timeout)

    def unbounded(self, method: Callable[..., _Answer], request: Any) -> _Answer:
        """The answer or the stream, however long it takes unless --timeout says otherwise."""
        return method(request, timeout=self.config.timeout)


@contextmanager
def session(call: Call) -> Iterator[Session]:
    """Raises UsageError, and AerError for whatever gRPC says within."""
    config = call.settings()
    with connect(config) as channel:
        try:
            yield Session(config, channel, call["grace"] or 0.0)
        except grpc.RpcError as e:
            raise failures.explain(e, config) from e


@contextmanager
def service(call: Call, make: Callable[[grpc.Channel], Any]) -> Iterator[tuple[Session, Any]]:
    """The same with the stub of one service."""
    with session(call) as node:
        yield node, make(node.channel)
