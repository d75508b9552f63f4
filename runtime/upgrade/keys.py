"""Who may say what a version of this node is."""

from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from initd.errors import FailedPrecondition, InvalidArgument
from initd.release import SIGNED


def load(folder: Path) -> list[Ed25519PublicKey]:
    """The keys in the image. Raises FailedPrecondition: there is none."""
    found = []
    for path in sorted(folder.glob("*.pem")):
        try:
            key = load_pem_public_key(path.read_bytes())
        except ValueError:
            continue
        if isinstance(key, Ed25519PublicKey):
            found.append(key)
    if not found:
        raise FailedPrecondition(
            "node: has no keys to believe an upgrade by; build its image with UPGRADE_KEYS"
        )
    return found


def check(folder: Path, manifest: bytes, signature: bytes) -> None:
    """Raises InvalidArgument: none of the keys has signed it."""
    for key in load(folder):
        try:
            key.verify(signature, SIGNED + manifest)
        except InvalidSignature:
            continue
        return
    raise InvalidArgument(
        "signature: is of none of this node's keys; sign the bundle by aer image sign"
    )
