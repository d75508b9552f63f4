"""`aer pki bundle` and `aer pki export`: what others need to believe this trust domain."""

import base64
import json
import re
from collections.abc import Iterator, Sized
from pathlib import Path
from typing import Any, Final

from aer import output
from aer.command import Call
from aer.errors import AerError, UsageError
from aer.folder import Folder
from runtime.identity import store, svid
from runtime.identity.bundles import Bundle

_PUBLIC: Final = 0o644
_SECRET: Final = 0o600
# A DNS subdomain (RFC 1123), as Kubernetes wants names to be.
_KUBERNETES_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")


def show(call: Call) -> int:
    folder = Folder.of(call)
    found = [(name, folder.bundle(name)) for name in folder.trust_domains()]
    if call["output"] == "json":
        print(json.dumps([_described(bundle) for _, bundle in found], indent=2))
        return 0
    rows = [row for _, bundle in found for row in _rows(bundle)]
    for line in output.table(("TRUST DOMAIN", "VALID UNTIL", "SHA-256"), rows):
        print(line)
    return 0


def add(call: Call) -> int:
    """Roots for a trust domain: more for its own, as its authority is replaced, or another's."""
    folder = Folder.of(call)
    domain = call["trust_domain"] or folder.trust_domain()
    added = _read(domain, call["file"])
    file = folder.bundle_file(domain)
    bundle = folder.bundle(domain).with_roots(added.roots) if file.exists() else added
    if not bundle.roots:
        raise AerError(f"{call['file']}: has no root for X.509 SVIDs")
    folder.write_bundle(bundle)
    print(f"spiffe://{domain}: {file}, {_count(svid.certificates(bundle.roots))}")
    return 0


def remove(call: Call) -> int:
    """A root that is believed no more. The authority's own stays."""
    folder = Folder.of(call)
    domain = call["trust_domain"] or folder.trust_domain()
    roots = svid.certificates(folder.bundle(domain).roots)
    wanted = re.sub("[^0-9a-f]", "", call["fingerprint"].lower())
    gone = [root for root in roots if svid.fingerprint(root).startswith(wanted)]
    if len(wanted) < 8 or len(gone) != 1:
        raise AerError(
            f"{call['fingerprint']}: names {len(gone)} roots of {domain}; write 8 digits or more",
            "aer pki bundle show",
        )
    if domain == folder.trust_domain() and gone[0] == roots[0]:
        raise AerError(f"{folder.ca.certificate}: its first root is this folder's own authority")
    kept = [root for root in roots if root not in gone]
    file = folder.bundle_file(domain)
    if kept:
        folder.write_bundle(Bundle.from_pem(domain, b"".join(map(svid.pem, kept))))
    else:
        file.unlink()
    print(f"spiffe://{domain}: {file}, {_count(kept)}")
    return 0


def export_bundle(call: Call) -> int:
    folder = Folder.of(call)
    domain = call["trust_domain"] or folder.trust_domain()
    bundle = folder.bundle(domain)
    if call["format"] == "pem":
        return _write(call["to"], bundle.roots, _PUBLIC)
    sequence = call["sequence"]
    if sequence is None:
        # It must grow with each change, and a change writes the file.
        sequence = int(folder.bundle_file(domain).stat().st_mtime)
    return _write(call["to"], Bundle(domain, bundle.roots, (), sequence).to_json(), _PUBLIC)


def kubernetes(call: Call) -> int:
    """A TLS secret with a certificate and its key, and a config map with the bundle."""
    folder = Folder.of(call)
    file: Path = call["file"]
    name = call["name"] or re.sub("[^a-z0-9.-]", "-", file.name.removesuffix(".crt").lower())
    if not _KUBERNETES_NAME.fullmatch(name):
        raise UsageError(f"{name!a} is no name for Kubernetes", "give one by --name")
    pem, key = file.read_bytes(), folder.unlock(_key_of(file).read_bytes())
    svid.match_key(pem, key)
    documents = list(_manifests(name, call["namespace"], pem, key, folder.certificate()))
    if call["output"] == "json":
        values = {"apiVersion": "v1", "kind": "List", "items": documents}
        text = json.dumps(values, indent=2) + "\n"
    else:
        text = _yaml(documents)
    return _write(call["to"], text.encode(), _SECRET)


def spire(call: Call) -> int:
    """Files for SPIRE's upstream authority "disk", and the part of its configuration."""
    folder = Folder.of(call)
    signer = folder.authority()
    if not _is_ecdsa(signer.key):
        raise AerError(f"{folder.ca.key}: SPIRE reads no key of this kind", "it wants ECDSA")
    target: Path = call["folder"].absolute()
    target.mkdir(mode=0o700, parents=True, exist_ok=True)
    own = svid.pem(svid.certificates(signer.certificate)[0])
    for name, content, mode in (
        ("upstream.crt", own, _PUBLIC),
        ("upstream.key", signer.key, _SECRET),
        ("bundle.crt", signer.certificate, _PUBLIC),
    ):
        store.create(target / name, content, mode)
    print(_SPIRE.format(folder=json.dumps(str(target))[1:-1]), end="")
    output.warn(f"{target / 'upstream.key'}: whoever has it can be anybody of the trust domain")
    return 0


_SPIRE: Final = """\
UpstreamAuthority "disk" {{
    plugin_data {{
        cert_file_path = "{folder}/upstream.crt"
        key_file_path = "{folder}/upstream.key"
        bundle_file_path = "{folder}/bundle.crt"
    }}
}}
"""


def _manifests(
    name: str, namespace: str | None, pem: bytes, key: bytes, bundle: bytes
) -> Iterator[dict[str, Any]]:
    within = {"namespace": namespace} if namespace else {}
    yield {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, **within},
        "type": "kubernetes.io/tls",
        "data": {
            "tls.crt": base64.b64encode(pem).decode(),
            "tls.key": base64.b64encode(key).decode(),
        },
    }
    yield {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": f"{name}-bundle", **within},
        "data": {"ca.crt": bundle.decode()},
    }


def _yaml(documents: list[dict[str, Any]]) -> str:
    """Text of several lines as a block, so that people can read it."""
    import yaml

    class Dumper(yaml.SafeDumper):
        pass

    def text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
        style = "|" if "\n" in value else None
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)

    Dumper.add_representer(str, text)
    made: str = yaml.dump_all(documents, Dumper=Dumper, sort_keys=False)
    return made


def _is_ecdsa(key: bytes) -> bool:
    from cryptography.hazmat.primitives.asymmetric import ec

    return isinstance(svid.private_key(key), ec.EllipticCurvePrivateKey)


def _key_of(file: Path) -> Path:
    return file.parent / f"{file.name.removesuffix('.crt')}.key"


def _read(trust_domain: str, file: Path) -> Bundle:
    """PEM, or the SPIFFE bundle format."""
    content = file.read_bytes()
    read = Bundle.from_json if content.lstrip().startswith(b"{") else Bundle.from_pem
    return read(trust_domain, content)


def _rows(bundle: Bundle) -> Iterator[tuple[str, str, str]]:
    for root in svid.certificates(bundle.roots):
        until = f"{root.not_valid_after_utc:%Y-%m-%d}"
        yield bundle.trust_domain, until, svid.fingerprint(root)


def _described(bundle: Bundle) -> dict[str, Any]:
    roots = [
        {"not_after": root.not_valid_after_utc.isoformat(), "sha256": svid.fingerprint(root)}
        for root in svid.certificates(bundle.roots)
    ]
    return {"trust_domain": bundle.trust_domain, "roots": roots}


def _count(roots: Sized) -> str:
    return f"{len(roots)} root{'' if len(roots) == 1 else 's'}"


def _write(to: Path | None, content: bytes, mode: int) -> int:
    if to is None:
        print(content.decode(), end="")
        return 0
    store.create(to, content, mode)
    print(to)
    return 0
