"""What the node proves itself with, and whom it trusts: checked before anything listens."""

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from runtime.identity.spiffe import SpiffeId

CERTIFICATE: Final = "aurae.node.crt"
KEY: Final = "aurae.node.key"
BUNDLE: Final = "aurae.ca.crt"

REMEDY: Final = "pass it at boot (SMBIOS, fw_cfg or initramfs); `aer pki` makes it"

# OpenSSL's X509_V_FLAG_NO_CHECK_TIME, which Python has no name for.
NO_CHECK_TIME: Final = 0x200000

# How a certificate begins its public key if that is Ed25519 (RFC 8410, sections 3 and 4).
ED25519_KEY: Final = bytes.fromhex("302a300506032b6570032100")


class Unusable(Exception):
    """A credential is missing or unusable. The message names it and the remedy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """Usable together: the key is the certificate's, which the bundle vouches for."""

    certificate: bytes
    key: bytes
    bundle: bytes
    identity: SpiffeId
    """Who the node is."""
    expired: bool
    """Callers will refuse the certificate at the node's present time."""


def load(folder: Path) -> Credentials:
    """Read and check all three. Raises Unusable.

    The check is a TLS handshake of the node with itself, in memory: the library that shakes hands
    knows best what it takes, and `ssl` is imported by asyncio anyway, unlike a library that parses
    certificates.
    """
    certificate, key, bundle = (_read(folder / name) for name in (CERTIFICATE, KEY, BUNDLE))
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        server.load_cert_chain(folder / CERTIFICATE, folder / KEY, password=_no_password)
    except (ssl.SSLError, ValueError, OSError) as e:
        raise Unusable(_chain_fault(folder, e)) from e
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    try:
        client.load_verify_locations(cadata=bundle.decode("ascii"))
    except (ssl.SSLError, ValueError) as e:
        raise Unusable(
            f"credential {BUNDLE}: holds no PEM certificates ({_fact(e)}); {REMEDY}"
        ) from e
    try:
        peer, expired = _handshake(client, server), False
    except ssl.SSLCertVerificationError:
        # A clock that is wrong at boot must not keep the API away for good: time may be mended.
        client.verify_flags |= ssl.VerifyFlags(NO_CHECK_TIME)
        try:
            peer, expired = _handshake(client, server), True
        except ssl.SSLError as e:
            raise Unusable(
                f"credential {CERTIFICATE}: {BUNDLE} does not vouch for it ({_fact(e)}); "
                "give the node an SVID and the bundle of one trust domain"
            ) from e
    except ssl.SSLError as e:
        raise Unusable(f"credential {CERTIFICATE}: cannot be used ({_fact(e)}); {REMEDY}") from e
    return Credentials(
        certificate=certificate,
        key=key,
        bundle=bundle,
        identity=_identity(peer),
        expired=expired,
    )


def _read(path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except FileNotFoundError as e:
        raise Unusable(f"credential {path.name}: is missing; {REMEDY}") from e
    except OSError as e:
        raise Unusable(f"credential {path.name}: cannot be read ({e.strerror}); {REMEDY}") from e
    if b"-----END " not in content:
        raise Unusable(f"credential {path.name}: is no PEM file, or cut short; {REMEDY}")
    return content


def _no_password() -> str:
    """An encrypted key must be an error, not a question on the console."""
    return ""


def _chain_fault(folder: Path, error: Exception) -> str:
    """Which of the two it is that `load_cert_chain` refused: it does not say."""
    if isinstance(error, ssl.SSLError) and error.reason == "KEY_VALUES_MISMATCH":
        return f"credential {KEY}: is not the key of {CERTIFICATE}; {REMEDY}"
    alone = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        alone.load_verify_locations(folder / CERTIFICATE)
    except (ssl.SSLError, OSError):
        return f"credential {CERTIFICATE}: is no PEM certificate, or damaged; {REMEDY}"
    return f"credential {KEY}: is no unencrypted PEM key, or damaged; {REMEDY}"


def _fact(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    reason = error.reason if isinstance(error, ssl.SSLError) else None
    return (reason or str(error)).replace("_", " ").lower()


def _handshake(client: ssl.SSLContext, server: ssl.SSLContext) -> ssl.SSLObject:
    """The client's side after the handshake; it has the server's certificate."""
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    asking = client.wrap_bio(back, there)
    answering = server.wrap_bio(there, back, server_side=True)
    # TLS 1.3: hello; hello, certificate and finished; finished.
    for side in (asking, answering, asking, answering):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
    return asking


def _identity(side: ssl.SSLObject) -> SpiffeId:
    if ED25519_KEY in (side.getpeercert(binary_form=True) or b""):
        raise Unusable(
            f"credential {CERTIFICATE}: has an Ed25519 key, which gRPC's clients refuse; issue it "
            "with `aer pki` for an ECDSA P-256 key"
        )
    peer: dict[str, Any] = side.getpeercert() or {}
    uris = [value for kind, value in peer.get("subjectAltName", ()) if kind == "URI"]
    if len(uris) != 1:
        raise Unusable(
            f"credential {CERTIFICATE}: has {len(uris)} URIs in its subjectAltName, an SVID has "
            "exactly one; issue it with `aer pki`"
        )
    try:
        return SpiffeId.parse(uris[0])
    except ValueError as e:
        raise Unusable(f"credential {CERTIFICATE}: {e}; issue it with `aer pki`") from e
