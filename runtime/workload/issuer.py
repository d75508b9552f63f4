"""SVIDs of workloads from the node's own authority."""

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.serialization import Encoding

from initd.errors import FailedPrecondition, InvalidArgument, Unavailable
from runtime.identity import authority, svid
from runtime.identity.authority import KeyType, Pair
from runtime.identity.spiffe import SpiffeId
from runtime.workload.keys import KeySet, SigningKeys
from runtime.workload.material import Material
from runtime.workload.model import LIFE, Claims, Trust, X509Svid

log = logging.getLogger(__name__)

# When another takes its place, as parts of its life: not all at once, and before half of it by any
# count, since it says itself that it began ten minutes earlier.
DUE: Final = (0.3, 0.4)


class NodeIssuer:
    """Issues from the node's own authority. Knows nothing of which cells there are."""

    def __init__(
        self,
        material: Material,
        keys: SigningKeys,
        *,
        life: float = LIFE,
        now: Callable[[], float] = time.time,
    ) -> None:
        """Raises ValueError: what the node has does not belong together, or is not valid now."""
        self._node = material.node
        self._keys = keys
        self._life = life
        self._now = now
        self._authority = material.authority
        domain = authority.trust_domain(material.authority.certificate)
        if domain != self._node.trust_domain:
            raise ValueError(f"node's authority: is of {domain}, the node of {self._node}")
        chain = svid.certificates(material.authority.certificate)
        roots = svid.certificates(material.bundle)
        self._above = _der([one for one in chain if one not in roots])
        self._trust = Trust(
            domain=domain,
            bundles={domain: _der(roots), **dict(_federated(material.federated))},
            revoked=tuple(_readable(material.revoked)),
        )
        # What nobody could verify must not be given to workloads in the place of what they have.
        probe = self._issue("probe").certificate
        svid.verify(probe + material.authority.certificate, material.bundle, now=self._time())

    @property
    def trust(self) -> Trust:
        return self._trust

    def identity(self, cell: str) -> SpiffeId:
        """Raises FailedPrecondition: it can have none."""
        try:
            return SpiffeId(self._node.trust_domain, f"{self._node.path}/cell/{cell}")
        except ValueError as e:
            raise FailedPrecondition(f"cell: its name makes no SPIFFE ID ({e}); shorten it") from e

    def x509(self, cell: str) -> X509Svid:
        """A new one. Raises Unavailable or FailedPrecondition."""
        now = self._now()
        try:
            pair = self._issue(cell)
        except ValueError as e:
            raise Unavailable(f"node's authority: cannot issue now ({e}); try again") from e
        leaf = svid.certificates(pair.certificate)[0]
        key = svid.private_key(pair.key)
        expires = leaf.not_valid_after_utc.timestamp()
        return X509Svid(
            id=self.identity(cell),
            chain=_der([leaf]) + self._above,
            key=key.private_bytes(
                Encoding.DER,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            ),
            issued=now,
            due=self._due(now, expires),
            expires=expires,
        )

    def token(self, cell: str, audience: Sequence[str]) -> str:
        """A new JWT-SVID. Raises FailedPrecondition."""
        return self._keys.sign(self.identity(cell), audience)

    def verify(self, token: str, audience: str) -> Claims:
        """Raises InvalidArgument: the token is no valid one."""
        try:
            return self._keys.verify(token, audience, self._trust.domain)
        except ValueError as e:
            raise InvalidArgument(f"svid: {e}") from e

    def keys(self) -> KeySet:
        return self._keys.public()

    def goes_on(self, before: "NodeIssuer") -> bool:
        """Whether SVIDs of the issuer that was before it are as good as its own."""
        return (before._node, before._authority) == (self._node, self._authority)

    def _issue(self, cell: str) -> Pair:
        return authority.issue(
            self._authority,
            self.identity(cell),
            authority.make_key(KeyType.ECDSA_P256),
            validity=timedelta(seconds=self._life),
            now=self._time(),
        )

    def _time(self) -> datetime:
        return datetime.fromtimestamp(self._now(), UTC)

    def _due(self, issued: float, expires: float) -> float:
        if expires < issued + self._life - 1:
            # Cut off by the end of its authority: so would be any other.
            return expires
        first, last = DUE
        return issued + (first + (last - first) * os.urandom(1)[0] / 255) * (expires - issued)


def _federated(bundles: Mapping[str, bytes]) -> Iterator[tuple[str, bytes]]:
    for domain, pem in bundles.items():
        try:
            yield domain, _der(svid.certificates(pem))
        except (ValueError, UnsupportedAlgorithm, x509.InvalidVersion) as e:
            log.warning("bundle of %s: is left out: %s", domain, e)


def _readable(lists: Sequence[bytes]) -> Iterator[bytes]:
    for der in lists:
        try:
            x509.load_der_x509_crl(der)
        except (ValueError, UnsupportedAlgorithm, x509.InvalidVersion) as e:
            log.warning("revocation list: is left out, it cannot be read: %s", e)
        else:
            yield der


def _der(certificates: Sequence[x509.Certificate]) -> bytes:
    return b"".join(one.public_bytes(Encoding.DER) for one in certificates)
