"""A workload with the `spiffe` package, which is not ours: `workload_peer.py WHAT`.

It finds the socket as every workload does. A program of its own: the package brings the messages of
the Workload API again, and one process has room for them once. Prints one JSON object.
"""

import json
import sys
import threading
from typing import Any

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
    """The serial numbers of three SVIDs, as they are pushed."""
    seen: list[str] = []
    enough = threading.Event()
    with X509Source(timeout_in_seconds=20) as source:

        def note() -> None:
            serial = str(source.svid.leaf.serial_number)
            if serial not in seen:
                seen.append(serial)
            if len(seen) >= 3:
                enough.set()

        source.subscribe_for_updates(note)
        note()
        enough.wait(60)
    return {"serials": seen}


json.dump({"fetch": fetch, "refused": refused, "rotated": rotated}[sys.argv[1]](), sys.stdout)
