"""What `make pxe` leaves, as it is offered to machines: names, arguments, node configurations."""

import os
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, Self

from aer.errors import AerError, UsageError

SCRIPT: Final = "aurae.ipxe"
# The script that sets the arguments and goes on with the other; it is made when it is asked for.
FIRST: Final = "boot.ipxe"
DEFAULT: Final = "default.toml"

_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+~-]*")
_MAC: Final = re.compile(r"[0-9a-f]{2}(?:[:-][0-9a-f]{2}){5}", re.IGNORECASE)
# What iPXE takes for the end of a command.
_SEPARATORS: Final = ("||", "&&", ";")


@dataclass(frozen=True, slots=True)
class Payload:
    """The folder, and the name of the EFI program in it."""

    folder: Path
    uki: str

    @classmethod
    def find(cls, folder: Path) -> Self:
        """Raises AerError where something is missing."""
        if not (folder / SCRIPT).is_file():
            raise AerError(f"{folder / SCRIPT}: does not exist", "make pxe makes the folder")
        found = sorted(path.name for path in folder.glob("*.efi"))
        if len(found) != 1:
            raise AerError(f"{folder}: has {len(found)} EFI programs (*.efi), and not one")
        return cls(folder, found[0])

    def open(self, name: str) -> BinaryIO:
        """A file that lies in the folder itself. FileNotFoundError for anything else."""
        if not _NAME.fullmatch(name):
            raise FileNotFoundError(name)
        place = os.open(self.folder, os.O_PATH | os.O_DIRECTORY)
        try:
            # A FIFO would wait for a writer.
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            file = os.fdopen(os.open(name, flags, dir_fd=place), "rb")
        except (IsADirectoryError, OSError) as e:
            raise FileNotFoundError(name) from e
        finally:
            os.close(place)
        if not os.path.isfile(f"/proc/self/fd/{file.fileno()}"):  # noqa: PTH113
            file.close()
            raise FileNotFoundError(name)
        return file


def arguments(words: Sequence[str]) -> str:
    """Arguments for the kernel, as one line. Raises UsageError."""
    for word in " ".join(words).split():
        if not (word.isascii() and word.isprintable()):
            raise UsageError(f"--append: {word!r} has characters that no command line takes")
        if word in _SEPARATORS or word.startswith("#"):
            raise UsageError(f"--append: iPXE takes {word!r} for the end of the command")
    return " ".join(" ".join(words).split())


def first_script(append: str, base: str) -> str:
    """What iPXE is given first. `base` is the URL of the folder, without a slash at its end."""
    return f"#!ipxe\nset append {append}\nchain {base}/{SCRIPT}\n"


def with_arguments(program: Path, append: str) -> bytes:
    """A unified kernel image with `append` in the room that its command line has for it.

    Raises AerError."""
    image = bytearray(program.read_bytes())
    try:
        offset, size = _command_line(image)
        signed = _is_signed(image)
    except (struct.error, ValueError) as e:
        raise AerError(f"{program}: is no unified kernel image: {e}") from e
    if signed:
        raise AerError(
            f"{program}: is signed, and arguments would break its signature",
            "give them when it is made, or do without --append",
        )
    line = bytes(image[offset : offset + size]).rstrip(b"\0 \n")
    line += b" " + append.encode()
    if len(line) > size:
        raise AerError(
            f"{program}: has no room for {len(append)} bytes of arguments", "make pxe makes room"
        )
    image[offset : offset + size] = line.ljust(size)
    return bytes(image)


# Offsets of Microsoft's PE format: where the header is, and in it the number of sections, the size
# of the optional header, and in that (PE32+) the address of the certificates.
_HEADER: Final = 0x3C
_CERTIFICATES: Final = 24 + 112 + 4 * 8
_SECTION: Final = struct.Struct("<8sIIII16x")


def _is_signed(image: bytes | bytearray) -> bool:
    (header,) = struct.unpack_from("<I", image, _HEADER)
    _, size = struct.unpack_from("<II", image, header + _CERTIFICATES)
    return bool(size)


def _command_line(image: bytes | bytearray) -> tuple[int, int]:
    """Where the command line is in the file, and the bytes that it has. Raises ValueError."""
    (header,) = struct.unpack_from("<I", image, _HEADER)
    if image[:2] != b"MZ" or image[header : header + 4] != b"PE\0\0":
        raise ValueError("it has no PE header")
    (count,) = struct.unpack_from("<H", image, header + 6)
    (optional,) = struct.unpack_from("<H", image, header + 20)
    for number in range(count):
        at = header + 24 + optional + number * _SECTION.size
        name, virtual, _, raw, offset = _SECTION.unpack_from(image, at)
        if name.rstrip(b"\0") == b".cmdline":
            if offset + raw > len(image):
                raise ValueError("its command line lies beyond its end")
            return offset, min(virtual, raw)
    raise ValueError("it has no section .cmdline")


@dataclass(frozen=True, slots=True)
class Configurations:
    """Node configurations: one file for every machine, or a folder of files named by MAC address
    (`52-54-00-12-34-56.toml`), where `default.toml` is for the others."""

    source: Path

    def check(self) -> None:
        """Raises AerError."""
        if self.source.is_dir():
            if not list(self.source.glob("*.toml")):
                raise AerError(f"{self.source}: has no node configurations (*.toml)")
        elif not self.source.is_file():
            raise AerError(f"{self.source}: does not exist")

    def find(self, mac: str) -> Path:
        """Raises FileNotFoundError."""
        if not _MAC.fullmatch(mac):
            raise FileNotFoundError(mac)
        if not self.source.is_dir():
            return self.source
        for name in (f"{normal(mac)}.toml", f"{normal(mac).replace('-', ':')}.toml", DEFAULT):
            if (self.source / name).is_file():
                return self.source / name
        raise FileNotFoundError(mac)


def normal(mac: str) -> str:
    return mac.lower().replace(":", "-")
