"""Bundles on this side: made, signed, read; and the words of `aer node upgrade`."""

import os
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from aer import cli
from aer.bundle import Bundle
from aer.errors import AerError
from image import bundle
from initd import release
from initd.errors import InvalidArgument
from initd.release import Place, Reader
from runtime.upgrade import keys
from tests.unit.runtime.upgrade_node import tree_of, uki

KEY = Ed25519PrivateKey.generate()


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """What `image.bundle` makes of what `make image` leaves."""
    tree, root_hash = tree_of(b"root")
    (tmp_path / "root.erofs").write_bytes(os.urandom(3_000_000) + bytes(1_000_000))
    (tmp_path / "root.verity").write_bytes(tree)
    (tmp_path / "aurae.efi").write_bytes(uki(root_hash))
    output = tmp_path / "aurae_2.0.bundle"
    manifest = bundle.make(tmp_path, output, "2.0")
    assert (manifest.roothash, manifest.architecture) == (root_hash, "x86_64")
    return output


def private(path: Path, key: Ed25519PrivateKey | ec.EllipticCurvePrivateKey = KEY) -> Path:
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return path


def public(path: Path, *signers: Ed25519PrivateKey) -> Path:
    found = [s.public_key() for s in signers]
    form = PublicFormat.SubjectPublicKeyInfo
    path.write_bytes(b"".join(key.public_bytes(Encoding.PEM, form) for key in found))
    return path


def test_a_bundle_holds_what_it_was_made_of(made: Path) -> None:
    found = Bundle.read(made)
    reader = Reader(found.manifest, Place())
    parts: dict[str, bytes] = {}
    for data in found.content(0):
        for piece in reader.feed(data):
            parts[piece.part.name] = parts.get(piece.part.name, b"") + piece.data
    reader.end()
    names = {"root": "root.erofs", "verity": "root.verity", "uki": "aurae.efi"}
    assert parts == {name: (made.parent / file).read_bytes() for name, file in names.items()}


def test_two_bundles_of_the_same_are_equal(made: Path) -> None:
    again = made.with_name("again.bundle")
    bundle.make(made.parent, again, "2.0")
    assert again.read_bytes() == made.read_bytes()


def test_a_node_believes_what_one_of_its_keys_has_signed(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call = cli.parse(["image", "sign", str(made), "--key", str(private(tmp_path / "key"))])
    assert call.command.run(call) == 0
    assert "version 2.0, signed" in capsys.readouterr().out
    import base64

    signature = base64.b64decode(made.with_name(f"{made.name}.sig").read_bytes())
    encoded = Bundle.read(made).encoded
    other = Ed25519PrivateKey.generate()
    keys.check([public(tmp_path / "keys.pem", other, KEY)], encoded, signature)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/none.pem").write_text("no key")
    public(tmp_path / "folder/ours.pem", KEY)
    keys.check([tmp_path / "missing", tmp_path / "folder"], encoded, signature)
    with pytest.raises(InvalidArgument):
        keys.check([public(tmp_path / "keys.pem", other)], encoded, signature)
    with pytest.raises(InvalidArgument):
        keys.check([tmp_path / "folder"], encoded + b" ", signature)


def test_only_an_ed25519_key_signs(made: Path, tmp_path: Path) -> None:
    other = private(tmp_path / "ec", ec.generate_private_key(ec.SECP256R1()))
    for key, text in ((other, "no Ed25519"), (made, "no key"), (tmp_path / "none", "No such file")):
        with pytest.raises(AerError, match=text):
            Bundle.read(made).sign(key)


def test_what_is_no_whole_bundle_is_said_at_once(made: Path) -> None:
    cut = made.with_name("cut.bundle")
    cut.write_bytes(made.read_bytes()[:-1])
    with pytest.raises(AerError, match="should have"):
        Bundle.read(cut)
    for content in (b"", b"MZ" * 100, release.head(b"{}")):
        cut.write_bytes(content)
        with pytest.raises(AerError):
            Bundle.read(cut)


@pytest.mark.parametrize(
    ("words", "command"),
    [
        (["x.bundle"], "to"),
        (["to", "x.bundle"], "to"),
        (["--reboot", "x.bundle"], "to"),
        (["https://host/x"], "to"),
        (["status"], "status"),
        (["cancel"], "cancel"),
        (["rollback", "--reboot"], "rollback"),
    ],
)
def test_what_to_upgrade_to_needs_no_word_before_it(words: list[str], command: str) -> None:
    call = cli.parse(["--timeout", "5s", "node", "upgrade", *words])
    assert call.command.words == ("node", "upgrade", command)
