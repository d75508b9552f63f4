"""A bundle by URL: from servers that do well, and from those that do not."""

import base64
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from initd.errors import InvalidArgument, Unavailable
from runtime.upgrade import fetch
from runtime.upgrade.fetch import Source
from tests.unit.runtime.upgrade_node import Bundle

BUNDLE = Bundle()
Answer = Callable[[BaseHTTPRequestHandler], None]


@contextmanager
def server(answer: Answer) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer(self)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as serving:
        serving.daemon_threads = True
        thread = threading.Thread(target=serving.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{serving.server_address[1]}/aurae.bundle"
        finally:
            serving.shutdown()
            thread.join()


def send(to: BaseHTTPRequestHandler, data: bytes, code: int = 200, length: int = -1) -> None:
    to.send_response(code)
    to.send_header("Content-Length", str(length if length >= 0 else len(data)))
    to.end_headers()
    to.wfile.write(data)


def well(to: BaseHTTPRequestHandler) -> None:
    if to.path.endswith(".sig"):
        send(to, base64.b64encode(BUNDLE.signature) + b"\n")
        return
    start = int((to.headers["Range"] or "bytes=0-").removeprefix("bytes=").rstrip("-"))
    send(to, BUNDLE.file[start:], 206 if start else 200)


def without_ranges(to: BaseHTTPRequestHandler) -> None:
    send(to, BUNDLE.file)


def content(source: Source, offset: int = 0) -> bytes:
    manifest = source.manifest()
    assert manifest == BUNDLE.manifest
    source.seek(manifest, len(BUNDLE.content), offset)
    found = b""
    while data := source.read():
        found += data
    return found


@pytest.mark.parametrize("answer", [well, without_ranges])
@pytest.mark.parametrize("offset", [0, 1_000_000])
def test_a_bundle_is_fetched_from_any_place_on(answer: Answer, offset: int) -> None:
    with server(answer) as url, Source(url) as source:
        assert content(source, offset) == BUNDLE.content[offset:]


def test_its_signature_is_beside_it() -> None:
    with server(well) as url, Source(url) as source:
        assert base64.b64decode(source.signature()) == BUNDLE.signature


def test_redirects_are_followed_but_not_for_ever() -> None:
    def leads_on(to: BaseHTTPRequestHandler) -> None:
        number = int(to.path.rpartition("-")[2]) if "-" in to.path else 0
        if number == fetch.REDIRECTS:
            well(to)
            return
        to.send_response(302)
        to.send_header("Location", f"/aurae.bundle-{number + 1}")
        to.end_headers()

    def for_ever(to: BaseHTTPRequestHandler) -> None:
        to.send_response(302)
        to.send_header("Location", to.path)
        to.end_headers()

    with server(leads_on) as url, Source(url) as source:
        assert source.manifest() == BUNDLE.manifest
    with (
        server(for_ever) as url,
        Source(url) as source,
        pytest.raises(InvalidArgument, match="leads on more than 5 times"),
    ):
        source.manifest()


def test_no_redirect_leads_out_of_http() -> None:
    def out(to: BaseHTTPRequestHandler) -> None:
        to.send_response(302)
        to.send_header("Location", "file:///etc/passwd")
        to.end_headers()

    with (
        server(out) as url,
        Source(url) as source,
        pytest.raises(InvalidArgument, match="must be http"),
    ):
        source.manifest()


def test_a_server_that_stalls_is_given_up() -> None:
    release = threading.Event()

    def stalls(to: BaseHTTPRequestHandler) -> None:
        send(to, BUNDLE.file[: len(BUNDLE.file) // 2], length=len(BUNDLE.file))
        release.wait(20)

    with server(stalls) as url, Source(url, stall=0.2) as source:
        with pytest.raises(Unavailable, match=r"nothing came for 0\.2 s"):
            content(source)
        release.set()


def test_a_server_that_sends_hardly_anything_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "SLOW", (64 << 10, 0.2))
    ended = threading.Event()

    def drips(to: BaseHTTPRequestHandler) -> None:
        to.send_response(200)
        to.end_headers()
        for at in range(1000):
            if ended.wait(0.05):
                return
            to.wfile.write(BUNDLE.file[at : at + 1])

    with server(drips) as url, Source(url) as source:
        with pytest.raises(Unavailable, match="too slowly"):
            source.manifest()
        ended.set()


@pytest.mark.parametrize("length", [100_000, len(BUNDLE.file) + 5])
def test_a_server_that_lies_about_the_size_is_found(length: int) -> None:
    def lies(to: BaseHTTPRequestHandler) -> None:
        send(to, BUNDLE.file, length=length)

    with (
        server(lies) as url,
        Source(url) as source,
        pytest.raises(InvalidArgument, match="the server says"),
    ):
        content(source)


def test_a_server_that_has_no_bundle_is_named() -> None:
    with (
        server(lambda to: send(to, b"gone", 404)) as url,
        Source(url) as source,
        pytest.raises(InvalidArgument, match="the server says 404"),
    ):
        source.manifest()
    with (
        server(lambda to: send(to, b"<html>")) as url,
        Source(url) as source,
        pytest.raises(InvalidArgument, match="ends early"),
    ):
        source.manifest()
    with (
        server(lambda to: send(to, b"<html>" * 100)) as url,
        Source(url) as source,
        pytest.raises(InvalidArgument, match="does not begin as one"),
    ):
        source.manifest()


def test_nobody_there_is_another_thing_than_nothing_there() -> None:
    with server(well) as url:
        pass
    with Source(url) as source, pytest.raises(Unavailable, match="refused"):
        source.manifest()


@pytest.mark.parametrize(
    "url",
    ["ftp://host/x", "http:///x", "http://host:port/", "http://a b/", "http://u:p@host/", "x"],
)
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(InvalidArgument):
        Source(url)


def test_one_that_is_let_go_ends_what_waits_for_it() -> None:
    began, release = threading.Event(), threading.Event()

    def stalls(to: BaseHTTPRequestHandler) -> None:
        began.set()
        release.wait(20)

    with server(stalls) as url, Source(url) as source:
        failed: list[BaseException] = []

        def read() -> None:
            try:
                source.manifest()
            except Unavailable as e:
                failed.append(e)

        thread = threading.Thread(target=read)
        thread.start()
        assert began.wait(20)
        source.close()
        thread.join(10)
        release.set()
        assert failed
