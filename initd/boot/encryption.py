"""The data disk's encryption: LUKS2, by cryptsetup, and by systemd-cryptenroll for keys in a TPM.

All that a disk was made with stands in its own header, so other Linux systems can open it, too.
"""

import os
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from initd.boot import programs
from initd.boot.disks import NotThere
from initd.boot.filesystems import MAKING
from initd.boot.modules import Modules
from initd.boot.options import DataOptions
from initd.boot.programs import Failed

PASSPHRASE: Final = "aurae.data.passphrase"
KEY: Final = "aurae.data.key"
"""Credentials. The passphrase is also what opens a disk whose TPM does not."""

MAPPED: Final = "aurae-data"
DEVICE: Final = f"/dev/mapper/{MAPPED}"

# Of a key file, in bytes: it is taken for random.
_KEY_LEAST: Final = 32
_TPM: Final = "/dev/tpmrm0"
# Seconds that a TPM's driver may take to find it.
_TPM_PATIENCE: Final = 5.0
_POLL: Final = 0.02

# What dm-crypt and cryptsetup ask the kernel for by name, where nobody answers.
_MODULES: Final = ("dm_crypt", "aesni_intel", "xts", "cbc", "algif_skcipher", "tpm_tis", "tpm_crb")

# From a passphrase a key is made by Argon2id with the memory of RFC 9106's second choice, so that
# a small machine can do it, too. Keys that are random need no such work.
_SLOW: Final = ("--pbkdf=argon2id", "--pbkdf-memory=65536", "--iter-time=1000")
_FAST: Final = ("--pbkdf=pbkdf2", "--pbkdf-force-iterations=1000")

# In a header's JSON: a key that a TPM keeps, and a cipher that is none.
_TOKEN: Final = b'"systemd-tpm2"'
_NO_CIPHER: Final = b"cipher_null"
_HEADER: Final = 4 << 20


class Secrets:
    """What the credentials have for the disk."""

    def __init__(self, folder: str) -> None:
        self.passphrase = _read(f"{folder}/{PASSPHRASE}").rstrip(b"\r\n")
        self.key = _read(f"{folder}/{KEY}")


def check(device: str, options: DataOptions, secrets: Secrets) -> None:
    """Whether there is what `make` needs. Raises NotThere."""
    _ready()
    _first_key(device, options, secrets)


def make(device: str, options: DataOptions, secrets: Secrets) -> str:
    """Make an encrypted device on `device`, named `MAKING`, and open it as `DEVICE`. Returns the
    recovery key that was made for it, if one was. After `check`. Raises Failed; OSError."""
    secret, work, recovery = _first_key(device, options, secrets)
    _cryptsetup(
        *("luksFormat", "--type=luks2", f"--label={MAKING}", *work),
        *("--key-file={secret}", device),
        secret=secret,
    )
    if options.encryption == "tpm2":
        _enroll(device, options.tpm2_pcrs, secret)
        # By the TPM, so that what a boot will do is known to work before anything depends on it.
        _open_by_tpm(device)
    else:
        _open_by(device, secret)
    return recovery


def _first_key(
    device: str, options: DataOptions, secrets: Secrets
) -> tuple[bytes, tuple[str, ...], str]:
    """What a new device is made with, by which derivation, and the recovery key if that is one."""
    what = f"{device}: not encrypted, as aurae.data.encryption={options.encryption} asks"
    if options.encryption == "key-file":
        if len(secrets.key) >= _KEY_LEAST:
            return secrets.key, _FAST, ""
        least = f"of {_KEY_LEAST} random bytes or more"
        raise NotThere(f"{what}: give the credential {KEY} {least}; nothing was made")
    if options.encryption == "tpm2" and not has_tpm():
        raise NotThere(f"{what}: this machine has no TPM 2.0; nothing was made")
    if secrets.passphrase:
        return secrets.passphrase, _SLOW, ""
    if options.encryption == "passphrase":
        raise NotThere(f"{what}: give the credential {PASSPHRASE}; nothing was made")
    recovery = _recovery_key()
    return recovery.encode(), _FAST, recovery


def finish(device: str, label: str) -> None:
    """The device is whole: give it its name. Raises Failed; OSError."""
    _cryptsetup("config", f"--label={label}", device)


def unlock(
    device: str, options: DataOptions, secrets: Secrets, warn: Callable[[str], None]
) -> None:
    """Open a device as `DEVICE` by what there is for it: a TPM, the key, the passphrase. Raises
    NotThere, with what was tried; OSError."""
    header = _header(device)
    if _NO_CIPHER in header:
        # It would open by anything, and hide nothing.
        raise NotThere(f"{device}: its header names a cipher that is none; not used")
    _ready()
    tried = []
    by_tpm = _TOKEN in header
    if by_tpm:
        if not has_tpm():
            tried.append("its key is in a TPM 2.0, and there is none")
        else:
            try:
                return _open_by_tpm(device)
            except Failed as e:
                tried.append(f"the TPM does not give its key ({e})")
    for name, secret in ((KEY, secrets.key), (PASSPHRASE, secrets.passphrase)):
        if not secret:
            continue
        try:
            _open_by(device, secret)
        except Failed as e:
            tried.append(f"not by credential {name} ({e})")
            continue
        wanted = by_tpm or options.encryption == "tpm2"
        if wanted and options.makes and has_tpm():
            _enroll_again(device, options, secret, warn)
        return None
    if not secrets.key and not secrets.passphrase:
        tried.append(f"there is no credential {PASSPHRASE} or {KEY}")
    raise NotThere(
        f"{device}: encrypted, and cannot be opened: {', '.join(tried)}; give its passphrase or "
        f"recovery key as credential {PASSPHRASE}. It is left as it is"
    )


def has_tpm() -> bool:
    deadline = time.monotonic() + _TPM_PATIENCE
    # Its class is there at once where the firmware has one, its device when it has answered.
    while not os.path.exists(_TPM):
        if not _list("/sys/class/tpm") or time.monotonic() > deadline:
            return False
        time.sleep(_POLL)
    return True


def _ready() -> None:
    Modules().load(*_MODULES)
    os.makedirs("/run/cryptsetup", mode=0o700, exist_ok=True)


def _enroll(device: str, pcrs: tuple[int, ...], secret: bytes) -> None:
    registers = "+".join(map(str, pcrs))
    programs.run(
        *("systemd-cryptenroll", "--tpm2-device=auto", f"--tpm2-pcrs={registers}"),
        *("--unlock-key-file={secret}", device),
        secrets={"secret": secret},
    )


def _enroll_again(
    device: str, options: DataOptions, secret: bytes, warn: Callable[[str], None]
) -> None:
    """Whoever could give the passphrase may bind the disk to this machine as it is now."""
    try:
        # First, for what is enrolled with the same registers is not enrolled again.
        programs.run("systemd-cryptenroll", "--wipe-slot=tpm2", device)
        _enroll(device, options.tpm2_pcrs, secret)
    except (Failed, OSError) as e:
        warn(f"{device}: opened by a credential, and not bound to the TPM anew: {e}")
    else:
        warn(f"{device}: opened by a credential, and bound anew to the TPM as it is now")


def _open_by_tpm(device: str) -> None:
    _cryptsetup("open", "--token-only", "--token-type=systemd-tpm2", device, MAPPED)


def _open_by(device: str, secret: bytes) -> None:
    _cryptsetup("open", "--key-file={secret}", device, MAPPED, secret=secret)


def _cryptsetup(*arguments: str, secret: bytes = b"") -> None:
    programs.run("cryptsetup", "--batch-mode", *arguments, secrets={"secret": secret})


def _recovery_key() -> str:
    """256 bits, in groups that can be typed."""
    text = os.urandom(32).hex()
    return "-".join(text[at : at + 8] for at in range(0, len(text), 8))


def _header(device: str) -> bytes:
    """Both binary headers and their JSON, as long as they may be. OSError."""
    with open(device, "rb", buffering=0) as file:
        first = file.read(4096)
        # hdr_size; of the other copy it is the same.
        size = min(int.from_bytes(first[8:16], "big") * 2, _HEADER * 2)
        return first + file.read(max(size - len(first), 0))


def _read(path: str) -> bytes:
    with suppress(FileNotFoundError), open(path, "rb") as file:
        return file.read()
    return b""


def _list(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []
