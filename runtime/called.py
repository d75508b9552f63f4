"""What a server of gRPC takes from the half of it that calls others; see `runtime.imports`."""

from abc import ABC, abstractmethod
from typing import Any


class ServerInterceptor(ABC):
    """As in `grpc.aio`, whose server asks for no more than that it is one."""

    @abstractmethod
    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        """The handler of a call, in place of the one that `continuation` finds."""


def __getattr__(name: str) -> Any:
    # Types of arguments that nobody looks at while a program runs.
    if name.startswith("__"):
        raise AttributeError(name)
    return Any
