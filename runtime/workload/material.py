"""What the node issues from, and what it hands out: files, read again when they change."""

import base64
import logging
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from initd.values import NamedTuple
from runtime.identity import names
from runtime.identity.authority import Pair
from runtime.identity.spiffe import SpiffeId, parse_trust_domain

log = logging.getLogger(__name__)

REMEDY: Final = "`aer pki issue node-ca` makes it"

_CRL: Final = re.compile(rb"-----BEGIN X509 CRL-----(.*?)-----END X509 CRL-----", re.DOTALL)


class Material(NamedTuple):
    """All PEM, but for the revocation lists."""

    node: SpiffeId
    authority: Pair
    """The node's own: its certificate, then those above it but the root."""
    bundle: bytes
    federated: Mapping[str, bytes]
    revoked: tuple[bytes, ...]


class Places(NamedTuple):
    """The folders that it may be in. What the node keeps goes before what it was given at boot."""

    kept: Path
    credentials: Path | None

    def folders(self) -> Iterator[Path]:
        """Those that are there, and the one that `kept` comes to be in."""
        for folder in (self.kept.parent, self.kept, self.kept / "federated", self.credentials):
            if folder is not None and folder.is_dir():
                yield folder

    def find(self, name: str, credential: str) -> bytes | None:
        """The content of a file by what it is called in the two places."""
        for folder, file in ((self.kept, name), (self.credentials, credential)):
            if folder is not None:
                try:
                    return (folder / file).read_bytes()
                except FileNotFoundError:
                    continue
        return None


def read(places: Places) -> Material | None:
    """None: the node has no authority. Raises ValueError or OSError: it has, and not all that
    belongs to it."""
    certificate = places.find("node-ca.crt", "aurae.node-ca.crt")
    if certificate is None:
        return None
    uris = names.uris(names.first_certificate(_needed(places, "node.crt", "aurae.node.crt")))
    if len(uris) != 1:
        raise ValueError(f"credential aurae.node.crt: has {len(uris)} URIs, an SVID exactly one")
    own = SpiffeId.parse(uris[0])
    return Material(
        node=own,
        authority=Pair(certificate, _needed(places, "node-ca.key", "aurae.node-ca.key")),
        bundle=_needed(places, "ca.crt", "aurae.ca.crt"),
        federated=_federated(places, own.trust_domain),
        revoked=_lists(places.find("crl.pem", "aurae.crl") or b""),
    )


def _needed(places: Places, name: str, credential: str) -> bytes:
    content = places.find(name, credential)
    if content is None:
        raise ValueError(f"credential {credential}: is missing; {REMEDY}")
    return content


def _federated(places: Places, own: str) -> Mapping[str, bytes]:
    files: dict[str, Path] = {}
    if places.credentials is not None:
        for file in sorted(places.credentials.glob("aurae.federated.*.crt")):
            files[file.name.removeprefix("aurae.federated.").removesuffix(".crt")] = file
    for file in sorted((places.kept / "federated").glob("*.crt")):
        files[file.name.removesuffix(".crt")] = file
    found = {}
    for name, file in files.items():
        try:
            if parse_trust_domain(name) == own:
                raise ValueError("is the node's own trust domain; that is no federation")
            # An empty one hides what the node was given at boot.
            if content := file.read_bytes():
                found[name] = content
        except (OSError, ValueError) as e:
            log.warning("%s: is left out: %s", file, e)
    return found


def _lists(content: bytes) -> tuple[bytes, ...]:
    """One list in DER, or any number in PEM."""
    if content.startswith(b"\x30"):
        return (content,)
    return tuple(base64.b64decode(found[1]) for found in _CRL.finditer(content))
