"""QEMU's monitor (QMP), for callers that are not asynchronous."""

import asyncio
import contextlib
import re
import socket
from collections.abc import Coroutine, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from qemu.qmp import QMPClient, QMPError, Runstate

ANSWER_SECONDS: Final = 15.0

T = TypeVar("T")


class MonitorError(Exception):
    """QEMU's monitor is gone, or refuses."""


class Monitor:
    """A connection to the monitor of one machine. Close it; QEMU goes on without it."""

    def __init__(self, path: Path) -> None:
        """Connect to the socket at `path`. Raises `MonitorError`."""
        self._runner = asyncio.Runner()
        self._client = QMPClient(str(path))
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.connect(str(path))
            self._run(self._client.connect(connection))
        except (OSError, QMPError, TimeoutError) as e:
            connection.close()
            self._runner.close()
            raise MonitorError(f"monitor of the machine: {e}") from e

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        try:
            self._run(self._client.disconnect())
        except (OSError, EOFError, QMPError, TimeoutError):
            pass  # QEMU was faster
        finally:
            self._runner.close()

    def execute(self, name: str, arguments: Mapping[str, object] | None = None) -> object:
        """One command. Raises `MonitorError` if QEMU refuses it or is gone."""
        try:
            return self._run(self._client.execute(name, dict(arguments or {})))
        except (OSError, EOFError, QMPError, TimeoutError) as e:
            raise MonitorError(f"{name}: {e}") from e

    def press(self, *keys: str) -> None:
        """Press keys together, by QEMU's names for them."""
        pressed = [{"type": "qcode", "data": key} for key in keys]
        self.execute("send-key", {"keys": pressed})

    def forwarded_port(self) -> int | None:
        """The port of 127.0.0.1 that leads to the guest, if there is one."""
        table = self.execute("human-monitor-command", {"command-line": "info usernet"})
        return forwarded_port(str(table))

    def shutdown_reason(self) -> str | None:
        """Why the guest stopped, as QEMU said (`guest-shutdown`, `guest-reset`…) before its end.

        Call it when QEMU has ended; None: it said nothing.
        """
        with contextlib.suppress(TimeoutError):
            self._run(self._read_to_end())
        for event in self._client.events.history:
            if event.get("event") == "SHUTDOWN":
                data = event.get("data")
                return str(data.get("reason")) if isinstance(data, dict) else ""
        return None

    async def _read_to_end(self) -> None:
        while self._client.runstate is Runstate.RUNNING:
            await self._client.runstate_changed()

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        async def bounded() -> T:
            async with asyncio.timeout(ANSWER_SECONDS):
                return await work

        return self._runner.run(bounded())


def forwarded_port(table: str) -> int | None:
    """The port in QEMU's `info usernet`: protocol, descriptor, address, port and so on."""
    found = re.search(r"TCP\[HOST_FORWARD\]\s+\d+\s+127\.0\.0\.1\s+(\d+)", table)
    return int(found[1]) if found else None
