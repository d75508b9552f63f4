"""One broken rule at a time: who is believed, and what is said to those who are not."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from runtime.identity import authority, svid
from runtime.identity.authority import KeyType, Pair, Revoked
from runtime.identity.bundles import Bundle, Bundles
from runtime.identity.revocation import Revocations
from runtime.identity.spiffe import SpiffeId
from tests.unit.identity import der, malformed
from tests.unit.identity.malformed import (
    CERT_SIGN,
    CRL_SIGN,
    DAY,
    LEAF,
    NOW,
    SIGNATURE,
    Case,
    basic,
    constraints,
    name,
    uris,
    usage,
)

Change = Callable[[Case], None]


def believed(case: Case) -> svid.Svid:
    chain, root = case.encode()
    return svid.verify(malformed.pem(chain), malformed.pem([root]), now=NOW)


def put(which: str, *extensions: malformed.Extension) -> Change:
    def change(case: Case) -> None:
        certificate = getattr(case, which)
        kinds = {extension[0] for extension in extensions}
        kept = [each for each in certificate.extensions if each[0] not in kinds]
        certificate.extensions = [*kept, *extensions]

    return change


def attribute(which: str, **values: object) -> Change:
    def change(case: Case) -> None:
        for attribute_name, value in values.items():
            setattr(getattr(case, which), attribute_name, value)

    return change


def from_here(case: Case) -> None:
    """The one in the middle is a node's authority."""
    parts = (("2.5.4.11", b"node"), ("2.5.4.3", b"one"))
    case.middle.subject = case.leaf.issuer = der.sequence(
        *(
            der.element(der.SET, der.sequence(der.oid(kind), der.element(der.UTF8, text)))
            for kind, text in parts
        )
    )


ANOTHER = b"spiffe://example.org/person/eve"

BAD: tuple[tuple[str, Change, str], ...] = (
    ("two URI names", put("leaf", uris(LEAF, ANOTHER)), "has 2 URI names"),
    ("no URI name", put("leaf", uris()), "has 0 URI names|cannot be read"),
    ("a port", put("leaf", uris(b"spiffe://example.org:443/a")), "trust domain has ':'"),
    ("a query", put("leaf", uris(b"spiffe://example.org/a?b=c")), r"path has '\?'"),
    ("a fragment", put("leaf", uris(b"spiffe://example.org/a#b")), "path has '#'"),
    ("a user", put("leaf", uris(b"spiffe://ann@example.org/a")), "trust domain has '@'"),
    ("upper case", put("leaf", uris(b"spiffe://Example.org/a")), "trust domain has 'E'"),
    ("upper case of the scheme", put("leaf", uris(b"SPIFFE://example.org/a")), "begin with"),
    ("two dots", put("leaf", uris(b"spiffe://example.org/a/../b")), r"segment '\.\.'"),
    ("a dot", put("leaf", uris(b"spiffe://example.org/./b")), r"segment '\.'"),
    ("percent signs", put("leaf", uris(b"spiffe://example.org/%61")), "path has '%'"),
    ("percent signs early", put("leaf", uris(b"spiffe://ex%61mple.org/a")), "domain has '%'"),
    ("a slash at the end", put("leaf", uris(b"spiffe://example.org/a/")), "segment is empty"),
    ("no path", put("leaf", uris(b"spiffe://example.org")), "needs a path"),
    ("a NUL", put("leaf", uris(b"spiffe://example.org/a\0b")), r"path has '\\x00'"),
    ("too long", put("leaf", uris(b"spiffe://example.org/" + b"a" * 2048)), "at most 2048"),
    ("a long domain", put("leaf", uris(b"spiffe://" + b"a" * 256 + b"/a")), "at most 255"),
    (
        "another trust domain with the same path",
        put("leaf", uris(LEAF.replace(b"example.org", b"other.org"))),
        "signed by spiffe://example.org, which is another authority",
    ),
    ("names that need not be", put("leaf", uris(LEAF, critical=False)), "must be critical"),
    ("an authority as a leaf", put("leaf", basic(True)), "is an authority's"),
    ("usage of an authority", put("leaf", usage(SIGNATURE, CERT_SIGN)), "keyCertSign"),
    ("usage for lists", put("leaf", usage(SIGNATURE, CRL_SIGN)), "cRLSign"),
    ("no signature", put("leaf", usage(2)), "lacks digitalSignature"),
    ("usage that need not be", put("leaf", usage(SIGNATURE, critical=False)), "not critical"),
    ("one purpose", put("leaf", malformed.purposes(malformed.SERVER)), "both serverAuth"),
    ("constraints in a leaf", put("leaf", constraints([b"example.org"], [])), "constraints"),
    ("an unknown one", put("leaf", ("1.2.3.4", True, b"\5\0")), "critical extension 1.2.3.4"),
    ("an unknown one above", put("middle", ("1.2.3", True, b"\5\0")), "extension 1.2.3"),
    ("a middle that is none", put("middle", basic(False)), "no certificate authority"),
    ("a root that is none", put("root", basic(False)), "no certificate authority"),
    ("a middle that may not", put("middle", usage(CRL_SIGN)), "no certificate authority"),
    ("a middle too many", put("root", basic(True, 0)), "chain is longer"),
    ("a signer with a path", put("middle", uris(ANOTHER, critical=False)), "another authority"),
    ("permitted others", put("middle", constraints([b"other.org"], [])), "does not allow"),
    ("permitted below", put("middle", constraints([b".example.org"], [])), "does not allow"),
    ("excluded", put("middle", constraints([], [b"example.org"])), "excludes"),
    ("excluded above", put("root", constraints([], [b"example.org"])), "excludes"),
    ("the middle expired", attribute("middle", end=NOW - DAY), "expired on"),
    ("the root expired", attribute("root", end=NOW - DAY), "expired on"),
    ("the root is not yet", attribute("root", start=NOW + DAY), "not valid before"),
    ("a leaf of version 1", attribute("leaf", version=None), "not of version 3"),
    ("a root of version 1", attribute("root", version=None), "not of version 3"),
    ("SHA-1", attribute("leaf", digest="sha1"), "refused"),
    ("SHA-1 above", attribute("middle", digest="sha1"), "refused|not signed"),
    ("a weak curve", attribute("leaf", key=malformed.key("p224")), "secp224r1"),
    ("a foreign curve", attribute("leaf", key=malformed.key("k256")), "secp256k1"),
    ("a short key", attribute("leaf", key=malformed.key("rsa1024")), "1024 bits"),
    ("another node's workload", from_here, "authority of node 'one'"),
)


@pytest.mark.parametrize(("change", "said"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_what_is_not_believed(change: Change, said: str) -> None:
    case = malformed.valid()
    change(case)
    with pytest.raises(ValueError, match=said):
        believed(case)


GOOD: tuple[tuple[str, Change], ...] = (
    ("a subject", attribute("leaf", subject=name("ann"))),
    ("more usages", put("leaf", usage(SIGNATURE, 2, 4))),
    ("an unknown extension", put("leaf", ("1.2.3.4", False, b"\5\0"))),
    ("its own trust domain", put("middle", constraints([b"example.org"], []))),
    ("in capitals", put("middle", constraints([b"EXAMPLE.org"], [b"other.org"]))),
    ("a signer without a name", put("middle", ("2.5.29.14", False, b"\4\1a"))),
    ("a signer that may do more", put("root", usage(CERT_SIGN, CRL_SIGN, SIGNATURE))),
    ("any length", put("root", basic(True))),
    ("the last second", attribute("leaf", end=NOW)),
    ("the first second", attribute("leaf", start=NOW)),
    ("P-384", attribute("leaf", key=malformed.key("p384"))),
    ("RSA of 2048 bits", attribute("leaf", key=malformed.key("rsa2048"))),
)


@pytest.mark.parametrize("change", [row[1] for row in GOOD], ids=[row[0] for row in GOOD])
def test_what_the_standard_leaves_open_is_believed(change: Change) -> None:
    case = malformed.valid()
    change(case)
    assert believed(case).id.path == "/person/ann"


def test_a_clock_in_the_past_is_told_as_what_it_may_be() -> None:
    """A machine without a battery thinks that it is 1970."""
    chain, root = malformed.valid().encode()
    with pytest.raises(ValueError, match="and this clock says 1970-01-01 00:00 UTC"):
        svid.verify(malformed.pem(chain), malformed.pem([root]), now=datetime.fromtimestamp(0, UTC))


def test_of_several_roots_with_one_name_the_right_one_counts() -> None:
    """As an authority is being replaced or renewed: expired, of another key, and the right one."""
    case, stranger, expired = malformed.valid(), malformed.valid(), malformed.valid()
    stranger.root.key = stranger.root.signer = malformed.key("p256", 9)
    expired.root.end = NOW - timedelta(hours=1)
    chain = malformed.pem(case.encode()[0])
    roots = [each.root.encode() for each in (stranger, expired, case)]
    assert svid.verify(chain, malformed.pem(roots), now=NOW).id.path == "/person/ann"
    with pytest.raises(ValueError, match="expired"):
        svid.verify(chain, malformed.pem(roots[:2]), now=NOW)


def test_a_root_in_the_chain_is_not_believed() -> None:
    case, stranger = malformed.valid(), malformed.valid()
    stranger.root.key = stranger.root.signer = malformed.key("p256", 9)
    chain = malformed.pem([*case.encode()[0], case.root.encode()])
    with pytest.raises(ValueError, match="not signed by the trust bundle"):
        svid.verify(chain, malformed.pem([stranger.root.encode()]), now=NOW)


@pytest.mark.parametrize(
    ("chain", "said"),
    [
        (b"-----BEGIN CERTIFICATE-----\n" * 9, "9 of them; at most 8"),
        (b"x" * (1 << 20), "1048576 bytes of them; at most 65536"),
        (b"\xff\0" * 100, "not a certificate in PEM"),
    ],
)
def test_absurd_sizes_are_refused_before_they_are_read(chain: bytes, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        svid.verify(chain, b"", now=NOW)


def make_authority(domain: str) -> Pair:
    key = authority.make_key(KeyType.ECDSA_P256)
    return authority.make_authority(domain, key, validity=30 * DAY)


def issue(signer: Pair, spiffe_id: str) -> bytes:
    key = authority.make_key(KeyType.ECDSA_P256)
    return authority.issue(signer, SpiffeId.parse(spiffe_id), key, validity=DAY).certificate


def nameless(domain: str) -> Pair:
    """An authority that names no trust domain, as many that are not SPIFFE's do."""
    root = malformed.valid().root
    root.subject = root.issuer = name("somebody")
    root.extensions = [each for each in root.extensions if each[0] != "2.5.29.17"]
    root.start, root.end = datetime.now(UTC) - DAY, datetime.now(UTC) + DAY
    return Pair(malformed.pem([root.encode()]), b"")


def test_an_svid_is_checked_against_its_own_trust_domain_only() -> None:
    """Even where a root names no trust domain: who signs in one cannot sign in another."""
    case = malformed.valid()
    for part in (case.middle, case.root):
        part.extensions = [each for each in part.extensions if each[0] != "2.5.29.17"]
    chain, root = case.encode()
    pem, roots = malformed.pem(chain), malformed.pem([root])
    other = make_authority("other.org")
    svid.verify(pem, roots + other.certificate, now=NOW)
    own = Bundle.from_pem("example.org", roots)
    Bundles.of([own, Bundle.from_pem("other.org", other.certificate)]).verify(pem, now=NOW)
    exchanged = Bundles.of(
        [Bundle.from_pem("other.org", roots), replace(own, roots=nameless("x").certificate)]
    )
    with pytest.raises(ValueError, match=r"not signed by the trust bundle"):
        exchanged.verify(pem, now=NOW)
    with pytest.raises(ValueError, match=r"trust domain example.org: there is no bundle of it"):
        Bundles.of([Bundle.from_pem("other.org", roots)]).verify(pem, now=NOW)


def test_a_bundle_comes_once_and_holds_its_own_roots() -> None:
    root = make_authority("example.org").certificate
    bundle = Bundle.from_pem("example.org", root)
    with pytest.raises(ValueError, match="is there twice"):
        Bundles.of([bundle, bundle])
    with pytest.raises(ValueError, match=r"has a root of spiffe://example.org"):
        Bundle.from_pem("other.org", root)
    leaf = issue(make_authority("example.org"), "spiffe://example.org/a")
    with pytest.raises(ValueError, match="no authority's"):
        Bundle.from_pem("example.org", leaf)
    assert bundle.with_roots(root) == bundle


def test_a_revoked_certificate_is_refused_wherever_in_the_chain_it_stands() -> None:
    root = make_authority("example.org")
    node_key = authority.make_key(KeyType.ECDSA_P256)
    node_ca = authority.make_intermediate(root, node_key, "one", validity=DAY)
    leaf = issue(node_ca, "spiffe://example.org/node/one/cell/a")
    chain = leaf + node_ca.certificate

    def revoked(signer: Pair, pem: bytes) -> Revocations:
        serial = svid.certificates(pem)[0].serial_number
        return Revocations.parse(authority.revoke(signer, [Revoked(serial)], validity=DAY))

    for lists in (revoked(root, node_ca.certificate), revoked(node_ca, leaf)):
        with pytest.raises(ValueError, match="revoked on"):
            svid.verify(chain, root.certificate, crls=lists)
    # The list of one authority says nothing of what another issued, also under the same name.
    for stranger in (revoked(root, leaf), revoked(make_authority("example.org"), leaf)):
        svid.verify(chain, root.certificate, crls=stranger)


def test_a_stale_list_revokes_what_it_lists_and_nobody_else() -> None:
    root = make_authority("example.org")
    ann, bob = (issue(root, f"spiffe://example.org/person/{who}") for who in ("ann", "bob"))
    serial = svid.certificates(ann)[0].serial_number
    old = datetime.now(UTC) - 10 * DAY
    lists = Revocations.parse(authority.revoke(root, [Revoked(serial)], validity=DAY, now=old))
    assert lists.stale(datetime.now(UTC))
    svid.verify(bob, root.certificate, crls=lists)
    with pytest.raises(ValueError, match="revoked on"):
        svid.verify(ann, root.certificate, crls=lists)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"nonsense", "neither PEM nor DER"),
        (b"\x30\x03", "revocation list: cannot be read|error parsing"),
        (
            b"-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----",
            "error parsing|cannot be read",
        ),
        (b"0" * (9 << 20), "at most 8388608"),
        (b"-----BEGIN X509 CRL-----\n-----END X509 CRL-----\n" * 65, "65 of them; at most 64"),
    ],
)
def test_what_is_no_list_is_refused(data: bytes, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Revocations.parse(data)


def test_no_lists_at_all_are_no_error() -> None:
    assert Revocations.parse(b"") == Revocations.parse(b"\n") == Revocations()
