"""The URI names of a certificate, read from its DER (RFC 5280, sections 4.1 and 4.2.1.6).

The node reads its own certificate this way before it listens: a library that parses certificates
takes longer to load than all the rest of the API. What is found is compared with what TLS says as
soon as the API answers; see `runtime.trust.usable`.
"""

import binascii
from collections.abc import Iterator
from typing import Final

_OBJECT_IDENTIFIER: Final = 0x06
# Context tags: extensions in TBSCertificate, uniformResourceIdentifier in GeneralName.
_EXTENSIONS: Final = 0xA3
_URI: Final = 0x86
_SUBJECT_ALT_NAME: Final = bytes.fromhex("551d11")

_BEGIN: Final = b"-----BEGIN CERTIFICATE-----"
_END: Final = b"-----END CERTIFICATE-----"


def first_certificate(pem: bytes) -> bytes:
    """The DER of the first certificate. Raises ValueError."""
    _, begin, rest = pem.partition(_BEGIN)
    body, end, _ = rest.partition(_END)
    if not begin or not end:
        raise ValueError("no certificate begins and ends in it")
    return binascii.a2b_base64(body)


def uris(certificate: bytes) -> list[str]:
    """In their order. Raises ValueError where the DER is damaged."""
    content = _only(_only(certificate), last=False)
    for tag, field in _elements(content):
        if tag != _EXTENSIONS:
            continue
        for _, extension in _elements(_only(field)):
            parts = list(_elements(extension))
            if parts[:1] == [(_OBJECT_IDENTIFIER, _SUBJECT_ALT_NAME)]:
                return [
                    name.decode("ascii", "replace")
                    for kind, name in _elements(_only(parts[-1][1]))
                    if kind == _URI
                ]
    return []


def _only(data: bytes, *, last: bool = True) -> bytes:
    """The content of the first element, which is also the last one unless told."""
    elements = list(_elements(data))
    if not elements or (last and len(elements) != 1):
        raise ValueError(f"{len(elements)} elements where one belongs")
    return elements[0][1]


def _elements(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Tag and content of each element, one after the other to the end (X.690, 8.1)."""
    at = 0
    while at < len(data):
        header = data[at : at + 2]
        if len(header) < 2:
            raise ValueError("an element is cut short")
        tag, length = header
        at += 2
        if length & 0x80:
            count = length & 0x7F
            length = int.from_bytes(data[at : at + count], "big")
            at += count
        if at + length > len(data):
            raise ValueError("an element is cut short")
        yield tag, data[at : at + length]
        at += length
