"""`aer pki inspect`: what is in a file, for people and for programs."""

import json
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from aer import output
from aer.command import Call
from aer.errors import AerError
from runtime.identity import profile, requests, revocation, svid

if TYPE_CHECKING:
    from cryptography import x509

# What is said of one object: names and values, in the order in which people read them.
Facts = dict[str, Any]

_BLOCK: Final = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----.*?-----END \1-----", re.DOTALL)
_USAGES: Final = {
    "digital_signature": "digitalSignature",
    "content_commitment": "contentCommitment",
    "key_encipherment": "keyEncipherment",
    "data_encipherment": "dataEncipherment",
    "key_agreement": "keyAgreement",
    "key_cert_sign": "keyCertSign",
    "crl_sign": "cRLSign",
}
_CURVES: Final = {"secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521"}
_MAX_BYTES: Final = 16 << 20
_SHOWN_SERIALS: Final = 20


def inspect(call: Call) -> int:
    """Everything in the file, one after the other. With a bundle the exit status is the verdict."""
    data: bytes = call["file"].read_bytes()
    now = datetime.now(UTC)
    found = list(_objects(data, now))
    if not found:
        raise AerError(
            f"{call['file']}: holds no certificate, request, revocation list or key in PEM"
        )
    trusted = _trusted(call, data, now) if call["bundle"] else None
    if trusted is not None:
        found[0]["trusted"] = trusted
    if call["output"] == "json":
        print(json.dumps(found, indent=2, ensure_ascii=False))
    else:
        for index, facts in enumerate(found):
            print("\n" * (index > 0) + "\n".join(_lines(facts)))
    return 0 if trusted in (None, "yes") else 1


def _trusted(call: Call, data: bytes, now: datetime) -> str:
    crls = revocation.Revocations.parse(call["crl"].read_bytes()) if call["crl"] else None
    try:
        svid.verify(data, call["bundle"].read_bytes(), now=now, crls=crls)
    except ValueError as e:
        return f"no: {e}"
    return "yes"


def _objects(data: bytes, now: datetime) -> Iterator[Facts]:
    if len(data) > _MAX_BYTES:
        raise AerError(f"the file has {len(data)} bytes; at most {_MAX_BYTES}")
    for block in _BLOCK.finditer(data):
        describe = _KINDS.get(block[1].decode())
        if describe is not None:
            yield describe(block[0], now)


def _certificate(pem: bytes, now: datetime) -> Facts:
    return _facts_of(svid.certificates(pem)[0], now)


@svid.only_value_errors
def _facts_of(certificate: "x509.Certificate", now: datetime) -> Facts:
    from cryptography import x509

    constraints = profile.extension(certificate, x509.BasicConstraints)
    is_authority = constraints is not None and constraints.ca
    facts: Facts = {"object": "certificate", **_names(certificate)}
    facts["kind"] = _kind(certificate, facts["spiffe_id"], is_authority=is_authority)
    if constraints is not None and constraints.path_length is not None:
        facts["path_length"] = constraints.path_length
    facts |= _allowed(certificate)
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    facts |= {
        "not_before": start.isoformat(),
        "not_after": end.isoformat(),
        "state": _state(start, end, now),
        "subject": certificate.subject.rfc4514_string(),
        "issuer": certificate.issuer.rfc4514_string(),
        "serial": f"{certificate.serial_number:x}",
        "key": _key_text(certificate.public_key()),
        "signature": _signature_text(certificate),
        "key_usage": _usages(certificate),
        "purposes": _purposes(certificate),
        "sha256": svid.fingerprint(certificate),
        "verdict": _verdict(certificate, is_authority=is_authority),
    }
    return facts


def _names(certificate: "x509.Certificate") -> Facts:
    from cryptography import x509

    found = profile.extension(certificate, x509.SubjectAlternativeName)
    uris = found.get_values_for_type(x509.UniformResourceIdentifier) if found else []
    dns_names = found.get_values_for_type(x509.DNSName) if found else []
    return {"spiffe_id": ", ".join(uris), "dns_names": dns_names}


def _kind(certificate: "x509.Certificate", uri: str, *, is_authority: bool) -> str:
    if is_authority:
        node = profile.node_of(certificate)
        if node is not None:
            return f"authority of node {node}"
        return "root" if certificate.subject == certificate.issuer else "intermediate authority"
    for path in (svid.NODE, svid.PERSON, svid.TENANT):
        if path in uri:
            inside = path == svid.NODE and "/" in uri.partition(path)[2]
            return "workload" if inside else path.strip("/")
    return "leaf"


def _allowed(certificate: "x509.Certificate") -> Facts:
    """What a signer allows below it."""
    from cryptography import x509

    constraints = profile.extension(certificate, x509.NameConstraints)
    if constraints is None:
        return {}
    return {
        "allows": [_name_text(each) for each in constraints.permitted_subtrees or ()],
        "excludes": [_name_text(each) for each in constraints.excluded_subtrees or ()],
    }


def _name_text(name: "x509.GeneralName") -> str:
    kind = type(name).__name__
    short = {"UniformResourceIdentifier": "URI", "DNSName": "DNS", "IPAddress": "IP"}
    return f"{short.get(kind, kind)}:{name.value or '*'}"


def _state(start: datetime, end: datetime, now: datetime) -> str:
    if now < start:
        return "not valid yet"
    if now > end:
        return "expired"
    left = end - now
    if left.days:
        return f"{left.days} days left"
    return f"{left.seconds // 3600} h {left.seconds // 60 % 60} min left"


def _verdict(certificate: "x509.Certificate", *, is_authority: bool) -> str:
    """Of this certificate alone: who signed it is asked with --bundle."""
    try:
        if is_authority:
            profile.check_form(certificate)
        else:
            profile.check_leaf(certificate)
    except ValueError as e:
        return f"refused: {e}"
    return "an authority" if is_authority else "an SVID"


def _usages(certificate: "x509.Certificate") -> list[str]:
    from cryptography import x509

    usage = profile.extension(certificate, x509.KeyUsage)
    return [text for name, text in _USAGES.items() if usage is not None and getattr(usage, name)]


def _purposes(certificate: "x509.Certificate") -> list[str]:
    from cryptography import x509

    purposes = profile.extension(certificate, x509.ExtendedKeyUsage)
    return [purpose._name for purpose in purposes or ()]


def _key_text(key: object) -> str:
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    match key:
        case ec.EllipticCurvePublicKey() | ec.EllipticCurvePrivateKey():
            return f"ECDSA {_CURVES.get(key.curve.name, key.curve.name)}"
        case rsa.RSAPublicKey() | rsa.RSAPrivateKey():
            return f"RSA {key.key_size} bits"
        case ed25519.Ed25519PublicKey() | ed25519.Ed25519PrivateKey():
            return "Ed25519"
    return type(key).__name__


def _signature_text(signed: "x509.Certificate | x509.CertificateRevocationList") -> str:
    return signed.signature_algorithm_oid._name


def _request(pem: bytes, _now: datetime) -> Facts:
    from cryptography import x509

    request = requests.load(pem)
    try:
        requests.public_key(pem)
    except ValueError as e:
        verdict = f"refused: {e}"
    else:
        verdict = "its key may be certified; the names in it are wishes"
    try:
        found = request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        wishes = found.get_values_for_type(x509.UniformResourceIdentifier)
    except x509.ExtensionNotFound:
        wishes = []
    return {
        "object": "certificate signing request",
        "spiffe_id": ", ".join(wishes),
        "subject": request.subject.rfc4514_string(),
        "key": _key_text(request.public_key()),
        "key_sha256": svid.key_fingerprint(request.public_key()),
        "verdict": verdict,
    }


def _list(pem: bytes, now: datetime) -> Facts:
    (one,) = revocation.Revocations.parse(pem).lists
    until = one.crl.next_update_utc
    made = one.crl.last_update_utc
    return {
        "object": "revocation list",
        "issuer": one.crl.issuer.rfc4514_string(),
        "number": one.number,
        "not_before": made.isoformat(),
        "not_after": until.isoformat() if until else "",
        "state": "stale: its issuer promised a newer one" if one.stale(now) else "current",
        "signature": _signature_text(one.crl),
        "revoked": [
            {"serial": f"{entry.serial_number:x}", "on": entry.revocation_date_utc.isoformat()}
            for entry in one.crl
        ],
    }


def _private_key(pem: bytes, _now: datetime) -> Facts:
    return {"object": "private key", "key": _key_text(svid.private_key(pem))}


def _encrypted_key(_pem: bytes, _now: datetime) -> Facts:
    return {"object": "private key", "key": "under a passphrase"}


_KINDS: Final[dict[str, Callable[[bytes, datetime], Facts]]] = {
    "CERTIFICATE": _certificate,
    "CERTIFICATE REQUEST": _request,
    "X509 CRL": _list,
    "PRIVATE KEY": _private_key,
    "EC PRIVATE KEY": _private_key,
    "RSA PRIVATE KEY": _private_key,
    "ENCRYPTED PRIVATE KEY": _encrypted_key,
}

# How each fact is called for people. What is not here is not shown.
_LABELS: Final = {
    "kind": "kind",
    "dns_names": "DNS name",
    "number": "number",
    "valid": "valid",
    "state": "state",
    "path_length": "authorities below",
    "allows": "allows",
    "excludes": "excludes",
    "subject": "subject",
    "issuer": "issued by",
    "serial": "serial",
    "key": "key",
    "key_sha256": "SHA-256 of the key",
    "signature": "signature",
    "key_usage": "key usage",
    "purposes": "purposes",
    "sha256": "SHA-256",
    "revoked": "revoked",
    "verdict": "verdict",
    "trusted": "trusted",
}


def _lines(facts: Facts) -> Iterator[str]:
    head = facts["spiffe_id"] if facts.get("spiffe_id") else ""
    yield output.printable(f"{facts['object']}{f' of {head}' if head else ''}")
    shown = dict(facts)
    if "not_before" in facts:
        shown["valid"] = f"{_short(facts['not_before'])} to {_short(facts['not_after'])} UTC"
    for name, label in _LABELS.items():
        if shown.get(name) not in (None, "", []):
            first, *more = _text(name, shown[name])
            yield f"  {label:<20}{output.printable(first)}"
            yield from (f"  {'':<20}{output.printable(line)}" for line in more)


def _text(name: str, value: Any) -> list[str]:
    if name == "revoked":
        lines = [f"{entry['serial']} on {_short(entry['on'])}" for entry in value[:_SHOWN_SERIALS]]
        more = len(value) - _SHOWN_SERIALS
        return lines + ([f"and {more} more: --output json"] if more > 0 else [])
    if isinstance(value, list):
        return [", ".join(map(str, value))]
    return [str(value)]


def _short(time: str) -> str:
    return time[:16].replace("T", " ")
