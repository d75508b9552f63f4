"""The Delegated Identity API of a SPIRE agent, in this process.

A fake, because SPIRE is a program in Go that is not among what the tests can install. It answers
as SPIRE's agent does (pkg/agent/api/delegatedidentity/v1/service.go): all that there is first, then
all of it at each change, and without identities where no entry matches. Certificates, keys and
tokens are real, and made by none of what is tested but `runtime.identity`.
"""

import json
import queue
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent import futures
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import grpc
import jwt
from aurae.spire import delegatedidentity_pb2 as pb
from aurae.spire import delegatedidentity_pb2_grpc, types_pb2
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from grpc import StatusCode
from jwt.algorithms import ECAlgorithm

from runtime.identity.authority import Pair
from runtime.identity.spiffe import SpiffeId
from tests.unit.runtime.certificates import forge, make_authority

DER: Final = serialization.Encoding.DER
OTHER: Final = make_authority("other.org")


def der(pem: bytes) -> list[bytes]:
    return [one.public_bytes(DER) for one in x509.load_pem_x509_certificates(pem)]


def parts(spiffe_id: str) -> types_pb2.SPIFFEID:
    parsed = SpiffeId.parse(spiffe_id)
    return types_pb2.SPIFFEID(trust_domain=parsed.trust_domain, path=parsed.path)


def with_key(own: Pair, spiffe_id: str, hint: str = "") -> pb.X509SVIDWithKey:
    key = serialization.load_pem_private_key(own.key, None).private_bytes(
        DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    one = types_pb2.X509SVID(cert_chain=der(own.certificate), id=parts(spiffe_id), hint=hint)
    return pb.X509SVIDWithKey(x509_svid=one, x509_svid_key=key)


class Spire(delegatedidentity_pb2_grpc.DelegatedIdentityServicer):
    """Entries are SPIFFE IDs by selector, each with its hint."""

    def __init__(self, entries: Mapping[str, Mapping[str, str]] | None = None) -> None:
        self.root = make_authority()
        self.delegates = True
        """Whether the caller is among those who may ask."""
        self.open: Counter[str] = Counter()
        """Subscriptions by selector."""
        self.asked: Counter[str] = Counter()
        self._answers: dict[str, pb.SubscribeToX509SVIDsResponse] = {}
        self._listening: list[queue.Queue[bool]] = []
        self._entries = {one: dict(ids) for one, ids in (entries or {}).items()}
        self.jwt_key = ec.generate_private_key(ec.SECP256R1())
        self.federates: list[str] = []
        for selector in self._entries:
            self.rotate(selector)

    def enter(self, selector: str, ids: Mapping[str, str]) -> None:
        """An entry is made, replaced, or removed."""
        self._entries[selector] = dict(ids)
        self.rotate(selector)

    def rotate(self, selector: str) -> list[pb.X509SVIDWithKey]:
        """New SVIDs."""
        svids = [
            with_key(forge(self.root, one), one, hint)
            for one, hint in self._entries[selector].items()
        ]
        self.push(selector, svids)
        return svids

    def push(self, selector: str, svids: Sequence[pb.X509SVIDWithKey]) -> None:
        self._answers[selector] = pb.SubscribeToX509SVIDsResponse(
            x509_svids=svids, federates_with=self.federates
        )
        self.tell()

    def tell(self) -> None:
        for one in self._listening:
            one.put(True)

    def SubscribeToX509SVIDs(self, request: Any, context: Any) -> Iterator[Any]:  # noqa: N802
        (selector,) = (f"{one.type}:{one.value}" for one in request.selectors)
        self.asked[selector] += 1
        self.open[selector] += 1
        none = pb.SubscribeToX509SVIDsResponse()
        try:
            yield from self._following(context, lambda: self._answers.get(selector, none))
        finally:
            self.open[selector] -= 1

    def SubscribeToX509Bundles(self, request: Any, context: Any) -> Iterator[Any]:  # noqa: N802
        yield from self._following(
            context,
            lambda: pb.SubscribeToX509BundlesResponse(
                ca_certificates={
                    "spiffe://example.org": b"".join(der(self.root.certificate)),
                    "spiffe://other.org": b"".join(der(OTHER.certificate)),
                    "spiffe://broken.org": b"broken",
                }
            ),
        )

    def SubscribeToJWTBundles(self, request: Any, context: Any) -> Iterator[Any]:  # noqa: N802
        public = ECAlgorithm.to_jwk(self.jwt_key.public_key(), as_dict=True)
        keys = [{"kty": "RSA", "kid": "r", "n": "AQAB", "e": "AQAB"}, {**public, "kid": "k"}]
        sets = {"spiffe://example.org": json.dumps({"keys": keys}).encode()}
        sets["spiffe://other.org"] = b'{"keys": []}'
        yield from self._following(context, lambda: pb.SubscribeToJWTBundlesResponse(bundles=sets))

    def FetchJWTSVIDs(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._check(context)
        (selector,) = (f"{one.type}:{one.value}" for one in request.selectors)
        ids = self._entries.get(selector)
        if not ids:
            context.abort(StatusCode.PERMISSION_DENIED, "no identity issued")
        return pb.FetchJWTSVIDsResponse(
            svids=[
                types_pb2.JWTSVID(
                    token=self.token(one, list(request.audience)), id=parts(one), hint=hint
                )
                # As SPIRE does: those that are no workload's are left out of X.509-SVIDs only.
                for one, hint in {**(ids or {}), "spiffe://example.org/admin": ""}.items()
            ]
        )

    def token(self, spiffe_id: str, audience: Sequence[str]) -> str:
        now = int(time.time())
        claims = {"sub": spiffe_id, "aud": audience, "iat": now, "exp": now + 300}
        return jwt.encode(claims, self.jwt_key, "ES256", {"kid": "k"})

    def _check(self, context: Any) -> None:
        if not self.delegates:
            told = "caller not configured as an authorized delegate"
            context.abort(StatusCode.PERMISSION_DENIED, told)

    def _following(self, context: Any, make: Callable[[], Any]) -> Iterator[Any]:
        self._check(context)
        changes: queue.Queue[bool] = queue.Queue()
        context.add_callback(lambda: changes.put(False))
        self._listening.append(changes)
        last = None
        try:
            while True:
                if (now := make()) != last:
                    yield now
                    last = now
                if not changes.get():
                    return
        finally:
            self._listening.remove(changes)


@contextmanager
def serving(one: Spire, socket: Path) -> Iterator[None]:
    server = grpc.server(futures.ThreadPoolExecutor(16))
    delegatedidentity_pb2_grpc.add_DelegatedIdentityServicer_to_server(one, server)
    server.add_insecure_port(f"unix:{socket}")
    server.start()
    try:
        yield
    finally:
        server.stop(None).wait()
