"""A bundle on this side: a version of the node in a file, and its signature beside it."""

from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from aer.errors import AerError
from initd import release
from initd.release import Manifest

PIECE: Final = 256 << 10


@dataclass(frozen=True, slots=True)
class Bundle:
    path: Path
    encoded: bytes
    """The manifest, byte by byte."""
    manifest: Manifest

    @classmethod
    def read(cls, path: Path) -> "Bundle":
        """Raises AerError: it is none."""
        try:
            with path.open("rb") as file:
                length = release.manifest_length(file.read(release.HEAD))
                encoded = file.read(length)
                manifest = release.parse(encoded)
        except release.Unusable as e:
            raise AerError(f"{path}: {e}", "give the aurae_VERSION.bundle of make image") from e
        except OSError as e:
            raise AerError(f"{path}: {e.strerror}") from e
        whole = len(release.head(encoded)) + manifest.stored
        size = path.stat().st_size
        if size != whole:
            raise AerError(
                f"{path}: has {size} bytes, and should have {whole}", "make or fetch it anew"
            )
        return cls(path, encoded, manifest)

    @property
    def signature(self) -> Path:
        return self.path.with_name(f"{self.path.name}.sig")

    def content(self, offset: int) -> Iterator[bytes]:
        """What comes after the manifest, from there on."""
        with self.path.open("rb") as file:
            file.seek(len(release.head(self.encoded)) + offset)
            while data := file.read(PIECE):
                yield data

    def sign(self, key: Path) -> None:
        """Write the signature. Raises AerError."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        try:
            private = load_pem_private_key(key.read_bytes(), None)
        except OSError as e:
            raise AerError(f"{key}: {e.strerror}") from e
        except (ValueError, TypeError) as e:
            raise AerError(f"{key}: is no key in PEM without a passphrase") from e
        if not isinstance(private, Ed25519PrivateKey):
            raise AerError(
                f"{key}: is no Ed25519 key", "make one: openssl genpkey -algorithm ed25519"
            )
        self.signature.write_bytes(b64encode(private.sign(release.SIGNED + self.encoded)) + b"\n")
