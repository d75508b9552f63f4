"""Whether the node's credentials are usable together: a TLS handshake of the node with itself.

The library that shakes hands knows best what it takes. Loading it and shaking hands takes a good
part of the API's start, so it is done as soon as the API answers, or when gRPC refuses what it was
given, to say why.
"""

import ssl
from pathlib import Path
from typing import Any, Final

from runtime.server.credentials import Credentials, Source, Unusable

# OpenSSL's X509_V_FLAG_NO_CHECK_TIME, which Python has no name for.
NO_CHECK_TIME: Final = 0x200000


def verify(credentials: Credentials) -> bool:
    """Whether callers will refuse the certificate at the node's present time: it is expired, or
    not yet valid. Raises Unusable for all else that is wrong."""
    folder, source = credentials.folder, credentials.source
    certificate, key = folder / source.certificate, folder / source.key
    name = f"credential {source.certificate}"
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        server.load_cert_chain(certificate, key, password=_no_password)
    except (ssl.SSLError, ValueError, OSError) as e:
        raise Unusable(_chain_fault(folder, source, e)) from e
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    try:
        client.load_verify_locations(cadata=credentials.bundle.decode("ascii"))
    except (ssl.SSLError, ValueError) as e:
        raise Unusable(
            f"credential {source.bundle}: holds no PEM certificates ({_fact(e)}); {source.remedy}"
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
                f"{name}: {source.bundle} does not vouch for it ({_fact(e)}); give the node an "
                "SVID and the bundle of one trust domain"
            ) from e
    except ssl.SSLError as e:
        raise Unusable(f"{name}: cannot be used ({_fact(e)}); {source.remedy}") from e
    if _uris(peer) != [str(credentials.identity)]:
        raise Unusable(f"{name}: its names cannot be read; {source.remedy}")
    return expired


def _no_password() -> str:
    """An encrypted key must be an error, not a question on the console."""
    return ""


def _chain_fault(folder: Path, source: Source, error: Exception) -> str:
    """Which of the two it is that `load_cert_chain` refused: it does not say."""
    certificate, key = f"credential {source.certificate}", f"credential {source.key}"
    if isinstance(error, ssl.SSLError) and error.reason == "KEY_VALUES_MISMATCH":
        return f"{key}: is not the key of {source.certificate}; {source.remedy}"
    alone = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        alone.load_verify_locations(folder / source.certificate)
    except (ssl.SSLError, OSError):
        return f"{certificate}: is no PEM certificate, or damaged; {source.remedy}"
    return f"{key}: is no unencrypted PEM key, or damaged; {source.remedy}"


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


def _uris(side: ssl.SSLObject) -> list[str]:
    peer: dict[str, Any] = side.getpeercert() or {}
    return [value for kind, value in peer.get("subjectAltName", ()) if kind == "URI"]
