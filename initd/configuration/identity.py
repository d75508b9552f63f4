"""Who a node is by its configuration: credentials, where none says so already."""

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

FOLDER: Final = "/run/credentials/@system"

# Which credential a key of `identity` stands for.
CREDENTIALS: Final = {
    "certificate": "aurae.node.crt",
    "key": "aurae.node.key",
    "bundle": "aurae.ca.crt",
    "crl": "aurae.crl",
    "authority-certificate": "aurae.node-ca.crt",
    "authority-key": "aurae.node-ca.key",
}
_DOMAIN: Final = re.compile(r"[a-z0-9._-]{1,230}")


def place(identity: Mapping[str, Any], folder: str = FOLDER) -> Iterator[str]:
    """Write them, for us alone; gives what went wrong."""
    given = {CREDENTIALS[key]: text for key, text in identity.items() if key in CREDENTIALS}
    for domain, text in identity.get("federated", {}).items():
        if _DOMAIN.fullmatch(domain):
            given[f"aurae.federated.{domain}.crt"] = text
        else:
            yield f"identity.federated: {domain[:80]!a} is no trust domain"
    for name, text in given.items():
        try:
            _write(f"{folder}/{name}", text.encode())
        except FileExistsError:
            continue
        except OSError as error:
            yield f"identity: credential {name}: {error.strerror}"


def _write(path: str, content: bytes) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    with os.fdopen(os.open(path, flags, 0o400), "wb") as file:
        file.write(content)
