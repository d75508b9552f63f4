"""Who may say what a version of this node is."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from initd.errors import FailedPrecondition, InvalidArgument
from initd.release import SIGNED

_END: Final = b"-----END PUBLIC KEY-----\n"


def load(places: Iterable[Path]) -> list[Ed25519PublicKey]:
    """The keys in files, and in the files of folders. Raises FailedPrecondition: there is none."""
    found: list[Ed25519PublicKey] = []
    for place in places:
        for path in sorted(place.glob("*.pem")) if place.is_dir() else [place]:
            found += _keys_in(path)
    if not found:
        raise FailedPrecondition(
            "node: has no keys to believe an upgrade by; build its image with UPGRADE_KEYS"
        )
    return found


def _keys_in(path: Path) -> Iterator[Ed25519PublicKey]:
    """What is no such key is left out: the others still are."""
    try:
        content = path.read_bytes()
    except OSError:
        return
    for block in content.split(_END)[:-1]:
        try:
            key = load_pem_public_key(block + _END)
        except ValueError:
            continue
        if isinstance(key, Ed25519PublicKey):
            yield key


def check(places: Iterable[Path], manifest: bytes, signature: bytes) -> None:
    """Raises InvalidArgument: none of the keys has signed it."""
    for key in load(places):
        try:
            key.verify(signature, SIGNED + manifest)
        except InvalidSignature:
            continue
        return
    raise InvalidArgument(
        "signature: is of none of this node's keys; sign the bundle by aer image sign"
    )
