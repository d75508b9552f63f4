"""A QR code (ISO/IEC 18004) of one size: version 2, error correction level Q, capital letters and
digits, as many as a fingerprint in base32 has. It is drawn with half blocks.

A quarter of it may be unreadable. The mask is always the same one: the best of the eight is only a
little easier to read.
"""

from collections.abc import Iterator
from typing import Final

SIZE: Final = 25
MOST: Final = 29

_ALPHABET: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ $%*+-./:"
# Version 2-Q is one block of so many codewords: of data, and for their correction (table 9).
_DATA: Final = 22
_CORRECTION: Final = 22
_QUIET: Final = 2
# Centre of the alignment pattern of version 2 (annex E).
_ALIGNMENT: Final = 18
# Level Q (0b11) with mask 0, protected and masked (annex C).
_FORMAT: Final = 0b011010101011111

# By which of two modules, one over the other, are dark. The console is dark, so light is drawn.
_BLOCKS: Final = {
    (False, False): "█",
    (False, True): "▀",
    (True, False): "▄",
    (True, True): " ",
}

Matrix = list[list[bool]]


def draw(text: str) -> Iterator[str]:
    """Lines of the code of `text`, light on a dark console, with a narrow quiet zone."""
    quiet = [False] * (SIZE + 2 * _QUIET)
    rows = [quiet] * _QUIET
    rows += [[False] * _QUIET + row + [False] * _QUIET for row in matrix(text)]
    rows += [quiet] * _QUIET
    # The last of an odd number of rows has nothing below.
    rows += [[True] * len(quiet)] * (len(rows) % 2)
    for upper, lower in zip(rows[::2], rows[1::2], strict=True):
        yield "".join(_BLOCKS[pair] for pair in zip(upper, lower, strict=True))


def matrix(text: str) -> Matrix:
    """Which modules are dark, row by row. Raises ValueError: `text` does not fit."""
    fixed: list[list[bool | None]] = [[None] * SIZE for _ in range(SIZE)]
    _draw_patterns(fixed)
    data = _codewords(text)
    bits = ((word >> place) & 1 for word in data + _correction(data) for place in range(7, -1, -1))
    dark = [[bool(module) for module in row] for row in fixed]
    for row, column in _path():
        if fixed[row][column] is None:
            # After the codewords some modules remain, which count as 0. Mask 0: even sums.
            dark[row][column] = bool(next(bits, 0)) ^ ((row + column) % 2 == 0)
    return dark


def _codewords(text: str) -> list[int]:
    """Alphanumeric mode: two characters are 11 bits, a single one 6."""
    if len(text) > MOST or not set(text) <= set(_ALPHABET):
        raise ValueError(f"{text!a}: takes {MOST} characters at most, of {_ALPHABET}")
    bits = f"0010{len(text):09b}"
    for at in range(0, len(text), 2):
        pair = [_ALPHABET.index(character) for character in text[at : at + 2]]
        bits += f"{pair[0] * 45 + pair[1]:011b}" if len(pair) == 2 else f"{pair[0]:06b}"
    bits += "0" * min(4, _DATA * 8 - len(bits))
    bits += "0" * (-len(bits) % 8)
    words = [int(bits[at : at + 8], 2) for at in range(0, len(bits), 8)]
    padding = [0xEC, 0x11] * _DATA
    return words + padding[: _DATA - len(words)]


def _correction(data: list[int]) -> list[int]:
    """Reed-Solomon: the remainder by the product of (x - 2^i), in the field of 256 elements."""
    generator = [1]
    root = 1
    for _ in range(_CORRECTION):
        shifted = [*generator, 0]
        for at, factor in enumerate(generator):
            shifted[at + 1] ^= _multiply(factor, root)
        generator = shifted
        root = _multiply(root, 2)
    rest = data + [0] * _CORRECTION
    for at in range(len(data)):
        lead = rest[at]
        for place, factor in enumerate(generator):
            rest[at + place] ^= _multiply(lead, factor)
    return rest[len(data) :]


def _multiply(a: int, b: int) -> int:
    """Modulo x^8 + x^4 + x^3 + x^2 + 1."""
    product = 0
    while b:
        if b & 1:
            product ^= a
        a <<= 1
        if a & 0x100:
            a ^= 0x11D
        b >>= 1
    return product


def _draw_patterns(fixed: list[list[bool | None]]) -> None:
    """All that is no data: what the code is found by, and which level and mask it has."""
    for at in range(SIZE):
        fixed[6][at] = fixed[at][6] = at % 2 == 0
    for row, column in ((3, 3), (3, SIZE - 4), (SIZE - 4, 3)):
        _square(fixed, row, column, (True, True, False, True, False))
    _square(fixed, _ALIGNMENT, _ALIGNMENT, (True, False, True))
    places = [(8, column) for column in (0, 1, 2, 3, 4, 5, 7, 8)]
    places += [(row, 8) for row in (7, 5, 4, 3, 2, 1, 0)]
    others = [(SIZE - 1 - at, 8) for at in range(7)] + [(8, SIZE - 8 + at) for at in range(8)]
    for at in range(15):
        bit = bool(_FORMAT >> (14 - at) & 1)
        for row, column in (places[at], others[at]):
            fixed[row][column] = bit
    fixed[SIZE - 8][8] = True


def _square(fixed: list[list[bool | None]], row: int, column: int, rings: tuple[bool, ...]) -> None:
    """Rings around a centre, from that outwards, as far as they lie in the code."""
    reach = len(rings)
    for y in range(max(0, row - reach + 1), min(SIZE, row + reach)):
        for x in range(max(0, column - reach + 1), min(SIZE, column + reach)):
            fixed[y][x] = rings[max(abs(y - row), abs(x - column))]


def _path() -> Iterator[tuple[int, int]]:
    """Where data lies: columns in pairs from the right, up and down in turn."""
    upwards = True
    for right in (*range(SIZE - 1, 6, -2), 5, 3, 1):
        for row in reversed(range(SIZE)) if upwards else range(SIZE):
            yield row, right
            yield row, right - 1
        upwards = not upwards
