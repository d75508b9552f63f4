"""What a node that nobody has claimed shows on its console, and what its claimer gives back.

It says which key the node has, holds a secret that only the node and who reads its console know,
and a checksum, so that a misread word is told from a wrong node:

| bytes | what |
|---|---|
| 10 | SHA-256 of the key's SubjectPublicKeyInfo (RFC 5280, section 4.1), its beginning |
| 5 | the secret |
| 1 | SHA-256 of those before, its first byte |

For people it is 16 words, for a QR code 26 characters of base32 (RFC 4648, without padding).
"""

import base64
import difflib
import hashlib
import hmac
import re
from typing import Final, NamedTuple, Self

from runtime.identity.words import WORDS

KEY: Final = 10
SECRET: Final = 5
LENGTH: Final = KEY + SECRET + 1

_BASE32: Final = re.compile(r"[A-Za-z2-7]{26}")
_PADDING: Final = "=" * 6
# Of a word, if it is cut short: these letters tell it from all others.
_ENOUGH: Final = 3

# The name in the certificate that the node shows then. Which node it is says the key alone.
NAME: Final = "unclaimed.aurae.invalid"


class Fingerprint(NamedTuple):
    """The beginning of the key's hash, and the secret."""

    key: bytes
    secret: bytes

    def __repr__(self) -> str:
        return "Fingerprint(…)"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Words with anything but letters between them, each perhaps cut to its first three
        letters, or base32. Raises ValueError: it was misread."""
        found = text.strip()
        if _BASE32.fullmatch(found):
            data = base64.b32decode(found.upper() + _PADDING)
        else:
            words = re.findall(r"[a-z]+", found.lower())
            if len(words) != LENGTH:
                raise ValueError(
                    f"the fingerprint has {len(words)} words; the node shows {LENGTH}, or 26 "
                    "characters in its QR code"
                )
            data = bytes(map(_number, words))
        if not hmac.compare_digest(data[-1:], _checksum(data[:-1])):
            raise ValueError("the fingerprint is misread: its checksum is wrong; compare the words")
        return cls(data[:KEY], data[KEY:-1])

    def words(self) -> str:
        return " ".join(WORDS[number] for number in self._data())

    def base32(self) -> str:
        return base64.b32encode(self._data()).decode().rstrip("=")

    def _data(self) -> bytes:
        data = self.key + self.secret
        return data + _checksum(data)


def of_key(public: bytes) -> bytes:
    """What a fingerprint says of a public key; `public` is its SubjectPublicKeyInfo, DER."""
    return hashlib.sha256(public).digest()[:KEY]


def of_certificate(certificate: bytes) -> bytes:
    """What a fingerprint says of the key of a certificate, DER. Raises ValueError."""
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    key = x509.load_der_x509_certificate(certificate).public_key()
    return of_key(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


def _checksum(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()[:1]


def _number(word: str) -> int:
    """Raises ValueError, which names the words that may have been meant."""
    meant = [i for i, known in enumerate(WORDS) if len(word) >= _ENOUGH and known.startswith(word)]
    if len(meant) == 1:
        return meant[0]
    near = difflib.get_close_matches(word, WORDS, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise ValueError(f"the fingerprint is misread: {word} is none of its words{hint}")
