"""What callers present costs the node little, however much it is."""

import asyncio
from unittest.mock import Mock

import pytest

from initd.errors import Unauthenticated
from runtime.identity.authority import Pair
from runtime.identity.spiffe import SpiffeId
from runtime.server import authentication, callers
from runtime.server.authentication import Authenticator
from runtime.server.callers import Callers
from runtime.trust.material import Material, Names
from runtime.trust.trust import Trust
from tests.unit.runtime.certificates import issue, make_authority, node_svid

PEER = "ipv4:192.0.2.1:1000"


@pytest.fixture(scope="module")
def signer() -> Pair:
    return make_authority()


@pytest.fixture
def authenticator(signer: Pair) -> Authenticator:
    own = node_svid(signer)
    roots = {"example.org": signer.certificate}
    found = Material(
        SpiffeId.parse("spiffe://example.org/node/one"),
        own.certificate,
        own.key,
        roots,
        b"",
        "here",
        Names("certificate", "key", "roots"),
    )
    return Authenticator(Trust(found))


def presented(caller: Pair, *others: bytes) -> dict[str, list[bytes]]:
    return {
        "transport_security_type": [b"ssl"],
        "x509_pem_cert": [caller.certificate],
        "x509_pem_cert_chain": [b"".join(others)],
    }


def test_a_chain_that_is_padded_is_refused(authenticator: Authenticator, signer: Pair) -> None:
    ann = issue(signer, "spiffe://example.org/person/ann")
    for others in ([signer.certificate] * 10, [b" " * 40_000]):
        with pytest.raises(Unauthenticated, match="its chain has"):
            asyncio.run(authenticator.authenticate(PEER, presented(ann, *others)))
    assert not authenticator._known


def test_many_padded_chains_are_kept_up_to_a_bound_of_bytes(
    authenticator: Authenticator, signer: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(authentication, "MOST_BYTES", 100_000)
    monkeypatch.setattr(callers, "MOST_BYTES", 100_000)
    known = Callers(authenticator, Mock())
    ann = issue(signer, "spiffe://example.org/person/ann")

    async def call() -> None:
        for number in range(40):
            given = presented(ann, b" " * (10_000 + number))
            peer = f"{PEER}{number}"
            caller = await known.check(peer, given)
            assert known.again(peer, given) is caller
            assert known.again(peer, presented(ann)) is None

    asyncio.run(call())
    for kept in (authenticator._known.values(), (k.caller.identity for k in known._kept.values())):
        assert 0 < sum(len(one.chain) for one in kept if one is not None) < 120_000
    assert all(len(key) == 32 for key in authenticator._known)
