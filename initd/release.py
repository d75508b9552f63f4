"""What an upgrade is made of: its versions, its manifest, and the file that brings it.

A bundle is `AURAEUP1`, the length of the manifest (32 bits, little-endian), the manifest (JSON),
and the parts in the manifest's order, each in pieces: a length (32 bits), and as many bytes of
zlib's format, which are `PIECE` bytes of the part, or its last ones. Any piece can be the first
that is read, so a transfer goes on where it was cut. The signature is a file beside it, of the
manifest.
"""

import json
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Any, Final

from initd.values import NamedTuple

MAGIC: Final = b"AURAEUP1"
HEAD: Final = len(MAGIC) + 4
MANIFEST_LIMIT: Final = 64 << 10
PIECE: Final = 1 << 20
# zlib adds a little to what it cannot make smaller.
_STORED: Final = PIECE + (PIECE >> 10) + 64
_LENGTH: Final = 4
FORMAT: Final = 1
PARTS: Final = ("root", "verity", "uki")
# What is signed begins with this: a signature of anything else is none of a manifest.
SIGNED: Final = b"aurae upgrade manifest\n"

_VERSION: Final = re.compile(r"[0-9A-Za-z][0-9A-Za-z.~^+-]{0,63}")
_HASH: Final = re.compile(r"[0-9a-f]{64}")

# How much of an EFI program says where its sections are, and the most that one is read of.
PROGRAM_HEAD: Final = 4096
SECTION_LIMIT: Final = 64 << 10
# IMAGE_FILE_HEADER.Machine of the PE format, by the name that uname gives.
MACHINES: Final = {"x86_64": 0x8664, "aarch64": 0xAA64}


class Unusable(ValueError):
    """What is wrong with a bundle: the object, and the fact."""


class Part(NamedTuple):
    name: str
    size: int
    sha256: str
    stored: int
    """How many bytes it takes in the bundle."""


class Manifest(NamedTuple):
    version: str
    architecture: str
    roothash: str
    parts: tuple[Part, ...]

    @property
    def stored(self) -> int:
        """All parts, as they are in the bundle."""
        return sum(part.stored for part in self.parts)

    def part(self, name: str) -> Part:
        return next(part for part in self.parts if part.name == name)

    def encode(self) -> bytes:
        value = {
            "format": FORMAT,
            "version": self.version,
            "architecture": self.architecture,
            "roothash": self.roothash,
            "parts": [part._asdict() for part in self.parts],
        }
        return json.dumps(value, indent=1).encode()


def parse(data: bytes) -> Manifest:
    """Raises Unusable."""
    try:
        value = json.loads(data)
        if value["format"] != FORMAT:
            raise Unusable(f"manifest: format {value['format']} is not {FORMAT}")
        return _manifest(value)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        if isinstance(error, Unusable):
            raise
        raise Unusable("manifest: is none; is the file a bundle made by make image?") from error


def _manifest(value: Any) -> Manifest:
    parts = tuple(
        Part(_text(p["name"]), _size(p["size"]), _text(p["sha256"]), _size(p["stored"]))
        for p in value["parts"]
    )
    names = tuple(part.name for part in parts)
    if names != PARTS:
        raise Unusable(f"manifest: its parts must be {', '.join(PARTS)}")
    found = Manifest(
        check_version(_text(value["version"])),
        _text(value["architecture"]),
        _text(value["roothash"]),
        parts,
    )
    if not all(map(_HASH.fullmatch, (found.roothash, *(part.sha256 for part in parts)))):
        raise Unusable("manifest: a hash is 64 hexadecimal digits")
    return found


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _size(value: Any) -> int:
    if type(value) is not int or not 0 < value < 1 << 40:
        raise Unusable("manifest: a size is missing, or no size")
    return value


def check_version(text: str) -> str:
    """Raises Unusable: it must be fit for a file name."""
    if not _VERSION.fullmatch(text):
        raise Unusable(f"version {text!r}: 1 to 64 of a-z A-Z 0-9 . ~ ^ + -, no sign first")
    return text


def head(manifest: bytes) -> bytes:
    """What a bundle begins with."""
    return MAGIC + struct.pack("<I", len(manifest)) + manifest


def manifest_length(start: bytes) -> int:
    """From the first `HEAD` bytes of a bundle. Raises Unusable."""
    if len(start) < HEAD or not start.startswith(MAGIC):
        raise Unusable("bundle: does not begin as one; give the file that make image left")
    (length,) = struct.unpack_from("<I", start, len(MAGIC))
    if not 0 < length <= MANIFEST_LIMIT:
        raise Unusable(f"bundle: its manifest has {length} bytes; the most is {MANIFEST_LIMIT}")
    return int(length)


def compress(piece: bytes) -> bytes:
    data = zlib.compress(piece, 6)
    return struct.pack("<I", len(data)) + data


class Place(NamedTuple):
    """Where in a bundle: so much of its parts is before it, at the beginning of a piece."""

    part: int = 0
    offset: int = 0
    """Bytes of the part."""
    stored: int = 0
    """Bytes of the bundle after its manifest."""


class Piece(NamedTuple):
    part: Part
    offset: int
    data: bytes
    after: Place


class Reader:
    """Takes a bundle's bytes as they come, from `place` on, and gives the pieces they hold."""

    def __init__(self, manifest: Manifest, place: Place) -> None:
        self._manifest = manifest
        self._buffer = bytearray()
        self.place = place

    @property
    def done(self) -> bool:
        return self.place.part == len(self._manifest.parts)

    def feed(self, data: bytes) -> Iterator[Piece]:
        """Raises Unusable."""
        self._buffer += data
        while len(self._buffer) >= _LENGTH and not self.done:
            (length,) = struct.unpack_from("<I", self._buffer)
            part = self._manifest.parts[self.place.part]
            if not 0 < length <= _STORED:
                raise Unusable(f"part {part.name}: is corrupt; make or fetch the bundle anew")
            if len(self._buffer) < _LENGTH + length:
                return
            raw = self._inflated(bytes(self._buffer[_LENGTH : _LENGTH + length]), part)
            del self._buffer[: _LENGTH + length]
            start = self.place.offset
            self.place = self._after(part, len(raw), _LENGTH + length)
            yield Piece(part, start, raw, self.place)
        if self.done and self._buffer:
            raise Unusable("bundle: goes on after its last part")

    def end(self) -> None:
        """Raises Unusable: something is missing."""
        if not self.done:
            name = self._manifest.parts[self.place.part].name
            raise Unusable(f"bundle: ends within part {name}; make or fetch it anew")

    def _inflated(self, data: bytes, part: Part) -> bytes:
        wanted = min(PIECE, part.size - self.place.offset)
        inflater = zlib.decompressobj()
        try:
            raw = inflater.decompress(data, wanted + 1)
        except zlib.error as error:
            raise Unusable(
                f"part {part.name}: is corrupt; make or fetch the bundle anew"
            ) from error
        if len(raw) != wanted or not inflater.eof or inflater.unused_data:
            raise Unusable(f"part {part.name}: is corrupt; make or fetch the bundle anew")
        return raw

    def _after(self, part: Part, raw: int, stored: int) -> Place:
        place = self.place
        whole = place.offset + raw == part.size
        after = place.stored + stored
        if whole and after != start_of(self._manifest, place.part + 1).stored:
            raise Unusable(f"part {part.name}: takes other room than its manifest says")
        if whole:
            return Place(place.part + 1, 0, after)
        return place._replace(offset=place.offset + raw, stored=after)


def start_of(manifest: Manifest, part: int) -> Place:
    return Place(part, 0, sum(p.stored for p in manifest.parts[:part]))


_WORDS: Final = re.compile(r"[~^-]|\.|[0-9]+|[A-Za-z]+")
# What goes before what, and an end before both letters and numbers but after `~`.
_RANK: Final = {"~": 0, "": 1, "-": 2, "^": 3, ".": 4}


def compare(one: str, other: str) -> int:
    """Below, equal to or above 0, as the boot loader orders versions: the UAPI group's Version
    Format Specification."""
    left, right = _keys(one), _keys(other)
    return (left > right) - (left < right)


def _keys(version: str) -> list[tuple[int, int, str]]:
    keys = []
    for word in _WORDS.findall(version):
        if word[0].isdigit():
            keys.append((6, int(word), ""))
        elif word[0].isalpha():
            keys.append((5, 0, word))
        else:
            keys.append((_RANK[word], 0, ""))
    return [*keys, (_RANK[""], 0, "")]


def places(start: bytes, wanted: tuple[str, ...]) -> tuple[int, dict[str, tuple[int, int]]]:
    """The machine that an EFI program is for, and where some of its sections are, with their
    length: from its first `PROGRAM_HEAD` bytes (PE format, Microsoft). Raises Unusable."""
    try:
        (at,) = struct.unpack_from("<I", start, 0x3C)
        signature, machine, count, optional = struct.unpack_from("<4sHH12xH", start, at)
        if start[:2] != b"MZ" or signature != b"PE\0\0":
            raise Unusable("part uki: is no EFI program")
        found = {}
        for number in range(count):
            place = at + 24 + optional + number * 40
            raw, size, length, offset = struct.unpack_from("<8sI4xII", start, place)
            name = raw.rstrip(b"\0").decode("ascii", errors="replace")
            if name in wanted:
                found[name] = (offset, min(size, length, SECTION_LIMIT))
    except struct.error as error:
        raise Unusable("part uki: is no EFI program") from error
    return machine, found


def sections(
    read: Callable[[int, int], bytes], wanted: tuple[str, ...]
) -> tuple[int, dict[str, bytes]]:
    """The machine, and what some sections hold; `read` gives bytes by offset and length. Raises
    Unusable."""
    machine, found = places(read(0, PROGRAM_HEAD), wanted)
    return machine, {name: read(*place) for name, place in found.items()}


def release_of(text: bytes) -> str:
    """The version in the os-release of an EFI program, by which the boot loader orders; empty:
    none."""
    for line in text.rstrip(b"\0").decode(errors="replace").splitlines():
        name, _, value = line.partition("=")
        if name == "IMAGE_VERSION":
            return value.strip("\"'")
    return ""


def roothash_of(cmdline: str) -> str:
    """What `roothash=` of a kernel command line says; empty: nothing."""
    given = [w.removeprefix("roothash=") for w in cmdline.split() if w.startswith("roothash=")]
    return given[-1].lower() if given else ""
