"""Who calls, and whether they may."""

from collections.abc import Iterable, Mapping
from typing import Final

from initd.errors import PermissionDenied
from runtime.identity.spiffe import SpiffeId

PEOPLE: Final = "/person/"


def check(
    peer: str, authentication: Mapping[str, Iterable[bytes]], trust_domain: str | None
) -> None:
    """Raises PermissionDenied unless the caller is one of our people, or came by the Unix socket.

    `peer` and `authentication` are gRPC's; TLS has verified the chain already. The Unix socket's
    file mode let in root only.
    """
    if peer.startswith("unix:"):
        return
    if trust_domain is None or not list(authentication.get("x509_pem_cert", ())):
        raise PermissionDenied(
            f"caller {peer}: has no certificate; use an SVID of the trust domain"
        )
    needed = f"needed is one spiffe://{trust_domain}{PEOPLE}NAME"
    uris = [uri.decode(errors="replace") for uri in authentication.get("peer_uri", ())]
    if len(uris) != 1:
        raise PermissionDenied(
            f"caller: its certificate has {len(uris)} URIs in subjectAltName; {needed}"
        )
    try:
        identity = SpiffeId.parse(uris[0])
    except ValueError as e:
        raise PermissionDenied(f"caller: {e}; {needed}") from e
    if identity.trust_domain != trust_domain or not identity.below(PEOPLE):
        raise PermissionDenied(f"caller {identity}: may not use this API; {needed}")
