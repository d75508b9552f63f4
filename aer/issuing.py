"""What `aer pki` does with the authority's key: issue, sign, renew, revoke."""

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from aer import output
from aer.command import Call
from aer.errors import AerError, UsageError
from aer.folder import Folder
from runtime.identity import authority, profile, requests, store, svid
from runtime.identity.authority import KeyType, Pair, Reason, Revoked
from runtime.identity.revocation import Revocations
from runtime.identity.spiffe import SCHEME, SpiffeId

if TYPE_CHECKING:
    from cryptography import x509


def init(call: Call) -> int:
    folder = Folder.of(call)
    files = folder.ca
    kept = files.leftover_key()
    key = authority.make_key(KeyType(call["key_type"])) if kept is None else folder.unlock(kept)
    if kept is None:
        locked = call["encrypt"] or folder.passphrase_file is not None
        kept = folder.lock(key) if locked else key
    pair = authority.make_authority(call["trust_domain"], key, validity=_validity(call))
    files.write(Pair(pair.certificate, kept))
    print(f"spiffe://{call['trust_domain']}: {files.certificate}, {files.key}")
    return 0


def issue_node(call: Call) -> int:
    folder = Folder.of(call)
    spiffe_id = folder.spiffe_id(svid.NODE + call["name"])
    return _issue(call, folder, spiffe_id, "node", _dns_name(call, spiffe_id, call["name"]))


def issue_person(call: Call) -> int:
    folder = Folder.of(call)
    return _issue(call, folder, folder.spiffe_id(svid.PERSON + call["name"]), "person", None)


def issue_tenant(call: Call) -> int:
    folder = Folder.of(call)
    return _issue(call, folder, folder.spiffe_id(svid.TENANT + call["name"]), "tenant", None)


def issue_node_ca(call: Call) -> int:
    folder = Folder.of(call)
    signer = folder.authority()
    files = folder.pair("node", f"{call['name']}.ca")
    key = files.leftover_key() or authority.make_key(KeyType(call["key_type"]))
    pair = authority.make_intermediate(signer, key, call["name"], validity=_validity(call))
    files.write(pair)
    own = folder.spiffe_id(svid.NODE + call["name"])
    print(f"{own}/…: {files.certificate}, {files.key}, {_until(pair.certificate)}")
    return 0


def sign(call: Call) -> int:
    """A certificate for a key that is elsewhere. Nothing but the key is taken from the request."""
    folder = Folder.of(call)
    wanted = [name for name in ("id", "node", "node_ca") if call[name] is not None]
    if len(wanted) != 1:
        raise UsageError("say for whom, in one way: --id, --node or --node-ca")
    if call["dns"] and not call["node"]:
        raise UsageError("--dns is for nodes: their clients check it", "leave it out")
    public = requests.public_key(call["request"].read_bytes())
    signer, validity = folder.authority(), _validity(call)
    if call["node_ca"]:
        pem = authority.certify_intermediate(signer, public, call["node_ca"], validity=validity)
    else:
        spiffe_id = _wanted(folder, call)
        dns_name = _dns_name(call, spiffe_id, call["node"]) if call["node"] else None
        pem = authority.certify(signer, spiffe_id, public, dns_name=dns_name, validity=validity)
    if call["to"] is None:
        print(pem.decode(), end="")
    else:
        store.create(call["to"], pem, 0o644)
        print(f"{call['to']}: {_until(pem)}")
    return 0


def renew(call: Call) -> int:
    """The same certificate with other dates, in the place of the old one."""
    folder = Folder.of(call)
    file: Path = call["file"]
    if file.suffix != ".crt":
        raise UsageError(f"{file}: is no certificate's file; those end in .crt")
    files = store.PairFiles.at(file.with_suffix(""))
    files.settle()
    old, signer = svid.certificates(file.read_bytes())[0], folder.authority()
    if file.resolve() == folder.ca.certificate.resolve():
        return _renew_authority(call, folder, signer)
    _check_own(folder, old, signer)
    key = _renewed_key(files, new=call["new_key"])
    public = svid.private_key(key).public_key() if key is not None else old.public_key()
    node, validity = profile.node_of(old), _renewed_validity(call, old)
    if node is not None:
        pem = authority.certify_intermediate(signer, public, node, validity=validity)
    else:
        spiffe_id, dns_name = profile.names(old)
        pem = authority.certify(signer, spiffe_id, public, dns_name=dns_name, validity=validity)
    if key is None:
        store.replace(file, pem, 0o644)
    else:
        files.replace(Pair(pem, key))
    print(f"{file}: {_until(pem)}{', with a new key' if call['new_key'] else ''}")
    return 0


def revoke(call: Call) -> int:
    """Write the next revocation list, with one certificate more, or just newer."""
    folder = Folder.of(call)
    signer = folder.authority()
    reason = Reason(call["reason"])
    revoked = [Revoked(serial, reason) for serial in call["serial"] or ()]
    if call["file"] is not None:
        certificate = svid.certificates(call["file"].read_bytes())[0]
        _check_issued(certificate, signer)
        revoked.append(Revoked(certificate.serial_number, reason))
    before = folder.crl.read_bytes() if folder.crl.exists() else None
    pem = authority.revoke(signer, revoked, before=before, validity=_validity(call))
    folder.write_crl(pem)
    (made,) = Revocations.parse(pem).lists
    print(
        f"{folder.crl}: number {made.number}, {len(made.serials)} revoked, a newer one due within "
        f"{call['validity'] / 86400:g} days"
    )
    return 0


def _renew_authority(call: Call, folder: Folder, signer: Pair) -> int:
    """What it signed stays valid: name and key are the same."""
    if call["new_key"]:
        raise UsageError(
            f"{folder.ca.certificate}: with a new key it would be another authority",
            "aer pki init in another folder, then aer pki bundle add in both",
        )
    domain = folder.trust_domain()
    old, *others = svid.certificates(signer.certificate)
    validity = _renewed_validity(call, old)
    made = authority.make_authority(domain, signer.key, validity=validity)
    pem = made.certificate + b"".join(map(svid.pem, others))
    store.replace(folder.ca.certificate, pem, 0o644)
    print(f"{folder.ca.certificate}: {_until(pem)}")
    return 0


def _renewed_key(files: store.PairFiles, *, new: bool) -> bytes | None:
    """None where the key is elsewhere."""
    if not files.key.exists():
        if new:
            raise AerError(f"{files.key}: does not exist", "a new key is made where the old one is")
        return None
    key = files.key.read_bytes()
    return authority.make_key(_kind(key)) if new else key


def _kind(key: bytes) -> KeyType:
    from cryptography.hazmat.primitives.asymmetric import ed25519

    is_ed25519 = isinstance(svid.private_key(key), ed25519.Ed25519PrivateKey)
    return KeyType.ED25519 if is_ed25519 else KeyType.ECDSA_P256


def _check_own(folder: Folder, certificate: "x509.Certificate", signer: Pair) -> None:
    _check_issued(certificate, signer)
    if folder.crl.exists():
        issuer = svid.certificates(signer.certificate)[0]
        Revocations.parse(folder.crl.read_bytes(), [issuer]).check(certificate, issuer)


def _check_issued(certificate: "x509.Certificate", signer: Pair) -> None:
    issuer = svid.certificates(signer.certificate)[0]
    if not svid.issued(issuer, certificate) or certificate == issuer:
        raise AerError(
            "certificate: not issued by the authority in this folder",
            "what a node's authority issued is short-lived: revoke that authority",
        )


def _wanted(folder: Folder, call: Call) -> SpiffeId:
    if call["node"]:
        return folder.spiffe_id(svid.NODE + call["node"])
    text: str = call["id"]
    return SpiffeId.parse(text) if text.startswith(SCHEME) else folder.spiffe_id(text)


def _dns_name(call: Call, spiffe_id: SpiffeId, node: str) -> str:
    dns_name: str = call["dns"] or f"{node}.node.{spiffe_id.trust_domain}"
    try:
        return svid.parse_dns_name(dns_name)
    except ValueError as e:
        raise UsageError(f"node {node}: {e}", "give it another by --dns") from None


def _issue(call: Call, folder: Folder, spiffe_id: SpiffeId, kind: str, dns_name: str | None) -> int:
    signer = folder.authority()
    files = folder.pair(kind, call["name"])
    key_type = KeyType(call["key_type"])
    key = files.leftover_key() or authority.make_key(key_type)
    pair = authority.issue(signer, spiffe_id, key, dns_name=dns_name, validity=_validity(call))
    files.write(pair)
    print(f"{spiffe_id}: {files.certificate}, {files.key}, {_until(pair.certificate)}")
    if key_type is KeyType.ED25519:
        output.warn("nodes and aer refuse it: gRPC accepts no Ed25519 key of a peer")
    return 0


def _validity(call: Call) -> timedelta:
    return timedelta(seconds=call["validity"])


def _renewed_validity(call: Call, old: "x509.Certificate") -> timedelta:
    """As long as the old one was made for, unless told."""
    if call["validity"] is not None:
        return _validity(call)
    return old.not_valid_after_utc - old.not_valid_before_utc - authority.BACKDATED


def _until(pem: bytes) -> str:
    return f"valid until {svid.certificates(pem)[0].not_valid_after_utc:%Y-%m-%d}"
