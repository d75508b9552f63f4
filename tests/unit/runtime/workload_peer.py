"""A workload with the `spiffe` package, which is not ours: `workload_peer.py WHAT`.

It finds the socket as every workload does. A program of its own: the package brings the messages of
the Workload API again, and one process has room for them once. Prints one JSON object.
"""

import json
import socket
import ssl
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from spiffe import JwtBundle, JwtSvid, SpiffeId, TrustDomain, WorkloadApiClient, X509Source


def fetch() -> dict[str, Any]:
    """All that there is to be had."""
    with WorkloadApiClient() as client:
        context = client.fetch_x509_context(timeout=20)
        svid = context.default_svid
        bundles = client.fetch_x509_bundles(timeout=20)
        token = client.fetch_jwt_svid({"db"}, timeout=20)
        domain = TrustDomain(svid.spiffe_id.trust_domain.name)
        keys = client.fetch_jwt_bundles(timeout=20).get_bundle_for_trust_domain(domain)
        assert isinstance(keys, JwtBundle)
        # With the bundle here, and by the node.
        alone = JwtSvid.parse_and_validate(token.token, keys, {"db"})
        asked = client.validate_jwt_svid(token.token, "db", timeout=20)
        return {
            "id": str(svid.spiffe_id),
            "chain": len(svid.cert_chain),
            "bundles": sorted(str(b.trust_domain.name) for b in bundles.bundles),
            "token": [str(alone.spiffe_id), str(asked.spiffe_id), sorted(asked.audience)],
        }


def refused() -> dict[str, Any]:
    """Another's identity."""
    with WorkloadApiClient() as client:
        own = str(client.fetch_x509_svid(timeout=20).spiffe_id)
        try:
            client.fetch_jwt_svid({"db"}, subject=SpiffeId(f"{own}x"), timeout=20)
        except Exception as e:
            return {"error": str(e)}
        return {}


def rotated() -> dict[str, Any]:
    """Two SVIDs that are pushed after the first: the seconds which the one before had left."""
    seen: list[int] = []
    left: list[float] = []
    ends = 0.0
    enough = threading.Event()
    with X509Source(timeout_in_seconds=20) as source:

        def note() -> None:
            nonlocal ends
            leaf = source.svid.leaf
            if leaf.serial_number in seen:
                return
            if seen:
                left.append(ends - time.time())
            seen.append(leaf.serial_number)
            ends = leaf.not_valid_after_utc.timestamp()
            if len(left) == 2:
                enough.set()

        source.subscribe_for_updates(note)
        note()
        enough.wait(60)
    return {"left": left}


def _tls(side: Any) -> ssl.SSLContext:
    """With what this workload has been given, and nothing else."""
    with WorkloadApiClient() as client:
        given = client.fetch_x509_context(timeout=20)
    svid = given.default_svid
    roots = given.x509_bundle_set.get_bundle_for_trust_domain(svid.spiffe_id.trust_domain)
    assert roots is not None
    context = ssl.SSLContext(side)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    assert roots is not None
    pems = [root.public_bytes(Encoding.PEM).decode() for root in roots.x509_authorities]
    context.load_verify_locations(cadata="".join(pems))
    key = svid.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "pair.pem")
        file.write_bytes(b"".join(c.public_bytes(Encoding.PEM) for c in svid.cert_chain) + key)
        context.load_cert_chain(file)
    return context


def _peer(connection: ssl.SSLSocket) -> str:
    certificate: Any = connection.getpeercert()
    return ", ".join(value for kind, value in certificate["subjectAltName"] if kind == "URI")


def serve() -> dict[str, Any]:
    """Mutual TLS on the loopback: who calls."""
    context = _tls(ssl.PROTOCOL_TLS_SERVER)
    with socket.create_server(("127.0.0.1", 4433)) as listener:
        print("listening", flush=True)
        accepted, _ = listener.accept()
        with context.wrap_socket(accepted, server_side=True) as connection:
            connection.sendall(b"hello")
            return {"peer": _peer(connection)}


def call() -> dict[str, Any]:
    """Who serves."""
    context = _tls(ssl.PROTOCOL_TLS_CLIENT)
    plain = socket.create_connection(("127.0.0.1", 4433), timeout=20)
    with context.wrap_socket(plain) as connection:
        return {"peer": _peer(connection), "said": connection.recv(5).decode()}


WHAT = {
    "fetch": fetch,
    "refused": refused,
    "rotated": rotated,
    "serve": serve,
    "call": call,
}
print(json.dumps(WHAT[sys.argv[1]]()))
