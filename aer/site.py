"""What `aer netboot serve` offers by HTTP, and the server: threads of the standard library's."""

import io
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, BinaryIO, Final
from urllib.parse import unquote, urlsplit

from aer.payload import FIRST, Configurations, Payload

# Seconds that a client may say, or take, nothing.
IDLE: Final = 60.0
# Requests at a time; more are closed at once.
MOST: Final = 256
_CHUNK: Final = 1 << 18

_TYPES: Final = {
    ".efi": "application/efi",
    ".ipxe": "text/plain",
    ".toml": "application/toml",
}


@dataclass(frozen=True, slots=True)
class Fetched:
    """A request and how it ended. `sent` is less than `size` where the client went away."""

    client: str
    method: str
    path: str
    status: int
    size: int
    sent: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Site:
    """`made` is a folder of files that go before those of the payload."""

    payload: Payload
    made: Path
    configurations: Configurations | None = None
    sign: Callable[[bytes], bytes] | None = None

    def open(self, path: str) -> BinaryIO:
        """Raises FileNotFoundError; nothing is there but files, and none outside."""
        kind, slash, rest = path.removeprefix("/").partition("/")
        if kind == "config" and rest:
            return io.BytesIO(self._configuration(rest))
        if slash:
            raise FileNotFoundError(path)
        if kind in (FIRST, self.payload.uki):
            with suppress(FileNotFoundError):
                return (self.made / kind).open("rb")
        return self.payload.open(kind)

    def _configuration(self, name: str) -> bytes:
        """A machine's document, or with `.sig` its signature."""
        if self.configurations is None:
            raise FileNotFoundError(name)
        mac = name.removesuffix(".sig")
        file = self.configurations.find(mac)
        if mac == name:
            return file.read_bytes()
        if self.sign is not None:
            return self.sign(file.read_bytes())
        return file.with_name(f"{file.name}.sig").read_bytes()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "aer"
    sys_version = ""
    timeout = IDLE

    def __init__(self, site: Site, tell: Callable[[Fetched], None], *given: Any) -> None:
        self._site = site
        self._tell = tell
        super().__init__(*given)

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def _answer(self, *, body: bool) -> None:
        began = time.monotonic()
        path = unquote(urlsplit(self.path).path)
        try:
            file = self._site.open(path)
        except (OSError, ValueError):
            self.send_error(HTTPStatus.NOT_FOUND)
            self._said(path, HTTPStatus.NOT_FOUND, 0, 0, began)
            return
        with file:
            size = file.seek(0, io.SEEK_END)
            file.seek(0)
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Type", _type(path))
            self.send_header("Content-Length", str(size))
            self.end_headers()
            sent = 0
            try:
                if body:
                    sent = self._send(file, size)
            finally:
                # A client that went away is told of as well.
                self._said(path, HTTPStatus.OK, size, sent, began)

    def _send(self, file: BinaryIO, size: int) -> int:
        """As many bytes as were announced, and no more; returns how many went out."""
        sent = 0
        while sent < size and (chunk := file.read(min(_CHUNK, size - sent))):
            try:
                self.wfile.write(chunk)
            except OSError:
                self.close_connection = True
                return sent
            sent += len(chunk)
        if sent < size:
            # The file has shrunk meanwhile: the end of the connection says that it was not all.
            self.close_connection = True
        return sent

    def _said(self, path: str, status: int, size: int, sent: int, began: float) -> None:
        client = str(self.client_address[0])
        seconds = time.monotonic() - began
        self._tell(Fetched(client, self.command, path, status, size, sent, seconds))

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """What is told is told by `_said`."""


class Server(ThreadingHTTPServer):
    """Serves from `start` to `close`, which ends every transfer."""

    daemon_threads = False
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], site: Site, tell: Callable[[Fetched], None]):
        """Raises OSError where the address cannot be had."""
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self.serve_forever, args=(0.1,))
        super().__init__(address, partial(Handler, site, tell))

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        if self._thread.ident is not None:
            self.shutdown()
            self._thread.join()
        with self._lock:
            for connection in self._open:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        # Waits for the threads.
        self.server_close()

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            full = len(self._open) >= MOST
            self._open.add(request)
        if full:
            self.shutdown_request(request)
        else:
            super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that broke off is nothing to tell."""


def _type(path: str) -> str:
    return _TYPES.get(Path(path).suffix, "application/octet-stream")
