"""A bundle that the node fetches. What is believed is its signature and its hashes, not who sends
it: so https needs no list of authorities, which a node has not."""

import http.client
import socket
import time
from contextlib import suppress
from typing import Final, Self
from urllib.parse import SplitResult, urljoin, urlsplit, urlunsplit

from initd.errors import InvalidArgument, Unavailable
from initd.release import HEAD, Unusable, head, manifest_length

REDIRECTS: Final = 5
# Seconds without a byte; and of a server that sends, but hardly, so many bytes in so many seconds.
STALL: Final = 30.0
SLOW: Final = (64 << 10, 60.0)
_SIGNATURE_LIMIT: Final = 4096
_BLOCK: Final = 256 << 10
_REDIRECTED: Final = (301, 302, 303, 307, 308)


class Source:
    """A bundle by its URL. All but `close` blocks; `close` ends what blocks in another thread."""

    def __init__(self, url: str, stall: float = STALL) -> None:
        """Raises InvalidArgument."""
        self._url = url
        self._stall = stall
        self._connection: http.client.HTTPConnection | None = None
        self._response: http.client.HTTPResponse | None = None
        self._closed = False
        _split(url)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def signature(self) -> bytes:
        """What lies beside the bundle. Raises InvalidArgument, Unavailable."""
        parts = _split(self._url)
        response = self._get(urlunsplit(parts._replace(path=f"{parts.path}.sig")), {})
        return self._exactly(response, _SIGNATURE_LIMIT, short=True)

    def manifest(self) -> bytes:
        """Raises InvalidArgument, Unavailable."""
        self._response = self._get(self._url, {})
        try:
            length = manifest_length(self._exactly(self._response, HEAD))
        except Unusable as e:
            raise InvalidArgument(f"{self._url}: {e}") from e
        return self._exactly(self._response, length)

    def seek(self, manifest: bytes, stored: int, offset: int) -> None:
        """Go on `offset` bytes after the manifest, where there are to be `stored`. Raises
        InvalidArgument: the server says another size."""
        start = len(head(manifest))
        assert self._response is not None
        self._check_length(self._response, start + stored)
        if not offset:
            return
        response = self._get(self._url, {"Range": f"bytes={start + offset}-"})
        if response.status == 206:
            self._check_length(response, stored - offset)
        else:
            self._check_length(response, start + stored)
            left = start + offset
            while left and (data := self._some(response, left)):
                left -= len(data)
        self._response = response

    def read(self) -> bytes:
        """The next bytes; none at the end. Raises Unavailable."""
        assert self._response is not None
        return self._some(self._response, _BLOCK)

    def close(self) -> None:
        self._closed = True
        if self._connection is not None:
            if self._connection.sock is not None:
                with suppress(OSError):
                    self._connection.sock.shutdown(socket.SHUT_RDWR)
            self._connection.close()

    def _get(self, url: str, headers: dict[str, str]) -> http.client.HTTPResponse:
        for _ in range(REDIRECTS + 1):
            parts = _split(url)
            response = self._ask(parts, headers)
            if response.status in _REDIRECTED:
                url = urljoin(url, response.headers.get("Location", ""))
                continue
            if response.status not in (200, 206):
                raise InvalidArgument(f"{url}: the server says {response.status} {response.reason}")
            return response
        raise InvalidArgument(f"{self._url}: leads on more than {REDIRECTS} times; give its end")

    def _ask(self, parts: SplitResult, headers: dict[str, str]) -> http.client.HTTPResponse:
        closed, self._closed = self._closed, False
        if closed:
            raise Unavailable(f"{self._url}: was let go")
        if self._connection is not None:
            self._connection.close()
        self._connection = _connection(parts, self._stall)
        target = urlunsplit(("", "", parts.path or "/", parts.query, ""))
        try:
            self._connection.request("GET", target, headers=headers)
            return self._connection.getresponse()
        except (OSError, http.client.HTTPException) as e:
            raise self._failed(e) from e

    def _check_length(self, response: http.client.HTTPResponse, wanted: int) -> None:
        if response.length is not None and response.length + self._taken(response) != wanted:
            raise InvalidArgument(
                f"{self._url}: the server says {response.length + self._taken(response)} bytes, "
                f"the manifest {wanted}; make or fetch the bundle anew"
            )

    def _taken(self, response: http.client.HTTPResponse) -> int:
        said = response.headers.get("Content-Length", "")
        return int(said) - (response.length or 0) if said.isdigit() else 0

    def _exactly(
        self, response: http.client.HTTPResponse, length: int, *, short: bool = False
    ) -> bytes:
        """So many bytes; with `short`, all that there are, at most so many."""
        found = b""
        while len(found) < length:
            data = self._some(response, length - len(found))
            if not data:
                break
            found += data
        if len(found) < length and not short:
            raise InvalidArgument(f"{self._url}: ends early; make or fetch the bundle anew")
        return found

    def _some(self, response: http.client.HTTPResponse, most: int) -> bytes:
        """At least `SLOW` bytes, if there are, at most `most`."""
        found = b""
        enough, seconds = SLOW
        began = time.monotonic()
        try:
            while len(found) < min(enough, most):
                data = response.read1(most - len(found))
                if not data:
                    break
                found += data
                if time.monotonic() - began > seconds:
                    raise Unavailable(f"{self._url}: sends too slowly; the same call goes on later")
        except (OSError, http.client.HTTPException, ValueError) as e:
            raise self._failed(e) from e
        return found

    def _failed(self, error: Exception) -> Unavailable:
        if isinstance(error, TimeoutError):
            what = f"nothing came for {self._stall:g} s"
        else:
            what = getattr(error, "strerror", "") or str(error) or type(error).__name__
        return Unavailable(f"{self._url}: {what}; the same call goes on where it was cut")


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 (it is parsed when it is asked for)
    except ValueError as e:
        raise InvalidArgument(f"url: {e}") from e
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username:
        raise InvalidArgument(f"{url}: must be http://HOST/PATH or https://HOST/PATH")
    if not url.isascii() or not url.isprintable() or " " in url:
        raise InvalidArgument(f"url: {url!r}: must be ASCII without blanks")
    return parts


def _connection(parts: SplitResult, stall: float) -> http.client.HTTPConnection:
    assert parts.hostname is not None
    if parts.scheme == "http":
        return http.client.HTTPConnection(parts.hostname, parts.port, timeout=stall)
    import ssl

    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return http.client.HTTPSConnection(parts.hostname, parts.port, timeout=stall, context=context)
