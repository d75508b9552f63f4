"""Host and domain names, as text and as DNS writes them in bytes (RFC 1035, section 3.1)."""

import re
from typing import Final

LABEL: Final = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
HOST_LABEL: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
# The kernel's limit (__NEW_UTS_LEN); DNS allows more.
HOSTNAME_MAX: Final = 64
DOMAIN_MAX: Final = 253


def is_domain(text: str) -> bool:
    """Whether this may stand in resolv.conf: labels and dots, nothing that breaks a line."""
    labels = text.removesuffix(".").split(".")
    return len(text) <= DOMAIN_MAX and all(LABEL.fullmatch(label) for label in labels)


def is_hostname(text: str) -> bool:
    labels = text.split(".")
    return len(text) <= HOSTNAME_MAX and all(HOST_LABEL.fullmatch(label) for label in labels)


def decode_domains(data: bytes) -> tuple[str, ...]:
    """The names in a DHCP search list (RFC 3397, may be compressed) or a DNSSL option (padded).

    Raises ValueError where a name is cut off, loops or is no domain name.
    """
    names = []
    offset = 0
    while offset < len(data):
        labels, offset = _labels(data, offset)
        if not labels:
            continue
        name = ".".join(labels)
        if not is_domain(name):
            raise ValueError(f"{name!r} is no domain name")
        names.append(name)
    return tuple(names)


def _labels(data: bytes, start: int) -> tuple[list[str], int]:
    """The labels of the name at `start`, and where the next name begins."""
    labels: list[str] = []
    offset, end = start, None
    while True:
        if offset >= len(data):
            raise ValueError("domain name: cut off")
        length = data[offset]
        if length >= 0xC0:
            if offset + 1 >= len(data):
                raise ValueError("domain name: cut off")
            target = (length & 0x3F) << 8 | data[offset + 1]
            end = offset + 2 if end is None else end
            # Only backwards: so it always ends.
            if target >= offset or len(labels) > DOMAIN_MAX:
                raise ValueError("domain name: its compression loops")
            offset = target
            continue
        if length > 63:
            raise ValueError(f"domain name: a label of {length} bytes")
        offset += 1
        if length == 0:
            return labels, offset if end is None else end
        if offset + length > len(data):
            raise ValueError("domain name: cut off")
        labels.append(data[offset : offset + length].decode("ascii", "replace"))
        offset += length
