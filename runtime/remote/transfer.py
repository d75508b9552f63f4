"""Fetching a small file by HTTP, with a bound on everything that the other side decides."""

import asyncio
import http.client
import socket
import ssl
import threading
from contextlib import suppress
from http import HTTPStatus
from typing import Final
from urllib.parse import urljoin, urlsplit

from initd.values import NamedTuple


class Limits(NamedTuple):
    """`silence` and `whole` are seconds: of one wait, and of a fetch with all its redirects."""

    size: int = 1 << 20
    redirects: int = 5
    silence: float = 10.0
    whole: float = 60.0


_REDIRECTS: Final = frozenset(
    (
        *(HTTPStatus.MOVED_PERMANENTLY, HTTPStatus.FOUND, HTTPStatus.SEE_OTHER),
        *(HTTPStatus.TEMPORARY_REDIRECT, HTTPStatus.PERMANENT_REDIRECT),
    )
)
_CHUNK: Final = 1 << 16


async def fetch(url: str, context: ssl.SSLContext, limits: Limits = Limits()) -> bytes:  # noqa: B008
    """Raises OSError or ValueError, both with what is wrong in words."""
    transfer = Transfer(url, context, limits)
    try:
        async with asyncio.timeout(limits.whole):
            return await asyncio.to_thread(transfer.run)
    except TimeoutError:
        raise TimeoutError(f"not done after {limits.whole:g} s") from None
    finally:
        # A thread that waits for the other side is not waited for.
        transfer.abort()


class Transfer:
    """One fetch, in a thread; `abort` ends it from another."""

    def __init__(self, url: str, context: ssl.SSLContext, limits: Limits) -> None:
        self._url = url
        self._context = context
        self._limits = limits
        self._lock = threading.Lock()
        self._connection: http.client.HTTPConnection | None = None
        self._aborted = False

    def abort(self) -> None:
        with self._lock:
            self._aborted = True
            if self._connection is not None and self._connection.sock is not None:
                with suppress(OSError):
                    self._connection.sock.shutdown(socket.SHUT_RDWR)

    def run(self) -> bytes:
        url = self._url
        for _ in range(self._limits.redirects + 1):
            try:
                found = self._ask(url)
            except TimeoutError:
                raise TimeoutError(f"nothing came for {self._limits.silence:g} s") from None
            except http.client.HTTPException as e:
                raise ValueError(f"what answers does not speak HTTP: {type(e).__name__}") from e
            if isinstance(found, bytes):
                return found
            url = _next(url, found)
        raise ValueError(f"redirected more than {self._limits.redirects} times")

    def _ask(self, url: str) -> bytes | str:
        """The content, or where it is instead."""
        parts = urlsplit(url)
        connection = self._connect(parts.scheme, parts.hostname or "", parts.port)
        try:
            target = parts.path or "/"
            headers = {"Accept-Encoding": "identity", "Connection": "close"}
            query = f"?{parts.query}" if parts.query else ""
            connection.request("GET", f"{target}{query}", headers=headers)
            answer = connection.getresponse()
            if answer.status in _REDIRECTS:
                return answer.getheader("Location") or ""
            if answer.status != HTTPStatus.OK:
                raise ValueError(f"HTTP status {answer.status}")
            return self._read(answer)
        finally:
            connection.close()

    def _connect(self, scheme: str, host: str, port: int | None) -> http.client.HTTPConnection:
        silence = self._limits.silence
        connection: http.client.HTTPConnection
        if scheme == "https":
            connection = http.client.HTTPSConnection(
                host, port, timeout=silence, context=self._context
            )
        else:
            connection = http.client.HTTPConnection(host, port, timeout=silence)
        with self._lock:
            self._connection = connection
        connection.connect()
        with self._lock:
            if self._aborted:
                connection.close()
                raise TimeoutError("given up")
        return connection

    def _read(self, answer: http.client.HTTPResponse) -> bytes:
        """All of it: what is longer than allowed, or shorter than announced, is refused."""
        most = self._limits.size
        if answer.length is not None and answer.length > most:
            raise ValueError(f"has {answer.length} bytes; at most {most} are taken")
        announced = answer.length
        content = bytearray()
        while chunk := answer.read(min(_CHUNK, most + 1 - len(content))):
            content += chunk
            if len(content) > most:
                raise ValueError(f"is longer than {most} bytes")
        if announced is not None and len(content) != announced:
            raise ValueError(f"has {len(content)} bytes; {announced} were announced")
        return bytes(content)


def _next(url: str, location: str) -> str:
    """Where a redirect leads to. Raises ValueError where that is nowhere to follow."""
    target = urljoin(url, location) if location else ""
    parts = urlsplit(target)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"redirected to {location!r}, which is no http or https URL")
    if urlsplit(url).scheme == "https" and parts.scheme == "http":
        raise ValueError("redirected from https to http")
    return target
