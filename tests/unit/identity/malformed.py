"""Chains of certificates made from valid ones by breaking something, from a seed."""

import base64
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, padding, rsa

from tests.unit.identity import der, oracle
from tests.unit.identity.der import element, integer, named_bits, oid, sequence

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)
DOMAIN = "example.org"
LEAF = b"spiffe://example.org/person/ann"

SIGNATURE, CERT_SIGN, CRL_SIGN = 0, 5, 6
SERVER, CLIENT = "1.3.6.1.5.5.7.3.1", "1.3.6.1.5.5.7.3.2"
STRONG = ("p256", "p384", "p521", "rsa2048", "ed25519")
WEAK = ("p224", "k256", "rsa1024", "dsa2048")
_OIDS = {
    "ecdsa-sha256": "1.2.840.10045.4.3.2",
    "ecdsa-sha1": "1.2.840.10045.4.1",
    "ecdsa-sha224": "1.2.840.10045.4.3.1",
    "rsa-sha256": "1.2.840.113549.1.1.11",
    "rsa-sha1": "1.2.840.113549.1.1.5",
    "rsa-sha224": "1.2.840.113549.1.1.14",
    "rsa-md5": "1.2.840.113549.1.1.4",
    "ed25519": "1.3.101.112",
    "dsa-sha256": "2.16.840.1.101.3.4.3.2",
}
_HASHES: dict[str, hashes.HashAlgorithm] = {
    "sha256": hashes.SHA256(),
    "sha224": hashes.SHA224(),
    "sha1": hashes.SHA1(),
    "md5": hashes.MD5(),
}

_CURVES: dict[str, ec.EllipticCurve] = {
    "p256": ec.SECP256R1(),
    "p384": ec.SECP384R1(),
    "p521": ec.SECP521R1(),
    "p224": ec.SECP224R1(),
    "k256": ec.SECP256K1(),
}

Extension = tuple[str, bool, bytes]


@cache
def key(kind: str, which: int = 0) -> Any:
    """One for each place in a chain, and the same in each run but for RSA and DSA."""
    if kind in _CURVES:
        return ec.derive_private_key(0xA0A0A0A0 + which, _CURVES[kind])
    if kind == "ed25519":
        return ed25519.Ed25519PrivateKey.from_private_bytes(bytes([which] * 32))
    if kind == "dsa2048":
        return dsa.generate_private_key(2048)
    return rsa.generate_private_key(65537, int(kind.removeprefix("rsa")))


@dataclass
class Certificate:
    """What is written. `signer` is the key that signs, whatever `issuer` says."""

    subject: bytes
    issuer: bytes
    key: Any
    signer: Any
    extensions: list[Extension]
    version: int | None = 2
    serial: bytes = field(default_factory=lambda: integer(0x1234567890ABCDEF))
    start: datetime = NOW - DAY
    end: datetime = NOW + DAY
    digest: str = "sha256"
    flips: tuple[tuple[int, int], ...] = ()
    """Bytes of what is signed that are changed before it is: place (as it fits) and new value."""
    encoded: bytes = b""

    def weak(self) -> str:
        """What our rules have against its key or how it is signed."""
        if self.digest in ("sha1", "sha224", "md5") and not isinstance(
            self.signer, ed25519.Ed25519PrivateKey | dsa.DSAPrivateKey
        ):
            return "a weak digest"
        if isinstance(self.key, ec.EllipticCurvePrivateKey):
            return "a weak curve" if self.key.curve.name in ("secp224r1", "secp256k1") else ""
        if isinstance(self.key, rsa.RSAPrivateKey):
            return "a short key" if self.key.key_size < 2048 else ""
        return "a key of DSA" if isinstance(self.key, dsa.DSAPrivateKey) else ""

    def encode(self) -> bytes:
        """Once, since signatures differ."""
        self.encoded = self.encoded or self._encode()
        return self.encoded

    def _encode(self) -> bytes:
        public = self.key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        algorithm = self._algorithm()
        body = sequence(
            b"" if self.version is None else element(0xA0, integer(self.version)),
            self.serial,
            algorithm,
            self.issuer,
            sequence(der.time(self.start), der.time(self.end)),
            self.subject,
            public,
            element(0xA3, sequence(*map(_extension, self.extensions))) if self.extensions else b"",
        )
        if self.flips:
            changed = bytearray(body)
            for place, value in self.flips:
                changed[place % len(changed)] = value
            body = bytes(changed)
        return sequence(body, algorithm, der.bits(self._signature(body)))

    def _algorithm(self) -> bytes:
        if isinstance(self.signer, ed25519.Ed25519PrivateKey):
            return sequence(oid(_OIDS["ed25519"]))
        if isinstance(self.signer, dsa.DSAPrivateKey):
            return sequence(oid(_OIDS["dsa-sha256"]))
        if isinstance(self.signer, rsa.RSAPrivateKey):
            return sequence(oid(_OIDS[f"rsa-{self.digest}"]), element(der.NULL))
        return sequence(oid(_OIDS.get(f"ecdsa-{self.digest}", _OIDS["ecdsa-sha1"])))

    def _signature(self, body: bytes) -> bytes:
        digest = _HASHES[self.digest]
        made: bytes
        if isinstance(self.signer, ed25519.Ed25519PrivateKey):
            made = self.signer.sign(body)
        elif isinstance(self.signer, rsa.RSAPrivateKey):
            made = self.signer.sign(body, padding.PKCS1v15(), digest)
        elif isinstance(self.signer, dsa.DSAPrivateKey):
            made = self.signer.sign(body, hashes.SHA256())
        else:
            made = self.signer.sign(body, ec.ECDSA(digest, deterministic_signing=True))
        return made


@dataclass
class Case:
    """A chain, leaf first, and the root that is believed."""

    leaf: Certificate
    middle: Certificate
    root: Certificate
    direct: bool = False
    """Whether the root signs the leaf, without the one in the middle."""
    arrange: Callable[[list[bytes]], list[bytes]] = list
    """What becomes of the chain before it is shown."""
    certainly_bad: str = ""
    """Why it must be refused, where what is shown of it does not tell."""
    changes: tuple[str, ...] = ()

    def encode(self) -> tuple[list[bytes], bytes]:
        chain = [self.leaf] if self.direct else [self.leaf, self.middle]
        return self.arrange([each.encode() for each in chain]), self.root.encode()

    def complaints(self) -> list[str]:
        """Why it must be refused: by how it was made, or by the oracle."""
        chain, root = self.encode()
        if chain[:1] == [self.middle.encode()]:
            # It stands first, so it is shown as a leaf; the rest of the chain is not asked.
            shown = [self.middle]
        else:
            shown = [self.leaf] if self.direct else [self.leaf, self.middle]
            if self.certainly_bad:
                return [self.certainly_bad]
        signers = [*shown[1:], self.root]
        made = [each.weak() for each in (*shown, self.root)]
        made += [
            "signed by a stranger"
            for a, b in zip(shown, signers, strict=True)
            if a.signer is not b.key
        ]
        said = oracle.complaints([each.encode() for each in shown], root, NOW)
        return [each for each in made if each] + said


def pem(certificates: list[bytes]) -> bytes:
    return b"".join(
        b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(each) + b"-----END CERTIFICATE-----\n"
        for each in certificates
    )


def name(*texts: str) -> bytes:
    """`O=`, then `CN=`."""
    kinds = ("2.5.4.10", "2.5.4.3")
    return sequence(
        *(
            element(der.SET, sequence(oid(kind), element(der.UTF8, text.encode())))
            for kind, text in zip(kinds, texts, strict=False)
        )
    )


def usage(*numbers: int, critical: bool = True) -> Extension:
    return ("2.5.29.15", critical, named_bits(*numbers))


def basic(is_authority: bool, length: int | None = None, *, critical: bool = True) -> Extension:
    flag = element(der.BOOLEAN, b"\xff") if is_authority else b""
    return ("2.5.29.19", critical, sequence(flag, b"" if length is None else integer(length)))


def names(*entries: tuple[int, bytes], critical: bool = True) -> Extension:
    return ("2.5.29.17", critical, sequence(*(element(tag, value) for tag, value in entries)))


def uris(*values: bytes, critical: bool = True) -> Extension:
    return names(*((0x86, value) for value in values), critical=critical)


def purposes(*kinds: str) -> Extension:
    return ("2.5.29.37", False, sequence(*map(oid, kinds)))


def constraints(permitted: list[bytes], excluded: list[bytes]) -> Extension:
    def trees(tag: int, hosts: list[bytes]) -> bytes:
        return element(tag, *(sequence(element(0x86, host)) for host in hosts)) if hosts else b""

    return ("2.5.29.30", True, sequence(trees(0xA0, permitted), trees(0xA1, excluded)))


def _extension(extension: Extension) -> bytes:
    kind, critical, value = extension
    flag = element(der.BOOLEAN, b"\xff") if critical else b""
    return sequence(oid(kind), flag, element(der.OCTETS, value))


def valid() -> Case:
    """What all the others are made from."""
    root, middle, leaf = key("p256", 0), key("p256", 1), key("p256", 2)
    signing = usage(CERT_SIGN, CRL_SIGN)
    domain = uris(b"spiffe://" + DOMAIN.encode(), critical=False)
    return Case(
        leaf=Certificate(
            name(),
            name(DOMAIN, "middle"),
            leaf,
            middle,
            [basic(False), usage(SIGNATURE), purposes(SERVER, CLIENT), uris(LEAF)],
        ),
        middle=Certificate(
            name(DOMAIN, "middle"), name(DOMAIN), middle, root, [basic(True, 0), signing, domain]
        ),
        root=Certificate(name(DOMAIN), name(DOMAIN), root, root, [basic(True, 1), signing, domain]),
    )


def case(seed: int) -> Case:
    """The valid chain after one to three changes; the same for the same seed, but for the keys."""
    chance = random.Random(seed)
    made = valid()
    chosen = chance.sample(CHANGES, chance.choice((1, 1, 1, 2, 3)))
    for change in chosen:
        change(made, chance)
    return replace(made, changes=tuple(change.__name__ for change in chosen))


def _any(case: Case, chance: random.Random) -> Certificate:
    return chance.choice((case.leaf, case.leaf, case.middle, case.root))


def _put(certificate: Certificate, *extensions: Extension) -> None:
    """In the place of those of the same kinds."""
    kinds = {extension[0] for extension in extensions}
    kept = [each for each in certificate.extensions if each[0] not in kinds]
    certificate.extensions = [*kept, *extensions]


_SEGMENTS = (
    b"a",
    b"A.Z_0-9",
    b"..",
    b".",
    b"",
    b"%2e",
    b"a%20b",
    b"a b",
    b"a:b",
    b"...",
    b"\xc3\xa4",
)
_DOMAINS = (
    *(b"example.org", b"Example.org", b"other.org", b"example.org:443", b"ann@example.org", b""),
    *(b"example.org?a=b", b"example.org#a", b"ex%61mple.org", b"10.0.0.1", b"[::1]", b"a" * 255),
    *(b"a" * 256, b"example_org", b"example.org.", b".", b"..", b"xn--bcher-kva.example"),
)


def _uri(chance: random.Random) -> bytes:
    scheme = chance.choice([b"spiffe://"] * 8 + [b"SPIFFE://", b"https://", b"spiffe:", b"", b"//"])
    domain = chance.choice((b"example.org", chance.choice(_DOMAINS)))
    path = b"".join(
        b"/" + chance.choice((b"person", b"ann", chance.choice(_SEGMENTS)))
        for _ in range(chance.choice((0, 1, 2, 2, 3)))
    )
    tail = chance.choice([b""] * 12 + [b"/", b"?x", b"#x", b"\0", b"\n", b" ", b"/" + b"p" * 2048])
    return scheme + domain + path + tail


def other_id(case: Case, chance: random.Random) -> None:
    _put(case.leaf, uris(_uri(chance), critical=chance.random() < 0.9))


def other_names(case: Case, chance: random.Random) -> None:
    more = (
        *((0x86, LEAF), (0x86, b"spiffe://example.org/person/eve"), (0x86, _uri(chance))),
        *((0x82, b"a.example.org"), (0x81, b"a@example.org"), (0x87, bytes(4)), (0x87, bytes(3))),
        *((0xA0, b""), (0xA4, name("x")), (0x88, b"*"), (0x9F, b"x")),
    )
    _put(case.leaf, names(*chance.sample(more, chance.randint(0, 3))))


def names_twice(case: Case, chance: random.Random) -> None:
    case.leaf.extensions.append(uris(_uri(chance)))


def a_subject(case: Case, chance: random.Random) -> None:
    case.leaf.subject = name("somebody")
    if chance.random() < 0.7:
        _put(case.leaf, uris(LEAF, critical=False))


def another_trust_domain(case: Case, chance: random.Random) -> None:
    if chance.random() < 0.5:
        _put(case.leaf, uris(LEAF.replace(b"example.org", b"other.org")))
    else:
        _put(chance.choice((case.middle, case.root)), uris(b"spiffe://other.org", critical=False))


def a_name_of_a_signer(case: Case, chance: random.Random) -> None:
    domain = b"spiffe://example.org"
    some = (domain, domain + b"/ca", b"https://example.org", b"spiffe://EXAMPLE.org", _uri(chance))
    chosen = chance.sample(some, chance.randint(0, 2))
    _put(chance.choice((case.middle, case.root)), uris(*chosen, critical=False))


def other_usage(case: Case, chance: random.Random) -> None:
    numbers = chance.sample(range(9), chance.randint(0, 4))
    _put(_any(case, chance), usage(*numbers, critical=chance.random() < 0.8))


def no_usage(case: Case, chance: random.Random) -> None:
    certificate = _any(case, chance)
    certificate.extensions = [each for each in certificate.extensions if each[0] != "2.5.29.15"]


def other_basics(case: Case, chance: random.Random) -> None:
    length = chance.choice((None, None, 0, 1, 200))
    _put(_any(case, chance), basic(chance.random() < 0.5, length, critical=chance.random() < 0.8))


def other_purposes(case: Case, chance: random.Random) -> None:
    some = (SERVER, CLIENT, "1.3.6.1.5.5.7.3.3", "2.5.29.37.0")
    _put(case.leaf, purposes(*chance.sample(some, chance.randint(1, 3))))


def other_dates(case: Case, chance: random.Random) -> None:
    certificate = _any(case, chance)
    moments: tuple[datetime, ...] = (
        NOW - 40 * 365 * DAY,
        NOW - DAY,
        NOW,
        NOW + DAY,
        NOW.replace(year=9999),
    )
    moments += (NOW - timedelta(seconds=1), NOW + timedelta(seconds=1))
    certificate.start, certificate.end = chance.choice(moments), chance.choice(moments)


def another_key(case: Case, chance: random.Random) -> None:
    """Of another kind, strong or weak; what it signs is signed by it."""
    kind = chance.choice(STRONG + WEAK)
    which = chance.choice(("leaf", "middle", "root"))
    certificate: Certificate = getattr(case, which)
    made = key(kind, ("root", "middle", "leaf").index(which))
    if which == "root":
        case.middle.signer = case.root.signer = made
    if which == "middle":
        case.leaf.signer = made
    certificate.key = made


def another_digest(case: Case, chance: random.Random) -> None:
    certificate = chance.choice((case.leaf, case.middle))
    if isinstance(certificate.signer, rsa.RSAPrivateKey):
        certificate.digest = chance.choice(("sha1", "sha224", "md5"))
    else:
        certificate.digest = chance.choice(("sha1", "sha224"))


def an_extension(case: Case, chance: random.Random) -> None:
    certificate = _any(case, chance)
    kinds = ("1.2.3.4.5", "2.5.29.32", "2.5.29.36", "2.5.29.54", "2.5.29.14", "1.3.6.1.5.5.7.1.24")
    value = chance.choice((b"", b"\x05\0", b"\x04\x02ab", sequence(), integer(0)))
    certificate.extensions.append((chance.choice(kinds), chance.random() < 0.6, value))


def an_extension_twice(case: Case, chance: random.Random) -> None:
    certificate = _any(case, chance)
    certificate.extensions.append(chance.choice(certificate.extensions))


def a_broken_extension(case: Case, chance: random.Random) -> None:
    certificate = _any(case, chance)
    place = chance.randrange(len(certificate.extensions))
    kind, critical, value = certificate.extensions[place]
    cut = value[: chance.randrange(len(value) + 1)] + chance.randbytes(chance.randint(0, 3))
    certificate.extensions[place] = (kind, critical, cut)


def name_constraints(case: Case, chance: random.Random) -> None:
    some = [b"example.org", b"other.org", b".example.org", b".org", b"EXAMPLE.org", b""]
    permitted = chance.sample(some, chance.randint(0, 2))
    excluded = chance.sample(some, chance.choice((0, 0, 1)))
    _put(_any(case, chance), constraints(permitted, excluded))


def a_version(case: Case, chance: random.Random) -> None:
    _any(case, chance).version = chance.choice((None, 0, 1, 3, -1))


def a_serial(case: Case, chance: random.Random) -> None:
    some = (integer(0), integer(-5), integer(1 << 159), integer(1 << 2000), b"\x02\0", b"\x04\x01a")
    _any(case, chance).serial = chance.choice(some)


def another_signer(case: Case, chance: random.Random) -> None:
    """Somebody else under the same name."""
    chance.choice((case.leaf, case.middle)).signer = key("p256", 7)


def by_the_root(case: Case, _chance: random.Random) -> None:
    case.direct = True
    case.leaf.issuer, case.leaf.signer = case.root.subject, case.root.key


def another_order(case: Case, chance: random.Random) -> None:
    """The chain without a part, in another order, or with what does not belong there."""
    stranger = valid().middle.encode()
    ways: tuple[tuple[str, Callable[[list[bytes]], list[bytes]]], ...] = (
        ("a part is missing", lambda chain: chain[:1] if len(chain) > 1 else []),
        ("", lambda chain: chain[1:]),
        ("backwards", lambda chain: chain[::-1] if len(chain) > 1 else []),
        ("too many", lambda chain: chain + [stranger] * 30),
        ("", lambda chain: [*chain, case.root.encode()]),
        ("", lambda chain: [*chain, stranger]),
    )
    (said, way), before = chance.choice(ways), case.arrange
    case.arrange = lambda chain: way(before(chain))
    case.certainly_bad = case.certainly_bad or said


def a_leaf_below_a_leaf(case: Case, _chance: random.Random) -> None:
    case.middle.extensions = [basic(False), usage(SIGNATURE), uris(LEAF)]


def damage(case: Case, chance: random.Random) -> None:
    """Bytes change after all was signed."""
    last = chance.random() < 0.5
    changes = [(chance.random(), chance.randint(1, 255)) for _ in range(chance.randint(1, 3))]
    before = case.arrange

    def arrange(chain: list[bytes]) -> list[bytes]:
        place = len(chain) - 1 if last else 0
        broken = bytearray(chain[place])
        for where, value in changes if broken else ():
            broken[int(where * len(broken))] ^= value
        return before([*chain[:place], bytes(broken), *chain[place + 1 :]])

    # The same place twice with the same value would be no damage.
    if len({int(where * 200) for where, _ in changes}) == len(changes):
        case.arrange, case.certainly_bad = arrange, "damaged"


def cut(case: Case, chance: random.Random) -> None:
    before, share = case.arrange, chance.random()
    case.arrange = lambda chain: before([chain[0][: int(share * len(chain[0]))], *chain[1:]])
    case.certainly_bad = "cut short"


def more_behind(case: Case, chance: random.Random) -> None:
    before, more = case.arrange, chance.randbytes(chance.randint(1, 9))
    case.arrange = lambda chain: before([chain[0] + more, *chain[1:]])
    case.certainly_bad = "bytes behind the certificate"


def flips(case: Case, chance: random.Random) -> None:
    """Bytes change before it is signed: the signature is good, and the oracle must read it."""
    count = chance.choice((1, 1, 2, 4))
    changed = tuple((chance.randrange(10_000), chance.randrange(256)) for _ in range(count))
    chance.choice((case.leaf, case.leaf, case.middle)).flips = changed


def size(case: Case, chance: random.Random) -> None:
    bulk = chance.choice((5_000, 100_000, 2_000_000))
    case.leaf.extensions.append(("1.2.3.4", False, element(der.OCTETS, bytes(bulk))))
    if bulk > 64 << 10:
        case.certainly_bad = "absurdly large"


CHANGES: tuple[Callable[[Case, random.Random], None], ...] = (
    *(other_id, other_id, other_id, other_names, names_twice, a_subject, another_trust_domain),
    *(a_name_of_a_signer, other_usage, no_usage, other_basics, other_purposes, other_dates),
    *(another_key, another_digest, an_extension, an_extension_twice, a_broken_extension),
    *(name_constraints, a_version, a_serial, another_signer, by_the_root, another_order),
    *(a_leaf_below_a_leaf, damage, cut, more_behind, flips, flips, flips, size),
)
