"""What changes the node's identity and trust: to its end, and never so that nobody may mend it."""

import asyncio
import threading
from pathlib import Path

import pytest

from initd.errors import FailedPrecondition
from runtime import durable
from runtime.identity.authority import Pair
from runtime.trust import custody as custodies
from runtime.trust.custody import Custody
from runtime.trust.files import Files
from runtime.trust.trust import Trust
from tests.unit.runtime.certificates import issue, make_authority, node_svid, revoke, sign, write
from tests.unit.runtime.node import DEADLINE


@pytest.fixture(scope="module")
def signer() -> Pair:
    return make_authority()


@pytest.fixture
def files(tmp_path: Path, signer: Pair) -> Files:
    folder = write(tmp_path / "credentials", node_svid(signer), signer.certificate)
    return Files(tmp_path / "state" / "identity", folder)


def test_a_change_whose_caller_goes_away_is_taken_before_the_next_begins(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = {name: make_authority(name).certificate for name in ("a.org", "b.org")}
    writing, go_on, at_once = threading.Event(), threading.Event(), []
    put = durable.put

    def slow(path: Path, content: bytes) -> None:
        at_once.append(path.stem)
        writing.set()
        assert go_on.wait(DEADLINE)
        put(path, content)

    monkeypatch.setattr(custodies, "put", slow)
    trust = Trust(files.load()[0])
    custody = Custody(files, trust)

    async def change() -> None:
        async with asyncio.TaskGroup() as tasks:
            first, second = (
                tasks.create_task(custody.set_trust(name, roots, None, remove=False))
                for name, roots in others.items()
            )
            await asyncio.to_thread(writing.wait, DEADLINE)
            first.cancel()
            await asyncio.sleep(0.1)
            assert at_once == ["a.org"]
            go_on.set()
            await asyncio.wait([first])
            assert trust.current is not None
            assert "a.org" in trust.current.bundles
        assert first.cancelled()
        assert {*others} < {*second.result().bundles}

    asyncio.run(change())


def test_files_that_are_written_at_once_are_each_whole_and_none_is_left(tmp_path: Path) -> None:
    path = tmp_path / "file"
    contents = [bytes([number]) * 100_000 for number in range(8)]
    threads = [threading.Thread(target=durable.put, args=(path, one)) for one in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_bytes() in contents
    assert [*tmp_path.iterdir()] == [path]


def test_what_a_crash_has_left_is_removed(files: Files) -> None:
    files.state.mkdir(parents=True)
    (files.state / ".node.crt.1-0.partial").touch()
    Custody(files, Trust())
    assert [*files.state.iterdir()] == []


def test_a_certificate_of_a_trust_domain_without_an_admin_is_refused(files: Files) -> None:
    other = make_authority("other.org")
    admins = {"example.org"}
    trust = Trust(files.load()[0])
    custody = Custody(files, trust, "", admins.__contains__)

    async def give() -> str:
        asked = await custody.request("spiffe://other.org/node/one", "")
        given = await custody.set_certificate(sign(other, asked.pem), other.certificate)
        return given.identity.trust_domain

    with pytest.raises(FailedPrecondition, match=r"is of other\.org, and the node's policy makes"):
        asyncio.run(give())
    assert trust.domain() == "example.org"
    admins.add("other.org")
    assert asyncio.run(give()) == "other.org"


def test_trust_by_which_the_caller_would_be_refused_is_refused(files: Files, signer: Pair) -> None:
    trust = Trust(files.load()[0])
    custody = Custody(files, trust)
    other = make_authority("other.org")
    ann = issue(signer, "spiffe://example.org/person/ann")
    eve = issue(other, "spiffe://other.org/person/eve")

    def change(caller: Pair | None, **asked: object) -> None:
        given = {"trust_domain": "", "roots": b"", "crls": None, "remove": False} | asked
        chain = b"" if caller is None else caller.certificate
        asyncio.run(custody.set_trust(**given, caller=chain))  # type: ignore[arg-type]

    change(ann, trust_domain="other.org", roots=other.certificate)
    for caller, asked in (
        (eve, {"trust_domain": "other.org", "remove": True}),
        (eve, {"trust_domain": "other.org", "roots": make_authority("other.org").certificate}),
        (ann, {"crls": revoke(signer, ann)}),
    ):
        before = trust.current
        with pytest.raises(FailedPrecondition, match="calls, and would be refused from then on"):
            change(caller, **asked)
        assert trust.current == before == files.load()[0]
    change(eve, crls=revoke(signer, ann))
    change(None, trust_domain="other.org", remove=True)
