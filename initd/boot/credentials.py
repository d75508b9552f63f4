"""Credentials from the firmware: SMBIOS strings, QEMU's fw_cfg, and what systemd-stub found."""

import binascii
import os
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

FOLDER: Final = "/run/credentials/@system"
ESP: Final = "/run/credentials/@esp"
"""What the initramfs has kept of systemd-stub's."""
DOCUMENTS: Final = "/run/aurae/config"
"""Where documents of the node's configuration go, by channel: initd.configuration.channels."""
DOCUMENT: Final = "aurae.config.toml"
_SMBIOS: Final = "/sys/firmware/dmi/entries"
_FW_CFG: Final = "/sys/firmware/qemu_fw_cfg/by_name/opt/io.systemd.credentials"
_TEXT: Final = b"io.systemd.credential:"
_BINARY: Final = b"io.systemd.credential.binary:"
_NAME_LIMIT: Final = 255
# An encrypted credential is base64 text that begins with the kind of its key, 16 bytes
# (systemd's creds-util.h).
_ENCRYPTED: Final = frozenset(
    bytes.fromhex(kind)
    for kind in (
        "5a1c6a86df9d4096b1d5a65e0862f19a",
        "55b9ed1d38594d43a8319d2ebb332ac6",
        "0c7cc07b117645919c4b0bea08bc20fe",
        "faf7eb9341e3412ca1a436f95a29362f",
        "93a894094874449090caf2fc93cab553",
        "ef4ac13679a9480ea7db68897f9f165d",
        "af4950a849134eb1a73846304ff30c05",
        "adbc4ca3efb64201ba881b6f2e4095ea",
        "058469daf6f54324800549da0f8ea2fb",
    )
)


class BadCredential(ValueError):
    """Which one it is, and what is wrong with it."""


def collect(
    folder: str = FOLDER,
    smbios: str = _SMBIOS,
    fw_cfg: str = _FW_CFG,
    *,
    esp: str = ESP,
    documents: str = DOCUMENTS,
) -> tuple[list[str], list[str]]:
    """Write what the firmware gives into `folder`; returns (names written, what was wrong).

    SMBIOS goes before fw_cfg, both before what the initramfs has left in the folder, and that
    before what is on the ESP. Of one name, the first SMBIOS string counts. A configuration by each
    of them goes to `documents`: they are merged key by key."""
    problems: list[str] = []
    found = _by_smbios(smbios, problems)
    configurations = {"smbios": found.pop(DOCUMENT, b"")}
    for name, content in _by_fw_cfg(fw_cfg, problems).items():
        found.setdefault(name, content)
    configurations["fw_cfg"] = found.pop(DOCUMENT, b"")
    if os.path.exists(left := f"{folder}/{DOCUMENT}"):
        configurations["initramfs"] = _read(left)
        os.unlink(left)
    for name, content in _by_esp(esp, problems).items():
        if not os.path.exists(f"{folder}/{name}"):
            found.setdefault(name, content)
    configurations["esp"] = found.pop(DOCUMENT, b"")
    problems += _keep_documents(configurations, documents)
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


def _by_smbios(entries: str, problems: list[str]) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for text in smbios_strings(entries):
        try:
            credential = parse(text)
        except BadCredential as error:
            problems.append(f"SMBIOS credential {error}")
            continue
        if credential is not None:
            found.setdefault(*credential)
    return found


def _by_fw_cfg(folder: str, problems: list[str]) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for name in _list(folder):
        try:
            found[_checked(name)] = _read(f"{folder}/{name}/raw")
        except (BadCredential, OSError) as error:
            problems.append(f"fw_cfg credential {error}")
    return found


def _by_esp(folder: str, problems: list[str]) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for name in _list(folder):
        try:
            content = _read(f"{folder}/{_checked(name)}")
        except (BadCredential, OSError) as error:
            problems.append(f"ESP credential {error}")
            continue
        if is_encrypted(content):
            problems.append(
                f"ESP credential {name}: is encrypted, and the node has no key for it; store it "
                "as it is, or give it by SMBIOS"
            )
        else:
            found[name] = content
    return found


def is_encrypted(content: bytes) -> bool:
    """Whether it is what systemd-creds(1) encrypts."""
    try:
        return binascii.a2b_base64(content[:24])[:16] in _ENCRYPTED
    except binascii.Error:
        return False


def _keep_documents(found: dict[str, bytes], folder: str) -> Iterator[str]:
    for channel, content in found.items():
        if content:
            try:
                os.makedirs(folder, mode=0o700, exist_ok=True)
                _write(f"{folder}/{channel}.toml", content)
            except OSError as error:
                yield f"{channel} credential {DOCUMENT}: {error.strerror}"


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
