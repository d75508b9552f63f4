"""The configuration by URL: nothing is taken unsigned, and nothing waited for without an end."""

import asyncio
import logging
import threading
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from runtime.remote import address, document
from runtime.remote.document import Source
from runtime.remote.signature import Signer, make_key, parse_key, verify
from runtime.remote.transfer import Limits, fetch

DOCUMENT = b"hostname = 'web'\n"
LIMITS = Limits(size=1000, redirects=2, silence=20.0, whole=60.0)
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s"


@pytest.fixture(scope="module")
def signer() -> Signer:
    return Signer(make_key())


@contextmanager
def answering(answers: dict[str, bytes], *, drips: bool = False) -> Iterator[tuple[str, list[str]]]:
    """A server that says for each path what is to be said, to the byte; for others, nothing."""
    asked: list[str] = []
    over = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.wfile.write(answers.get(self.path, b""))
            while drips and not over.wait(0.1):
                try:
                    self.wfile.write(b"x")
                except OSError:
                    return
            if self.path not in answers:
                over.wait(5)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = False
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        over.set()
        server.shutdown()
        thread.join()
        server.server_close()


def ok(content: bytes) -> bytes:
    return ANSWER % (len(content), content)


def keep(url: str, key: str, target: Path) -> None:
    async def run() -> None:
        async with asyncio.timeout(60):
            await document.keep(Source(url, key), target, LIMITS)

    asyncio.run(run())


def test_a_signed_document_is_taken_whole(signer: Signer, tmp_path: Path) -> None:
    target = tmp_path / "run/config.url.toml"
    with answering({"/n": ok(DOCUMENT), "/n.sig": ok(signer.sign(DOCUMENT))}) as (base, asked):
        keep(f"{base}/n", signer.public, target)
        assert target.read_bytes() == DOCUMENT
        assert target.stat().st_mode & 0o777 == 0o600
        assert [path.name for path in target.parent.iterdir()] == [target.name]
        # Another runtime of this boot does not ask again.
        keep(f"{base}/n", signer.public, target)
        assert asked == ["/n", "/n.sig"]


@pytest.mark.parametrize("case", ["another's", "of another document", "short", "empty"])
def test_without_a_right_signature_nothing_is_taken(
    signer: Signer, tmp_path: Path, case: str, caplog: pytest.LogCaptureFixture
) -> None:
    signature = {
        "another's": Signer(make_key()).sign(DOCUMENT),
        "of another document": signer.sign(DOCUMENT + b"\n"),
        "short": signer.sign(DOCUMENT)[:63],
        "empty": b"",
    }[case]
    target = tmp_path / "config.url.toml"

    async def until_told(base: str) -> None:
        async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
            source = Source(f"{base}/n", signer.public)
            task = tasks.create_task(document.keep(source, target, LIMITS))
            while "asks again in" not in caplog.text:  # noqa: ASYNC110 (a log wakes nobody)
                await asyncio.sleep(0.01)
            task.cancel()

    with answering({"/n": ok(DOCUMENT), "/n.sig": ok(signature)}) as (base, _):
        asyncio.run(until_told(base))
    assert not target.exists()
    assert "signature" in caplog.text


@pytest.mark.parametrize("key", ["", "no base64!", b64encode(b"k" * 31).decode()])
def test_without_a_key_nothing_is_even_asked_for(
    tmp_path: Path, key: str, caplog: pytest.LogCaptureFixture
) -> None:
    with answering({}) as (base, asked):
        keep(f"{base}/n", key, tmp_path / "x")
        assert not asked
    assert caplog.records[-1].levelno == logging.ERROR


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"HTTP/1.1 404 Not Found\r\n\r\n", "HTTP status 404"),
        (ANSWER % (1001, b"x" * 1001), "at most 1000"),
        (b"HTTP/1.0 200 OK\r\n\r\n" + b"x" * 1001, "longer than 1000"),
        (ANSWER % (100, b"x" * 10), "does not speak HTTP: IncompleteRead|were announced"),
        (b"HTTP/1.1 302 Found\r\nLocation: /loop\r\n\r\n", "redirected more than 2 times"),
        (b"HTTP/1.1 302 Found\r\n\r\n", "redirected to ''"),
        (b"HTTP/1.1 302 Found\r\nLocation: file:///etc/passwd\r\n\r\n", "no http or https URL"),
        (b"SSH-2.0-OpenSSH\r\n", "does not speak HTTP"),
        (b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 200 + b"\r\n", "does not speak HTTP"),
    ],
)
def test_what_a_server_says_wrong_is_an_error_in_words(answer: bytes, said: str) -> None:
    loop = b"HTTP/1.1 302 Found\r\nLocation: /loop\r\n\r\n"
    with (
        answering({"/n": answer, "/loop": loop}) as (base, _),
        pytest.raises((OSError, ValueError), match=said),
    ):
        asyncio.run(fetch(f"{base}/n", document._context(Source("", "")), LIMITS))


@pytest.mark.parametrize("drips", [False, True])
def test_a_server_that_stalls_is_given_up(drips: bool) -> None:
    answers = {"/n": b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n"} if drips else {}
    quick = LIMITS._replace(silence=0.3, whole=1.0)
    began = time.monotonic()
    with (
        answering(answers, drips=drips) as (base, _),
        pytest.raises(TimeoutError, match=r"not done after 1 s|nothing came for 0.3 s"),
    ):
        asyncio.run(fetch(f"{base}/n", document._context(Source("", "")), quick))
    assert time.monotonic() - began < 4


def test_a_redirect_is_followed() -> None:
    moved = b"HTTP/1.1 301 Moved\r\nLocation: there\r\n\r\n"
    with answering({"/n": moved, "/there": ok(b"fine")}) as (base, _):
        content = asyncio.run(fetch(f"{base}/n", document._context(Source("", "")), LIMITS))
    assert content == b"fine"


def card(sys: Path, name: str, index: int, mac: str, *, cable: bool = True) -> None:
    folder = sys / "class/net" / name
    (folder / "device").mkdir(parents=True)
    for file, text in (("ifindex", str(index)), ("address", mac), ("carrier", str(int(cable)))):
        (folder / file).write_text(f"{text}\n")


def test_what_stands_for_the_node_is_replaced(tmp_path: Path) -> None:
    dmi = tmp_path / "class/dmi/id"
    dmi.mkdir(parents=True)
    (dmi / "product_uuid").write_text("ABCD-1\n")
    (dmi / "product_serial").write_text("a/b c?\n")
    url = "https://h/${uuid}/${serial}"
    assert address.candidates(url, sys=tmp_path) == ["https://h/abcd-1/a%2Fb%20c%3F"]
    with pytest.raises(ValueError, match="no network card has a cable"):
        address.candidates("http://h/${mac}", sys=tmp_path)


def test_the_mac_address_is_the_booting_cards_or_those_with_a_cable(tmp_path: Path) -> None:
    card(tmp_path, "eth1", 3, "52:54:00:00:00:03")
    card(tmp_path, "eth0", 2, "52:54:00:00:00:02")
    card(tmp_path, "eth2", 4, "52:54:00:00:00:04", cable=False)
    found = address.candidates("http://h/${mac}", sys=tmp_path)
    assert found == ["http://h/52:54:00:00:00:02", "http://h/52:54:00:00:00:03"]
    booted = address.booted_by("01-52-54-00-00-00-AA")
    assert address.candidates("http://h/${mac}", booted, tmp_path) == ["http://h/52:54:00:00:00:aa"]
    assert address.booted_by("junk") == ""


@pytest.mark.parametrize(
    "url",
    ["ftp://h/x", "http:///x", "h/x", "http://u:p@h/x", "http://h/${name}", "file:///etc/passwd"],
)
def test_a_url_that_cannot_be_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"must be|unknown|not supported"):
        address.check(url)


def test_the_signature_lies_beside_its_document() -> None:
    assert address.signature("http://h/a/b.toml?x=1#f") == "http://h/a/b.toml.sig?x=1"


def test_a_changed_byte_breaks_the_signature(signer: Signer) -> None:
    signature, key = signer.sign(DOCUMENT), parse_key(signer.public)
    verify(DOCUMENT, signature, key)
    for place in range(len(DOCUMENT)):
        changed = bytearray(DOCUMENT)
        changed[place] ^= 1
        with pytest.raises(ValueError, match="not by the key"):
            verify(bytes(changed), signature, key)
