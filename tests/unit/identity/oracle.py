"""What the standards refuse, read from the bytes of a chain: a second opinion for the fuzzing.

X509-SVID sections 2 to 5, RFC 5280 section 6, SPIFFE-ID section 2. Signatures are not looked at.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from tests.unit.identity import der
from tests.unit.identity.der import NotDer

SAN, BASIC, USAGE, PURPOSES, NAMES = (
    "551d11",
    "551d13",
    "551d0f",
    "551d25",
    "551d1e",
)
_WEIGHED = {SAN, BASIC, USAGE, PURPOSES, NAMES}
_SERVER, _CLIENT = bytes.fromhex("2b06010505070301"), bytes.fromhex("2b06010505070302")
_DIGITAL_SIGNATURE, _CERT_SIGN, _CRL_SIGN = 0, 5, 6
_URI = 0x86
_ID = re.compile(rb"spiffe://([a-z0-9._-]{1,255})((?:/[a-zA-Z0-9._-]+)*)")


@dataclass
class Read:
    """A certificate, as far as it matters."""

    version: int
    issuer: bytes
    subject: bytes
    start: datetime
    end: datetime
    extensions: dict[str, tuple[bool, bytes]]
    repeated: bool

    def usage(self) -> set[int]:
        content = der.only(self.extensions[USAGE][1], der.BITS)
        return {
            8 * index + bit
            for index, byte in enumerate(content[1:])
            for bit in range(8)
            if byte & (0x80 >> bit)
        }

    def basic(self) -> tuple[bool, int | None]:
        if BASIC not in self.extensions:
            return False, None
        parts = list(der.read(der.only(self.extensions[BASIC][1], der.SEQUENCE)))
        is_authority = any(tag == der.BOOLEAN and content != b"\0" for tag, content, _ in parts)
        lengths = [int.from_bytes(content, "big") for tag, content, _ in parts if tag == 2]
        return is_authority, lengths[0] if lengths else None

    def uris(self) -> list[bytes]:
        if SAN not in self.extensions:
            return []
        names = der.read(der.only(self.extensions[SAN][1], der.SEQUENCE))
        return [content for tag, content, _ in names if tag == _URI]


def complaints(chain: list[bytes], root: bytes, now: datetime) -> list[str]:
    """Why the standards refuse `chain` (leaf first) below `root`; empty if they do not."""
    try:
        path = [_read(each) for each in (*chain, root)]
        leaf, *signers = path
        found = [*_leaf(leaf, now)]
        below = 0
        for index, signer in enumerate(signers):
            found += [*_signer(signer, now, below), *_trust_domain(signer, leaf)]
            found += _constraints(signer, path[: index + 1])
            below += signer.subject != signer.issuer
        return found
    except (NotDer, IndexError, KeyError, ValueError) as e:
        return [f"broken: {e}"]


def _leaf(leaf: Read, now: datetime) -> Iterator[str]:
    yield from (*_any(leaf, now), *_leaf_names(leaf), *_leaf_usage(leaf))


def _leaf_names(leaf: Read) -> Iterator[str]:
    uris = leaf.uris()
    if len(uris) != 1:
        yield f"{len(uris)} URI names"
    for uri in uris:
        if not (found := _ID.fullmatch(uri)) or not found[2] or len(uri) > 2048:
            yield f"no SPIFFE ID of a leaf: {uri[:80]!r}"
        elif {b".", b".."} & set(found[2].split(b"/")):
            yield "a relative segment"
    if SAN in leaf.extensions and leaf.subject == b"0\0" and not leaf.extensions[SAN][0]:
        yield "no subject, and the alternative name is not critical"


def _leaf_usage(leaf: Read) -> Iterator[str]:
    if leaf.basic()[0]:
        yield "an authority as a leaf"
    if USAGE not in leaf.extensions or not leaf.extensions[USAGE][0]:
        yield "no critical key usage"
    elif _DIGITAL_SIGNATURE not in leaf.usage() or {_CERT_SIGN, _CRL_SIGN} & leaf.usage():
        yield "a key usage that no leaf has"
    if NAMES in leaf.extensions:
        yield "name constraints in a leaf"
    if PURPOSES in leaf.extensions:
        listed = der.read(der.only(leaf.extensions[PURPOSES][1], der.SEQUENCE))
        if not {_SERVER, _CLIENT} <= {content for _, content, _ in listed}:
            yield "a purpose is missing"


def _signer(signer: Read, now: datetime, below: int) -> Iterator[str]:
    yield from _any(signer, now)
    is_authority, length = signer.basic()
    if not is_authority:
        yield "a signer that is no authority"
    if length is not None and length < below:
        yield "the path is too long"
    if USAGE not in signer.extensions or _CERT_SIGN not in signer.usage():
        yield "a signer that may not sign"
    for uri in signer.uris():
        if not (found := _ID.fullmatch(uri)) or found[2]:
            yield "a signer whose SPIFFE ID has a path, or that is none"
    if len(signer.uris()) > 1:
        yield "a signer with two URI names"


def _trust_domain(signer: Read, leaf: Read) -> Iterator[str]:
    """The standard says SHOULD; ours is stricter."""
    for uri in signer.uris():
        if any(each.split(b"/")[:3] != uri.split(b"/")[:3] for each in leaf.uris()):
            yield "an authority of another trust domain"


def _any(certificate: Read, now: datetime) -> Iterator[str]:
    if certificate.version != 2:
        yield "not version 3"
    if certificate.repeated:
        yield "an extension is repeated"
    if now < certificate.start:
        yield "not valid yet"
    if now > certificate.end:
        yield "expired"
    for name, (critical, _) in certificate.extensions.items():
        if critical and name not in _WEIGHED:
            yield f"the critical extension {name}"


def _constraints(signer: Read, below: list[Read]) -> Iterator[str]:
    """Those of URIs."""
    if NAMES not in signer.extensions:
        return
    trees = {
        tag: [
            next(der.read(tree))[1].decode().lower()
            for _, tree, _ in der.read(content)
            if next(der.read(tree))[0] == _URI
        ]
        for tag, content, _ in der.read(der.only(signer.extensions[NAMES][1], der.SEQUENCE))
    }
    for host in (uri[9:].split(b"/")[0].decode() for each in below for uri in each.uris()):
        if (permitted := trees.get(0xA0)) and not any(_within(host, tree) for tree in permitted):
            yield "outside the permitted names"
        if any(_within(host, tree) for tree in trees.get(0xA1, ())):
            yield "inside the excluded names"


def _within(host: str, tree: str) -> bool:
    return host.endswith(tree) if tree.startswith(".") else host == tree


def _read(data: bytes) -> Read:
    """Raises NotDer and others for what is none."""
    body, _, _ = (whole for _, _, whole in der.read(der.only(data, der.SEQUENCE)))
    fields = list(der.read(der.only(body, der.SEQUENCE)))
    version = 0
    if fields[0][0] == 0xA0:
        version = int.from_bytes(der.only(fields.pop(0)[1], der.INTEGER), "big")
    _serial, _algorithm, issuer, validity, subject, _key, *optional = fields
    start, end = (_time(tag, content) for tag, content, _ in der.read(validity[1]))
    extensions: dict[str, tuple[bool, bytes]] = {}
    repeated = False
    for tag, content, _ in optional:
        if tag == 0xA3:
            for _, extension, _ in der.read(der.only(content, der.SEQUENCE)):
                name, *flag, value = der.read(extension)
                repeated |= name[1].hex() in extensions
                critical = bool(flag) and flag[0][1] != b"\0"
                extensions[name[1].hex()] = (critical, value[1])
    return Read(version, issuer[2], subject[2], start, end, extensions, repeated)


def _time(tag: int, content: bytes) -> datetime:
    text = content.decode("ascii")
    if tag == der.UTC_TIME:
        century = "20" if int(text[:2]) < 50 else "19"
        text = century + text
    elif tag != der.GENERAL_TIME:
        raise NotDer("no time")
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)
