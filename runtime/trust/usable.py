"""Whether material is usable as a whole. It loads cryptography: not before the API answers."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import TypeVar

from runtime.identity import svid
from runtime.identity.bundles import Bundle
from runtime.identity.revocation import Revocations
from runtime.trust import material as materials
from runtime.trust.material import REMEDY, Material, Unusable

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
    begins, ends = _try(
        lambda: (leaf.not_valid_before_utc, leaf.not_valid_after_utc),
        f"{names.certificate}: has dates that are none, or is damaged; {REMEDY}",
    )
    times = (now or datetime.now(UTC), begins, ends)
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


def verify_bundle(trust_domain: str, bundle: bytes) -> None:
    """Raises Unusable unless these can be the roots of the trust domain."""
    try:
        Bundle.from_pem(trust_domain, bundle)
    except ValueError as e:
        raise Unusable(f"bundle of {trust_domain}: cannot be used: {e}") from e


def parse_crls(crls: bytes) -> Revocations:
    """Raises Unusable."""
    try:
        return Revocations.parse(crls)
    except ValueError as e:
        raise Unusable(f"revocation lists: cannot be used: {e}") from e


def load() -> None:
    """Import what verifying needs, which takes long."""
    import cryptography.x509  # noqa: F401


def _try(attempt: Callable[[], _T], message: str) -> _T:
    """What `attempt` returns; its ValueError becomes Unusable with `message`."""
    try:
        return attempt()
    except ValueError as e:
        raise Unusable(message.format(e)) from e
