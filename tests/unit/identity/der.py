"""DER by hand (X.690), to write certificates that no library writes, and to read them again.

Nothing here is shared with what is tested.
"""

from collections.abc import Iterator
from datetime import datetime

BOOLEAN, INTEGER, BITS, OCTETS, NULL, OID = 0x01, 0x02, 0x03, 0x04, 0x05, 0x06
UTF8, IA5, UTC_TIME, GENERAL_TIME, SEQUENCE, SET = 0x0C, 0x16, 0x17, 0x18, 0x30, 0x31


class NotDer(Exception):
    """What was read breaks the encoding rules."""


def element(tag: int, *parts: bytes) -> bytes:
    content = b"".join(parts)
    if len(content) < 0x80:
        return bytes([tag, len(content)]) + content
    length = len(content).to_bytes((len(content).bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + content


def sequence(*parts: bytes) -> bytes:
    return element(SEQUENCE, *parts)


def integer(number: int) -> bytes:
    return element(INTEGER, number.to_bytes(number.bit_length() // 8 + 1, "big", signed=True))


def oid(text: str) -> bytes:
    first, second, *rest = map(int, text.split("."))
    content = b""
    for number in (first * 40 + second, *rest):
        groups = [number & 0x7F]
        while number := number >> 7:
            groups.append(0x80 | (number & 0x7F))
        content += bytes(reversed(groups))
    return element(OID, content)


def bits(data: bytes, unused: int = 0) -> bytes:
    return element(BITS, bytes([unused]), data)


def named_bits(*numbers: int) -> bytes:
    """A bit list with these bits set, without zeros at its end."""
    if not numbers:
        return bits(b"")
    length = max(numbers) + 1
    value = sum(1 << (length - 1 - number) for number in set(numbers))
    unused = -length % 8
    return bits((value << unused).to_bytes((length + 7) // 8, "big"), unused)


def time(moment: datetime) -> bytes:
    if 1950 <= moment.year < 2050:
        return element(UTC_TIME, f"{moment:%y%m%d%H%M%S}Z".encode())
    return element(GENERAL_TIME, f"{moment.year:04}{moment:%m%d%H%M%S}Z".encode())


def read(data: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """Tag, content and whole of each element, to the end. Raises NotDer."""
    at = 0
    while at < len(data):
        if len(data) - at < 2 or data[at] & 0x1F == 0x1F:
            raise NotDer("cut short, or a long tag")
        tag, length, head = data[at], data[at + 1], 2
        if length & 0x80:
            count = length & 0x7F
            digits = data[at + 2 : at + 2 + count]
            length, head = int.from_bytes(digits, "big"), 2 + count
            if not count or len(digits) < count or length < 0x80 or digits[0] == 0:
                raise NotDer("a length is indefinite or too long")
        end = at + head + length
        if end > len(data):
            raise NotDer("cut short")
        yield tag, data[at + head : end], data[at:end]
        at = end


def only(data: bytes, tag: int) -> bytes:
    """The content of the one element in `data`. Raises NotDer."""
    found = list(read(data))
    if len(found) != 1 or found[0][0] != tag:
        raise NotDer(f"not one element with the tag {tag:#x}")
    return found[0][1]
