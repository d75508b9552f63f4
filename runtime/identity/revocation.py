"""Certificate revocation lists (RFC 5280, section 5): which certificates count no more.

See docs/decisions/0090-revocation.md for what a list that is missing or stale means.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Final, Self

from runtime.identity import profile

if TYPE_CHECKING:
    from cryptography import x509

# 100,000 entries take 4 MiB. More than that belongs into shorter lives.
MAX_BYTES: Final = 8 << 20
MAX_LISTS: Final = 64

_PEM: Final = re.compile(rb"-----BEGIN X509 CRL-----.*?-----END X509 CRL-----", re.DOTALL)


@dataclass(frozen=True, slots=True)
class List:
    """One list. Who issued it is decided by signature, as several authorities may share a name."""

    crl: "x509.CertificateRevocationList" = field(repr=False, compare=False)
    serials: frozenset[int]

    @property
    def number(self) -> int:
        """Of two lists of one authority the higher one is the newer. 0 where it has none."""
        from cryptography import x509

        try:
            return self.crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
        except x509.ExtensionNotFound:
            return 0

    def stale(self, now: datetime) -> bool:
        """Whether its issuer promised a newer one by now."""
        until = self.crl.next_update_utc
        return until is not None and now > until

    def signed_by(self, signer: "x509.Certificate") -> bool:
        """Whether it is of the authority `signer`, which may sign lists."""
        from cryptography import x509
        from cryptography.exceptions import UnsupportedAlgorithm

        usage = profile.extension(signer, x509.KeyUsage)
        if self.crl.issuer != signer.subject or (usage is not None and not usage.crl_sign):
            return False
        try:
            return self.crl.is_signature_valid(signer.public_key())  # type: ignore[arg-type]
        except (ValueError, TypeError, UnsupportedAlgorithm):
            return False


@dataclass(frozen=True, slots=True)
class Revocations:
    """All lists that a validator has."""

    lists: tuple[List, ...] = ()

    @classmethod
    def parse(cls, data: bytes, signers: Iterable["x509.Certificate"] | None = None) -> Self:
        """The lists in `data`: one DER, or any number of PEM; empty is none at all.

        With `signers` each list must be signed by one of them, so that a damaged or foreign list is
        noticed when it comes. Whatever the bytes are, what is wrong is a ValueError.
        """
        try:
            lists = tuple(map(_list, _parts(data)))
        except ValueError:
            raise
        # cryptography has its own kinds of errors for some damages, and no common base for them.
        except Exception as e:
            raise ValueError(f"revocation list: cannot be read: {e}") from e
        if signers is not None:
            known = tuple(signers)
            for each in lists:
                if not any(each.signed_by(signer) for signer in known):
                    raise ValueError("revocation list: not signed by an authority of the bundle")
        return cls(lists)

    def check(self, certificate: "x509.Certificate", issuer: "x509.Certificate") -> None:
        """Raises ValueError if `issuer` has revoked `certificate`.

        A list says it for good: also one that is stale, or of a time that this clock has not seen.
        """
        for each in self.lists:
            if certificate.serial_number in each.serials and each.signed_by(issuer):
                entry = each.crl.get_revoked_certificate_by_serial_number(certificate.serial_number)
                since = f" on {profile.date(entry.revocation_date_utc)}" if entry else ""
                raise ValueError(f"certificate {certificate.serial_number:x}: revoked{since}")

    def stale(self, now: datetime) -> bool:
        """Whether one of the lists should have been replaced: worth a warning."""
        return any(each.stale(now) for each in self.lists)


def _parts(data: bytes) -> Iterator["x509.CertificateRevocationList"]:
    from cryptography import x509

    if len(data) > MAX_BYTES:
        raise ValueError(f"revocation list: has {len(data)} bytes; at most {MAX_BYTES}")
    if data.startswith(b"\x30"):
        yield x509.load_der_x509_crl(data)
        return
    found = _PEM.findall(data)
    if len(found) > MAX_LISTS:
        raise ValueError(f"revocation list: {len(found)} of them; at most {MAX_LISTS}")
    if not found and data.strip():
        raise ValueError("revocation list: neither PEM nor DER")
    for pem in found:
        yield x509.load_pem_x509_crl(pem)


def _list(crl: "x509.CertificateRevocationList") -> List:
    """Raises ValueError for a list that is not whole or not simply that of its own issuer."""
    from cryptography import x509

    for each in crl.extensions:
        # Deltas and lists for others say so in critical extensions.
        if each.critical and not isinstance(each.value, x509.CRLNumber):
            raise ValueError(
                f"revocation list: has the critical extension {each.oid.dotted_string}; only "
                "complete lists of an authority's own are read"
            )
    crl.last_update_utc, crl.next_update_utc  # noqa: B018  raises if it is no date
    return List(crl, frozenset(entry.serial_number for entry in crl))
