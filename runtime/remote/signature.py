"""Detached signatures: Ed25519 over the whole document, 64 bytes in a file of their own.

The form is OpenSSL's: `openssl pkeyutl -sign -rawin -inkey KEY -in FILE -out FILE.sig`.
"""

import binascii
from base64 import b64decode, b64encode
from typing import Final

# RFC 8032
KEY: Final = 32
SIGNATURE: Final = 64


def parse_key(text: str) -> bytes:
    """A public key, the base64 form of its 32 bytes. Raises ValueError with the rule."""
    try:
        key = b64decode(text, validate=True)
    except binascii.Error as e:
        raise ValueError(f"{text!r} is not base64") from e
    if len(key) != KEY:
        raise ValueError(f"{text!r} has {len(key)} bytes: an Ed25519 public key has {KEY}")
    return key


def verify(document: bytes, signature: bytes, key: bytes) -> None:
    """Raises ValueError where `signature` is not that of `key`'s owner over `document`."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    if len(signature) != SIGNATURE:
        raise ValueError(f"the signature has {len(signature)} bytes and not {SIGNATURE}")
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, document)
    except InvalidSignature:
        raise ValueError("the signature is not by the key that was given for it") from None


def make_key() -> bytes:
    """A new private key, PEM."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


class Signer:
    """Signs with a private key. ValueError where `pem` is no such key."""

    def __init__(self, pem: bytes) -> None:
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        try:
            key = load_pem_private_key(pem, None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as e:
            raise ValueError(f"is no private key in PEM: {e}") from e
        if not isinstance(key, Ed25519PrivateKey):
            raise ValueError("is no Ed25519 key")
        self._key = key

    def sign(self, document: bytes) -> bytes:
        return self._key.sign(document)

    @property
    def public(self) -> str:
        """As the kernel command line has it."""
        return b64encode(self._key.public_key().public_bytes_raw()).decode()
