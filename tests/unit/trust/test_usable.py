"""Whatever the files are, they are an error in the log and no end of the API."""

import asyncio
import errno
import logging
import random
import ssl
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from aurae.spiffe import workload_pb2

from runtime.observe.wakeups import Wakeups
from runtime.trust import agent, files, usable
from runtime.trust.agent import Agent
from runtime.trust.files import Files
from runtime.trust.material import Material, Unusable
from runtime.trust.trust import Trust
from tests.unit.runtime.certificates import make_authority, node_svid, write

# Object identifiers as they stand in a certificate: a kind of key, and a curve.
KEY_TYPE = bytes.fromhex("06072a8648ce3d0201")
CURVE = bytes.fromhex("06082a8648ce3d030107")
FLIPS = 400


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    signer = make_authority()
    return write(tmp_path / "credentials", node_svid(signer), signer.certificate)


def altered(certificate: bytes, change: Callable[[bytes], bytes]) -> bytes:
    der = ssl.PEM_cert_to_DER_cert(certificate.decode())
    return ssl.DER_cert_to_PEM_cert(change(der)).encode()


def unknown(identifier: bytes) -> Callable[[bytes], bytes]:
    return lambda der: der.replace(identifier, identifier[:-1] + b"\x7f", 1)


@pytest.mark.parametrize("identifier", [KEY_TYPE, CURVE])
def test_a_key_of_an_unknown_kind_is_unusable(folder: Path, identifier: bytes) -> None:
    path = folder / "aurae.node.crt"
    path.write_bytes(altered(path.read_bytes(), unknown(identifier)))
    with pytest.raises(Unusable, match=r"aurae\.node"):
        Files(folder.parent / "identity", folder).load()


def test_whichever_bit_of_a_certificate_is_another_nothing_but_unusable_comes_of_it(
    folder: Path,
) -> None:
    found = Files(folder.parent / "identity", folder).read()
    chance = random.Random(91)

    def flip(der: bytes) -> bytes:
        at, bit = chance.randrange(len(der)), chance.randrange(8)
        return der[:at] + bytes([der[at] ^ 1 << bit]) + der[at + 1 :]

    for _ in range(FLIPS):
        with suppress(Unusable):
            usable.verify(found._replace(certificate=altered(found.certificate, flip)))
        roots = {found.identity.trust_domain: altered(found.bundle, flip)}
        with suppress(Unusable):
            usable.verify(found._replace(bundles=roots))


def test_what_nobody_thought_of_is_told_and_what_is_there_is_kept(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    followed = Files(folder.parent / "identity", folder)
    trust = Trust(followed.read())
    before = trust.current

    def fail(_: Material) -> tuple[Material, bool]:
        raise RuntimeError("a surprise")

    monkeypatch.setattr(files, "_usable", fail)
    monkeypatch.setattr(agent, "parse", lambda *_: fail(trust.current))  # type: ignore[arg-type]

    async def look() -> None:
        await followed._start(trust)
        await followed._follow(trust)
        await followed._follow(trust)
        await Agent("unix:/nowhere")._take(trust, workload_pb2.X509SVIDResponse())

    with caplog.at_level(logging.ERROR):
        asyncio.run(look())
    assert trust.current is before
    assert len(caplog.records) == 3
    assert all(record.exc_info for record in caplog.records)


def test_without_watches_the_files_are_followed_no_more_but_the_api_goes_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Wakeups, "on", full)
    followed, trust = Files(folder.parent / "identity", folder), Trust()

    async def run() -> None:
        known = asyncio.Event()
        trust.listen(lambda _: known.set())
        with Wakeups() as wakeups:
            async with asyncio.TaskGroup() as tasks:
                task = tasks.create_task(followed.run(trust, wakeups))
                await known.wait()
                task.cancel()

    with caplog.at_level(logging.ERROR):
        asyncio.run(asyncio.wait_for(run(), 10))
    told = [line for line in caplog.messages if "cannot be watched" in line]
    assert told
    assert len(told) == len(set(told))
