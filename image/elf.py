"""What an ELF file needs from the dynamic loader, read from its headers (gABI, 64 bit, LSB)."""

import struct
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Final

_PT_LOAD: Final = 1
_PT_DYNAMIC: Final = 2
_DT_NEEDED: Final = 1
_DT_STRTAB: Final = 5


def is_elf(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"


def needed(path: Path) -> tuple[str, ...]:
    """Names of the libraries (DT_NEEDED). Nothing for a static program."""
    data = path.read_bytes()
    if data[:6] != b"\x7fELF\x02\x01":
        raise ValueError(f"{path}: not an ELF file of 64 bits")
    table, size, count = _program_headers(data)
    segments = [
        struct.unpack_from("<IIQQQQ", data, table + number * size) for number in range(count)
    ]
    # Of each: type, flags, offset in the file, address, physical address, size in the file.
    loads = [(address, offset) for kind, _, offset, address, _, _ in segments if kind == _PT_LOAD]
    names: list[int] = []
    strings = 0
    for kind, _, offset, _, _, length in segments:
        if kind != _PT_DYNAMIC:
            continue
        for position in range(offset, offset + length, 16):
            tag, value = struct.unpack_from("<QQ", data, position)
            if tag == _DT_NEEDED:
                names.append(value)
            elif tag == _DT_STRTAB:
                # An address; the file has it in the last segment that begins at or below it.
                address, start = max(load for load in loads if load[0] <= value)
                strings = value - address + start
    return tuple(_string(data, strings + name) for name in names)


def closure(
    files: Iterable[Path], libraries: Path, bundled: Collection[str] = frozenset()
) -> set[Path]:
    """The libraries in the folder that these files need, and those need in turn.

    `bundled` are names that wheels bring with them. Raises `FileNotFoundError` for a library that
    is in neither.
    """
    found: set[Path] = set()
    waiting = list(files)
    while waiting:
        user = waiting.pop()
        for name in needed(user):
            library = libraries / name
            if library in found or name in bundled:
                continue
            if not library.exists():
                raise FileNotFoundError(f"{user}: needs {name}, which is not in {libraries}")
            found.add(library)
            waiting.append(library)
    return found


def strip(path: Path) -> None:
    """Cut off what is never loaded: the section headers, and symbols for debuggers behind them."""
    data = bytearray(path.read_bytes())
    table, size, count = _program_headers(data)
    end = table + size * count
    for number in range(count):
        offset, length = struct.unpack_from("<8xQ16xQ", data, table + number * size)
        end = max(end, offset + length)
    # e_shoff; e_shentsize, e_shnum and e_shstrndx
    struct.pack_into("<Q", data, 40, 0)
    struct.pack_into("<HHH", data, 58, 0, 0, 0)
    path.write_bytes(data[:end])


def _program_headers(data: bytes | bytearray) -> tuple[int, int, int]:
    (table,) = struct.unpack_from("<Q", data, 32)
    size, count = struct.unpack_from("<HH", data, 54)
    return table, size, count


def _string(data: bytes, start: int) -> str:
    return data[start : data.index(b"\0", start)].decode()
