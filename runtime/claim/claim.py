"""The claiming of a node: its keys, the secret, and the one moment in which it gets an identity."""

import json
import logging
import secrets
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from initd.errors import AlreadyExists, InvalidArgument
from runtime.claim import files
from runtime.claim.attempts import Attempts
from runtime.claim.model import Given
from runtime.durable import put
from runtime.identity import authority, fingerprint, requests, svid
from runtime.identity.authority import KeyType, Pair
from runtime.identity.fingerprint import Fingerprint
from runtime.identity.spiffe import SpiffeId
from runtime.identity.svid import Svid

log = logging.getLogger(__name__)

# Bytes of each thing that is given. Four gigabytes of policy are none.
MOST: Final = 256 * 1024

# What the certificate of an unclaimed node says of time: nothing (RFC 5280, 4.1.2.5). Its clock may
# be wrong, and so may the caller's.
_BEGINNING: Final = datetime(2000, 1, 1, tzinfo=UTC)
_END: Final = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)


class Claim:
    """Once made, it may be asked from several threads.

    Keys outlive a boot where `state` does. The secret is made once a boot: `secret` is a file that
    does not outlive it. `check_policy` raises ValueError for one that cannot be used in
    the node's trust domain.
    """

    def __init__(
        self,
        state: Path,
        secret: Path,
        check_policy: Callable[[bytes, str], None] | None = None,
    ) -> None:
        """Raises OSError."""
        self._state = state
        self._check_policy = check_policy or _check_json
        self._lock = threading.Lock()
        self._claimed = False
        self._keys = state / "claim"
        files.make_folder(state)
        files.make_folder(self._keys)
        self.key = _key(self._keys / "node.key")
        self._ca_key = _key(self._keys / "node-ca.key")
        self._request = requests.make(self.key)
        self._ca_request = requests.make(self._ca_key)
        of_key = fingerprint.of_key(requests.public_bytes(self._request))
        self._secret = secret
        known = files.keep(secret, lambda: secrets.token_bytes(fingerprint.SECRET))
        self.fingerprint = Fingerprint(of_key, known)
        self._attempts = Attempts(known)

    def begin(self, secret: bytes) -> tuple[bytes, bytes]:
        """The signing requests for the node and for its own authority."""
        with self._lock:
            self._admit(secret)
            return self._request, self._ca_request

    def claim(self, secret: bytes, given: Given) -> SpiffeId:
        """Give the node its identity. All refusals of this class leave it as it was."""
        with self._lock:
            self._admit(secret)
            identity, policy = self._checked(given)
            contents = {
                "node.crt": given.certificate_chain,
                "node.key": self.key,
                "ca.crt": given.trust_bundle,
            }
            if given.ca_certificate_chain:
                contents["node-ca.crt"] = given.ca_certificate_chain
                contents["node-ca.key"] = self._ca_key
            files.become(self._state, contents, policy)
            self._claimed = True
            self._forget()
        log.info("claimed: this node is %s", identity)
        return identity

    def certificate(self) -> bytes:
        """One for TLS, signed by the node's own key: PEM."""
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.hazmat.primitives.serialization import Encoding

        private = svid.private_key(self.key)
        assert isinstance(private, ec.EllipticCurvePrivateKey)
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, fingerprint.NAME)])
        names = x509.SubjectAlternativeName([x509.DNSName(fingerprint.NAME)])
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(private.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(_BEGINNING)
            .not_valid_after(_END)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(names, critical=False)
            .sign(private, hashes.SHA256())
            .public_bytes(Encoding.PEM)
        )

    def _forget(self) -> None:
        """What is of no more use. Left behind, it would do no harm."""
        with suppress(OSError):
            self._secret.unlink()
            shutil.rmtree(self._keys)

    def _admit(self, secret: bytes) -> None:
        self._attempts.check(secret)
        if self._claimed:
            raise AlreadyExists("node: is claimed already; call it as who may use its API")

    def _checked(self, given: Given) -> tuple[SpiffeId, bytes]:
        """Raises InvalidArgument unless the node can be what is given."""
        for field, content in zip(given._fields, given, strict=True):
            if len(content) > MOST:
                raise InvalidArgument(f"{field}: has {len(content)} bytes; {MOST} are the most")
        with _naming("certificate_chain"):
            now = _time(given.certificate_chain)
            own = svid.verify(given.certificate_chain, given.trust_bundle, now=now)
            svid.match_key(given.certificate_chain, self.key)
            if not own.id.below(svid.NODE):
                raise ValueError(f"{own.id} is no node; that is spiffe://TRUST-DOMAIN/node/NAME")
        if given.ca_certificate_chain:
            with _naming("ca_certificate_chain"):
                self._check_authority(given, own, now)
        if given.policy:
            with _naming("policy"):
                self._check_policy(given.policy, own.id.trust_domain)
        return own.id, given.policy

    def _check_authority(self, given: Given, own: Svid, now: datetime) -> None:
        """It is good for what it is for: an SVID of a workload. Raises ValueError."""
        signer = Pair(given.ca_certificate_chain, self._ca_key)
        workload = SpiffeId(own.id.trust_domain, f"{own.id.path}/cell/any")
        if (domain := authority.trust_domain(given.ca_certificate_chain)) != workload.trust_domain:
            raise ValueError(f"is for the trust domain {domain}, the node is {own.id}")
        key = authority.make_key(KeyType.ECDSA_P256)
        issued = authority.issue(signer, workload, key, validity=timedelta(hours=1), now=now)
        chain = issued.certificate + given.ca_certificate_chain
        svid.verify(chain, given.trust_bundle, now=now)


def _key(path: Path) -> bytes:
    """The one on file, or another where there is none or it is damaged: none is certified yet."""
    key = files.keep(path, _make_key)
    try:
        svid.private_key(key)
    except ValueError as e:
        log.warning("%s: %s; another is made", path, e)
        key = _make_key()
        put(path, key)
    return key


def _make_key() -> bytes:
    return authority.make_key(KeyType.ECDSA_P256)


def _time(chain: bytes) -> datetime:
    """When the certificate is looked at: now, or at its first moment if the clock is behind.

    A node without a clock of its own boots at the date of its image, and could never be claimed.
    """
    begins = max(one.not_valid_before_utc for one in svid.certificates(chain))
    now = datetime.now(UTC)
    if now < begins:
        log.warning(
            "clock: says %s, the certificate begins at %s; set it: until then callers are refused",
            f"{now:%Y-%m-%d %H:%M}",
            f"{begins:%Y-%m-%d %H:%M}",
        )
    return max(now, begins)


def _check_json(policy: bytes, _trust_domain: str) -> None:
    """Raises ValueError."""
    try:
        document = json.loads(policy)
    except RecursionError:
        raise ValueError("is nested too deep") from None
    if not isinstance(document, dict):
        raise ValueError("is not a JSON object")


@contextmanager
def _naming(field: str) -> Iterator[None]:
    try:
        yield
    except ValueError as e:
        raise InvalidArgument(f"{field}: {e}") from e
