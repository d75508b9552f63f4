"""Credentials from the firmware: SMBIOS strings and QEMU's fw_cfg."""

import binascii
import os
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

FOLDER: Final = "/run/credentials/@system"
_SMBIOS: Final = "/sys/firmware/dmi/entries"
_FW_CFG: Final = "/sys/firmware/qemu_fw_cfg/by_name/opt/io.systemd.credentials"
_TEXT: Final = b"io.systemd.credential:"
_BINARY: Final = b"io.systemd.credential.binary:"
_NAME_LIMIT: Final = 255


class BadCredential(ValueError):
    """Which one it is, and what is wrong with it."""


def collect(
    folder: str = FOLDER, smbios: str = _SMBIOS, fw_cfg: str = _FW_CFG
) -> tuple[list[str], list[str]]:
    """Write what the firmware gives into `folder`; returns (names written, what was wrong).

    SMBIOS goes before fw_cfg, and both before what the initramfs has left in the folder. Of one
    name, the first SMBIOS string counts."""
    found: dict[str, bytes] = {}
    problems: list[str] = []
    for text in smbios_strings(smbios):
        try:
            credential = parse(text)
        except BadCredential as error:
            problems.append(f"SMBIOS credential {error}")
            continue
        if credential is not None:
            found.setdefault(*credential)
    for name in _list(fw_cfg):
        try:
            found.setdefault(_checked(name), _read(f"{fw_cfg}/{name}/raw"))
        except (BadCredential, OSError) as error:
            problems.append(f"fw_cfg credential {error}")
    written = []
    for name, content in found.items():
        try:
            _write(f"{folder}/{name}", content)
            written.append(name)
        except OSError as error:
            problems.append(f"credential {name}: {error.strerror}")
            # A part of it is none.
            with suppress(OSError):
                os.unlink(f"{folder}/{name}")
    return sorted(written), problems


def parse(text: bytes) -> tuple[str, bytes] | None:
    """(name, content) of an SMBIOS string, or None: it is no credential. Raises BadCredential."""
    prefix = next((p for p in (_TEXT, _BINARY) if text.startswith(p)), None)
    if prefix is None:
        return None
    raw, equals, content = text.removeprefix(prefix).partition(b"=")
    name = _checked(raw.decode(errors="replace"))
    if not equals:
        raise BadCredential(f"{name}: has no '=': write NAME=VALUE")
    if prefix is _BINARY:
        try:
            content = binascii.a2b_base64(content, strict_mode=True)
        except binascii.Error as error:
            raise BadCredential(f"{name}: not base64 ({error}): left out") from error
    return name, content


def smbios_strings(entries: str) -> Iterator[bytes]:
    """The strings of all type 11 structures (SMBIOS specification, 7.12 OEM Strings).

    A structure is its formatted part, whose length is its second byte, and then its strings, each
    ended by a null, the last by two."""
    numbers = [int(name[3:]) for name in _list(entries) if name.startswith("11-")]
    for number in sorted(numbers):
        try:
            raw = _read(f"{entries}/11-{number}/raw")
        except OSError:
            continue
        if len(raw) > 4:
            yield from filter(None, raw[raw[1] :].split(b"\0"))


def _checked(name: str) -> str:
    if not 0 < len(name) <= _NAME_LIMIT or name.startswith(".") or "/" in name:
        raise BadCredential(
            f"{name!r}: a name is 1 to {_NAME_LIMIT} characters, no '/', no '.' first"
        )
    if not name.isascii() or not name.isprintable():
        raise BadCredential(f"{name!r}: a name is printable ASCII")
    return name


def _list(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except FileNotFoundError:
        return []


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _write(path: str, content: bytes) -> None:
    with suppress(FileNotFoundError):
        os.unlink(path)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o400)
    try:
        os.write(fd, content)
    finally:
        os.close(fd)
