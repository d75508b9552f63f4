"""Whether material is usable as a whole. It loads cryptography: not before the API answers."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, TypeVar, cast

from runtime.identity import svid
from runtime.identity.spiffe import SpiffeId
from runtime.trust import material as materials
from runtime.trust.material import REMEDY, Material, Unusable

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPublicKeyTypes

_CRL_END: Final = b"-----END X509 CRL-----"

_T = TypeVar("_T")


def verify(material: Material, now: datetime | None = None) -> bool:
    """Whether callers will refuse the certificate at the node's present time: it is expired, or
    not yet valid. Raises Unusable for all else that is wrong."""
    names = material.names
    leaf = _try(
        lambda: svid.certificates(material.certificate)[0],
        f"{names.certificate}: is no PEM certificate, or damaged; {REMEDY}",
    )
    _try(
        lambda: svid.private_key(material.key),
        f"{names.key}: is no unencrypted PEM key, or damaged; {REMEDY}",
    )
    _try(
        lambda: svid.match_key(material.certificate, material.key),
        f"{names.key}: is not the key of {names.certificate}; {REMEDY}",
    )
    _try(
        lambda: svid.certificates(material.bundle),
        f"{names.bundle}: holds no PEM certificates; {REMEDY}",
    )
    if materials.identity(material.certificate, names.certificate) != material.identity:
        raise Unusable(f"{names.certificate}: is not of {material.identity}; {REMEDY}")
    # A clock that is wrong at boot must not keep the API away for good: time may be mended.
    times = (now or datetime.now(UTC), leaf.not_valid_before_utc, leaf.not_valid_after_utc)
    faults = [_fault(material, time) for time in times]
    if all(faults):
        raise Unusable(
            f"{names.certificate}: {names.bundle} does not vouch for it ({faults[0]}); give the "
            "node an SVID and the bundle of one trust domain"
        )
    return bool(faults[0])


def _fault(material: Material, time: datetime) -> str:
    try:
        svid.verify(material.certificate, material.bundle, now=time)
    except ValueError as e:
        return str(e)
    return ""


def verify_bundle(trust_domain: str, bundle: bytes, name: str) -> None:
    """Raises Unusable unless these can be the roots of the trust domain."""
    for root in _try(lambda: svid.certificates(bundle), f"{name}: holds no PEM certificates"):
        own = _try(lambda: _trust_domain(root), f"{name}: {{}}")  # noqa: B023 - called at once
        if own not in ("", trust_domain):
            raise Unusable(f"{name}: has a root of {own}, not of {trust_domain}")


def verify_crls(crls: bytes, name: str) -> None:
    """Raises Unusable unless these are revocation lists."""
    _try(lambda: _crls(crls), f"{name}: holds something that is no revocation list in PEM")


def verify_peer(chain: bytes, bundle: bytes, crls: bytes) -> svid.Svid:
    """Whose certificate the chain is, valid now. Raises ValueError saying what is wrong."""
    found = svid.verify(chain, bundle)
    signers = [*svid.certificates(chain)[1:], *svid.certificates(bundle)]
    for one in svid.certificates(chain):
        for crl in _crls(crls):
            if crl.issuer != one.issuer:
                continue
            if crl.get_revoked_certificate_by_serial_number(one.serial_number) is None:
                continue
            if any(crl.is_signature_valid(_key(s)) for s in signers if s.subject == crl.issuer):
                raise ValueError(f"certificate of {found.id}: is revoked")
    return found


def load() -> None:
    """Import what verifying needs, which takes long."""
    import cryptography.x509  # noqa: F401


def _crls(pem: bytes) -> "list[x509.CertificateRevocationList]":
    from cryptography import x509

    blocks = pem.split(_CRL_END)[:-1]
    return [x509.load_pem_x509_crl(block + _CRL_END) for block in blocks]


def _key(certificate: "x509.Certificate") -> "CertificateIssuerPublicKeyTypes":
    return cast("CertificateIssuerPublicKeyTypes", certificate.public_key())


def _trust_domain(root: "x509.Certificate") -> str:
    """The trust domain that a root names, if it does. Raises ValueError: it names none properly."""
    from cryptography import x509

    try:
        names = root.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ""
    found = [SpiffeId.parse(u) for u in names.get_values_for_type(x509.UniformResourceIdentifier)]
    return found[0].trust_domain if found else ""


def _try(attempt: Callable[[], _T], message: str) -> _T:
    """What `attempt` returns; its ValueError becomes Unusable with `message`."""
    try:
        return attempt()
    except ValueError as e:
        raise Unusable(message.format(e)) from e
