"""`aer pki` over the years: renewing, revoking, signing, bundles, passphrases, exports."""

import json
import os
import pty
import stat
import subprocess
import sys
import termios
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pexpect
import pexpect.fdpexpect
import pytest
import yaml

from runtime.identity import authority, requests, store, svid
from runtime.identity.bundles import Bundle, Bundles
from runtime.identity.revocation import Revocations
from runtime.identity.spiffe import SpiffeId

from .conftest import Result

DAY = timedelta(days=1)
# The first terminal that the leader of a session opens is the session's.
_ON_TERMINAL = """
import os, sys
os.close(os.open(os.ttyname(0), os.O_RDWR))
from aer.__main__ import main
sys.exit(main(sys.argv[1:]))
"""
_VERIFY = ("openssl", "verify", "-x509_strict", "-crl_check", "-CAfile")


class Pki:
    """`aer pki` on one folder."""

    def __init__(self, aer: Callable[..., Result], path: Path) -> None:
        self.aer, self.path = aer, path

    def __call__(self, *words: str | Path) -> Result:
        return self.aer("pki", *map(str, words), "--dir", str(self.path))

    def done(self, *words: str | Path) -> str:
        result = self(*words)
        assert (result.status, result.err) == (0, "")
        return result.out

    def refusal(self, *words: str | Path, status: int = 1) -> str:
        result = self(*words)
        assert (result.status, result.out) == (status, "")
        return result.err

    def read(self, name: str) -> bytes:
        return (self.path / name).read_bytes()

    def inspect(self, *words: str | Path) -> Any:
        result = self.aer("pki", "inspect", *map(str, words), "--output", "json")
        return json.loads(result.out)


@pytest.fixture
def pki(aer: Callable[..., Result], tmp_path: Path) -> Pki:
    made = Pki(aer, tmp_path / "pki")
    made.done("init", "--trust-domain", "example.org")
    made.done("issue", "node", "dev")
    made.done("issue", "person", "ann", "--validity", "30d")
    return made


def another(pki: Pki, domain: str) -> Pki:
    made = Pki(pki.aer, pki.path.parent / f"another-{domain}")
    made.done("init", "--trust-domain", domain)
    return made


def certificate(pem: bytes) -> Any:
    return svid.certificates(pem)[0]


def test_renewing_keeps_key_names_and_length(pki: Pki) -> None:
    for name in ("node/dev", "person/ann"):
        before, key = certificate(pki.read(f"{name}.crt")), pki.read(f"{name}.key")
        pki.done("renew", pki.path / f"{name}.crt")
        after = certificate(pki.read(f"{name}.crt"))
        assert pki.read(f"{name}.key") == key
        assert after.serial_number != before.serial_number
        assert svid.parse(svid.pem(after)).id == svid.parse(svid.pem(before)).id
        assert svid.parse(svid.pem(after)).dns_name == svid.parse(svid.pem(before)).dns_name
        length = after.not_valid_after_utc - after.not_valid_before_utc
        assert length == before.not_valid_after_utc - before.not_valid_before_utc
        svid.match_key(svid.pem(after), key)
        svid.verify(svid.pem(after), pki.read("ca.crt"))


def test_renewing_with_a_new_key_replaces_both(pki: Pki) -> None:
    key = pki.read("node/dev.key")
    said = pki.done("renew", pki.path / "node/dev.crt", "--new-key", "--validity", "2d")
    assert said.endswith("with a new key\n")
    assert pki.read("node/dev.key") != key
    svid.match_key(pki.read("node/dev.crt"), pki.read("node/dev.key"))
    assert stat.S_IMODE((pki.path / "node/dev.key").stat().st_mode) == 0o600
    assert sorted(file.name for file in (pki.path / "node").iterdir()) == ["dev.crt", "dev.key"]


def test_a_nodes_authority_is_renewed_as_one(pki: Pki) -> None:
    pki.done("issue", "node-ca", "dev")
    before = certificate(pki.read("node/dev.ca.crt"))
    pki.done("renew", pki.path / "node/dev.ca.crt")
    after = certificate(pki.read("node/dev.ca.crt"))
    assert after != before
    assert after.subject == before.subject
    assert svid.issued(certificate(pki.read("ca.crt")), after)


def test_a_renewed_root_still_vouches_for_what_it_signed(pki: Pki) -> None:
    before = pki.read("ca.crt")
    pki.done("renew", pki.path / "ca.crt", "--validity", "9000d")
    assert pki.read("ca.crt") != before
    svid.verify(pki.read("person/ann.crt"), pki.read("ca.crt"))
    pki.done("renew", pki.path / "person/ann.crt")
    svid.verify(pki.read("person/ann.crt"), before)
    assert "another authority" in pki.refusal("renew", pki.path / "ca.crt", "--new-key", status=2)


def test_only_what_this_authority_issued_is_renewed_or_revoked(pki: Pki) -> None:
    other = another(pki, "example.org")
    for word in ("renew", "revoke"):
        said = other.refusal(word, pki.path / "person/ann.crt")
        assert "not issued by the authority in this folder" in said
    assert not (other.path / "crl.pem").exists()
    assert "end in .crt" in pki.refusal("renew", pki.path / "person/ann.key", status=2)


def test_what_is_revoked_stays_revoked_and_is_not_renewed(pki: Pki, tmp_path: Path) -> None:
    ann, crl, bundle = pki.path / "person/ann.crt", pki.path / "crl.pem", pki.path / "ca.crt"
    said = pki.done("revoke", ann, "--reason", "key-compromise")
    assert said == f"{crl}: number 1, 1 revoked, a newer one due within 30 days\n"
    pki.done("revoke", "--serial", "7a:bb", "--serial", "7abc")
    assert "number 3, 3 revoked" in pki.done("revoke")
    lists = Revocations.parse(crl.read_bytes(), svid.certificates(bundle.read_bytes()))
    with pytest.raises(ValueError, match="revoked on"):
        svid.verify(ann.read_bytes(), bundle.read_bytes(), crls=lists)
    svid.verify(pki.read("node/dev.crt"), bundle.read_bytes(), crls=lists)
    assert "revoked on" in pki.refusal("renew", ann)
    # And openssl says the same.
    both = tmp_path / "both.pem"
    both.write_bytes(bundle.read_bytes() + crl.read_bytes())
    for name, status in (("person/ann.crt", 2), ("node/dev.crt", 0)):
        line = [*_VERIFY, str(both), str(pki.path / name)]
        done = subprocess.run(line, capture_output=True, text=True, check=False)
        assert (done.returncode, "revoked" in done.stderr) == (status, status != 0), done.stderr


def test_a_list_of_another_authority_is_not_continued(pki: Pki) -> None:
    other = another(pki, "example.org")
    other.done("revoke")
    (pki.path / "crl.pem").write_bytes(other.read("crl.pem"))
    assert "not signed by an authority of the bundle" in pki.refusal("revoke")


def test_a_request_gets_a_certificate_for_its_key_and_nothing_else_of_it(
    pki: Pki, tmp_path: Path
) -> None:
    key = authority.make_key(authority.KeyType.ECDSA_P256)
    request = tmp_path / "wish.csr"
    request.write_bytes(requests.make(key, SpiffeId.parse("spiffe://evil.org/person/root")))
    shown = pki.inspect(request)[0]
    assert shown["spiffe_id"] == "spiffe://evil.org/person/root"
    assert shown["key_sha256"] == svid.key_fingerprint(svid.private_key(key).public_key())
    for words, spiffe_id, dns_name in (
        (["--node", "two"], "/node/two", "two.node.example.org"),
        (["--node", "two", "--dns", "two.example.org"], "/node/two", "two.example.org"),
        (["--id", "/person/bob"], "/person/bob", None),
        (["--id", "spiffe://example.org/person/bob"], "/person/bob", None),
    ):
        pem = pki.done("sign", request, *words).encode()
        issued = svid.verify(pem, pki.read("ca.crt"))
        assert (issued.id.path, issued.dns_name) == (spiffe_id, dns_name)
        svid.match_key(pem, key)
    target = tmp_path / "two.ca.crt"
    pki.done("sign", request, "--node-ca", "two", "--to", target)
    node_ca = authority.Pair(target.read_bytes(), key)
    cell = SpiffeId.parse("spiffe://example.org/node/two/cell/a")
    leaf = authority.issue(node_ca, cell, key, validity=DAY)
    assert svid.verify(leaf.certificate + node_ca.certificate, pki.read("ca.crt")).id == cell


def test_a_certificate_whose_key_is_elsewhere_is_renewed_without_it(
    pki: Pki, tmp_path: Path
) -> None:
    key = authority.make_key(authority.KeyType.ECDSA_P256)
    request, target = tmp_path / "a.csr", tmp_path / "a.crt"
    request.write_bytes(requests.make(key))
    pki.done("sign", request, "--id", "/person/bob", "--to", target)
    before = target.read_bytes()
    pki.done("renew", target)
    assert target.read_bytes() != before
    svid.match_key(target.read_bytes(), key)
    assert "a.key: does not exist" in pki.refusal("renew", target, "--new-key")


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        ([], 2, "say for whom, in one way"),
        (["--node", "a", "--id", "/b"], 2, "say for whom, in one way"),
        (["--id", "/a", "--dns", "a.org"], 2, "--dns is for nodes"),
        (["--id", "spiffe://other.org/a"], 1, "which is another authority"),
        (["--id", "a"], 1, "does not begin with /"),
        (["--id", "/a/../b"], 1, "no . and no .."),
    ],
)
def test_a_request_is_not_signed_for(
    pki: Pki, tmp_path: Path, words: list[str], status: int, said: str
) -> None:
    request = tmp_path / "a.csr"
    request.write_bytes(requests.make(authority.make_key(authority.KeyType.ECDSA_P256)))
    assert said in pki.refusal("sign", request, *words, status=status)


def test_a_request_that_its_key_did_not_sign_is_refused(pki: Pki, tmp_path: Path) -> None:
    import base64

    pem = requests.make(authority.make_key(authority.KeyType.ECDSA_P256))
    body = base64.b64decode(b"".join(pem.splitlines()[1:-1]))
    damaged = body[:-1] + bytes([body[-1] ^ 1])
    request = tmp_path / "a.csr"
    request.write_bytes(
        b"-----BEGIN CERTIFICATE REQUEST-----\n"
        + base64.encodebytes(damaged)
        + b"-----END CERTIFICATE REQUEST-----\n"
    )
    assert "not signed by its own key" in pki.refusal("sign", request, "--id", "/a")
    request.write_bytes(b"nonsense")
    assert "not a certificate signing request" in pki.refusal("sign", request, "--id", "/a")


def test_an_authority_is_replaced_by_way_of_two_roots(pki: Pki) -> None:
    new = another(pki, "example.org")
    assert pki.done("bundle", "add", new.path / "ca.crt").endswith("2 roots\n")
    pki.done("bundle", "add", new.path / "ca.crt")
    new.done("issue", "person", "bob")
    for person in (pki.read("person/ann.crt"), new.read("person/bob.crt")):
        svid.verify(person, pki.read("ca.crt"))
    # The folder still issues by its own authority, and renewing that keeps the other root.
    pki.done("issue", "person", "eve")
    pki.done("renew", pki.path / "ca.crt")
    svid.verify(new.read("person/bob.crt"), pki.read("ca.crt"))
    print_of_new = svid.fingerprint(certificate(new.read("ca.crt")))
    assert pki.done("bundle", "remove", print_of_new[:12]).endswith("1 root\n")
    own = svid.fingerprint(certificate(pki.read("ca.crt")))
    assert "own authority" in pki.refusal("bundle", "remove", own)
    assert "names 0 roots" in pki.refusal("bundle", "remove", "00" * 32)


def test_a_federated_bundle_is_kept_apart(pki: Pki, tmp_path: Path) -> None:
    other = another(pki, "other.org")
    other.done("issue", "person", "ann")
    said = pki.refusal("bundle", "add", other.path / "ca.crt")
    assert "bundle of example.org: has a root of spiffe://other.org" in said
    exported = tmp_path / "other.json"
    other.done("bundle", "export", "--format", "spiffe", "--sequence", "7", "--to", exported)
    assert json.loads(exported.read_text())["spiffe_sequence"] == 7
    pki.done("bundle", "add", exported, "--trust-domain", "other.org")
    assert pki.read("federated/other.org.crt") == other.read("ca.crt")
    shown = json.loads(pki.done("bundle", "show", "--output", "json"))
    assert [entry["trust_domain"] for entry in shown] == ["example.org", "other.org"]
    assert pki.done("bundle", "show").count("\n") == 3
    bundles = Bundles.of(
        Bundle.from_pem(name, pem)
        for name, pem in (
            ("example.org", pki.read("ca.crt")),
            ("other.org", pki.read("federated/other.org.crt")),
        )
    )
    assert bundles.verify(other.read("person/ann.crt")).id.trust_domain == "other.org"
    text = pki.done("bundle", "export", "--trust-domain", "other.org")
    assert text.encode() == other.read("ca.crt")
    assert "there is no bundle of x.org" in pki.refusal(
        "bundle", "export", "--trust-domain", "x.org"
    )


def test_a_key_under_a_passphrase(
    pki: Pki, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked = Pki(pki.aer, tmp_path / "locked")
    right, wrong, empty = (tmp_path / name for name in ("right", "wrong", "empty"))
    right.write_text("correct horse\n")
    wrong.write_text("battery staple\n")
    empty.write_text("\n")
    locked.done("init", "--trust-domain", "example.org", "--passphrase-file", right)
    assert authority.is_encrypted(locked.read("ca.key"))
    issue = ("issue", "person", "ann")
    said = locked.refusal(*issue, "--passphrase-file", wrong)
    assert said == f"aer: {locked.path}/ca.key: the passphrase is wrong, or the key is damaged\n"
    assert "the passphrase is empty" in locked.refusal(*issue, "--passphrase-file", empty)
    assert "no terminal to ask for it" in locked.refusal(*issue)
    locked.done(*issue, "--passphrase-file", right)
    monkeypatch.setenv("AURAE_PKI_PASSPHRASE_FILE", str(right))
    locked.done("issue", "node-ca", "dev")
    locked.done("revoke", locked.path / "person/ann.crt")
    assert pki.inspect(locked.path / "ca.key") == [
        {"object": "private key", "key": "under a passphrase"}
    ]


def test_a_passphrase_is_asked_for_on_a_terminal(pki: Pki, tmp_path: Path) -> None:
    folder = tmp_path / "typed"
    line = ["init", "--trust-domain", "x", "--encrypt", "--dir", str(folder)]
    assert _typed(line, ["one two", "one too"]) == (1, "aer: the two passphrases differ")
    assert _typed(line, ["one two", "one two"])[0] == 0
    issue = ["issue", "person", "ann", "--dir", str(folder)]
    status, said = _typed(issue, ["one too"])
    assert (status, said.partition(": ")[0]) == (1, "aer")
    assert "the passphrase is wrong" in said
    assert _typed(issue, ["one two"])[0] == 0


def _typed(words: list[str], answers: list[str]) -> tuple[int, str]:
    """Exit status and the last line, of a terminal on which somebody types.

    Not by pexpect's own start, which forks: a copy of this process may die of gRPC's threads before
    it is a program of its own."""
    ours, theirs = pty.openpty()
    line = [sys.executable, "-c", _ON_TERMINAL, "pki", *words]
    with subprocess.Popen(
        line, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
    ) as program:
        os.close(theirs)
        terminal: Any = pexpect.fdpexpect.fdspawn(ours, timeout=30)
        for answer in answers:
            terminal.expect("(passphrase.*|once more): ")
            assert not termios.tcgetattr(ours)[3] & termios.ECHO
            terminal.sendline(answer)
        terminal.expect(pexpect.EOF)
    terminal.close()
    said = terminal.before.decode()
    assert not any(answer in said for answer in answers)
    return program.returncode, said.strip().splitlines()[-1]


def test_kubernetes_gets_a_secret_and_a_config_map(pki: Pki, tmp_path: Path) -> None:
    import base64

    target = tmp_path / "dev.yaml"
    file = pki.path / "node/dev.crt"
    pki.done("export", "kubernetes", file, "--namespace", "edge", "--to", target)
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    secret, bundle = yaml.safe_load_all(target.read_text())
    assert secret["type"] == "kubernetes.io/tls"
    assert secret["metadata"] == {"name": "dev", "namespace": "edge"}
    assert base64.b64decode(secret["data"]["tls.crt"]) == pki.read("node/dev.crt")
    assert base64.b64decode(secret["data"]["tls.key"]) == pki.read("node/dev.key")
    assert bundle["kind"] == "ConfigMap"
    assert bundle["data"]["ca.crt"].encode() == pki.read("ca.crt")
    listed = json.loads(pki.done("export", "kubernetes", file, "--output", "json"))
    assert [item["kind"] for item in listed["items"]] == ["Secret", "ConfigMap"]
    said = pki.refusal("export", "kubernetes", file, "--name", "x-", status=2)
    assert "no name for Kubernetes" in said


def test_spire_gets_an_upstream_authority(pki: Pki, tmp_path: Path) -> None:
    result = pki("export", "spire", tmp_path / "spire")
    assert result.status == 0
    assert "can be anybody of the trust domain" in result.err
    assert f'cert_file_path = "{tmp_path}/spire/upstream.crt"' in result.out
    pair = store.PairFiles.at(tmp_path / "spire/upstream")
    svid.match_key(pair.certificate.read_bytes(), pair.key.read_bytes())
    assert stat.S_IMODE(pair.key.stat().st_mode) == 0o600
    again = pki("export", "spire", tmp_path / "spire")
    assert (again.status, "exists already" in again.err) == (1, True)


def test_people_can_read_a_certificate(pki: Pki) -> None:
    shown = pki.aer("pki", "inspect", str(pki.path / "node/dev.crt")).out
    head, *facts = shown.splitlines()
    assert head == "certificate of spiffe://example.org/node/dev"
    table = {line[:22].strip(): line[22:] for line in facts}
    assert table["kind"] == "node"
    assert table["DNS name"] == "dev.node.example.org"
    assert table["state"] == "364 days left"
    assert table["key"] == "ECDSA P-256"
    assert table["verdict"] == "an SVID"
    assert "trusted" not in table


def test_a_chain_is_shown_whole_and_its_verdict_is_the_exit_status(
    pki: Pki, tmp_path: Path
) -> None:
    pki.done("issue", "node-ca", "dev")
    node_ca = store.PairFiles.at(pki.path / "node/dev.ca").load()
    cell = SpiffeId.parse("spiffe://example.org/node/dev/cell/a")
    leaf = authority.issue(node_ca, cell, pki.read("node/dev.key"), validity=DAY)
    file = tmp_path / "chain.pem"
    file.write_bytes(leaf.certificate + node_ca.certificate)
    bundle = ("--bundle", pki.path / "ca.crt")
    first, second = pki.inspect(file, *bundle)
    assert (first["kind"], first["trusted"]) == ("workload", "yes")
    assert second["kind"] == "authority of node dev"
    assert second["allows"] == ["URI:example.org"]
    pki.done("revoke", pki.path / "node/dev.ca.crt")
    crl = pki.path / "crl.pem"
    refused = pki.aer("pki", "inspect", str(file), *map(str, bundle), "--crl", str(crl))
    assert refused.status == 1
    assert "revoked on" in refused.out
    assert pki.inspect(crl)[0]["revoked"][0]["serial"] == second["serial"]


def test_a_certificate_that_is_no_svid_says_why(pki: Pki, tmp_path: Path) -> None:
    (tmp_path / "none").write_bytes(b"nothing at all")
    refused = pki.aer("pki", "inspect", str(tmp_path / "none"))
    assert (refused.status, refused.out) == (1, "")
    assert "holds no certificate" in refused.err
    made = subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:1024", "-nodes", "-keyout", "/dev/null"),
            *("-subj", "/CN=x", "-addext", "subjectAltName=URI:spiffe://x/a"),
            *("-addext", "basicConstraints=CA:FALSE", "-days", "1"),
        ],
        capture_output=True,
        check=True,
    )
    file = tmp_path / "x.pem"
    file.write_bytes(made.stdout)
    (shown,) = pki.inspect(file)
    assert shown["verdict"].startswith("refused: certificate: ")
    assert shown["key"] == "RSA 1024 bits"


def test_a_renewal_that_a_crash_cut_off_is_finished_or_undone(pki: Pki) -> None:
    """The new key lies beside the old one; the certificate says which of the two counts."""
    files = store.PairFiles.at(pki.path / "node/dev")
    old = files.load()
    key = authority.make_key(authority.KeyType.ECDSA_P256)
    store.replace(pki.path / "node/dev.key.next", key, 0o600)
    files.settle()
    assert files.load() == old
    signer = store.PairFiles.at(pki.path / "ca").load()
    node = SpiffeId.parse("spiffe://example.org/node/dev")
    new = authority.issue(signer, node, key, validity=DAY)
    store.replace(pki.path / "node/dev.key.next", key, 0o600)
    store.replace(files.certificate, new.certificate, 0o644)
    files.settle()
    assert files.load() == new
    assert len(list((pki.path / "node").iterdir())) == 2


def test_a_list_is_stale_once_the_next_is_due() -> None:
    key = authority.make_key(authority.KeyType.ECDSA_P256)
    signer = authority.make_authority("x", key, validity=DAY)
    lists = Revocations.parse(authority.revoke(signer, validity=DAY))
    now = datetime.now(UTC)
    assert not lists.stale(now)
    assert lists.stale(now + 2 * DAY)
