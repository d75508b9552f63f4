"""What is asked of the data disk, by whatever channel it reaches the node."""

from typing import Final

from initd.values import NamedTuple

FILESYSTEMS: Final = ("ext4", "xfs", "btrfs")
ENCRYPTIONS: Final = ("none", "tpm2", "passphrase", "key-file")
# How a data disk may be named.
_DEVICES: Final = ("LABEL=", "PARTLABEL=", "/dev/")
# Those that a TPM 2.0 of a PC has (TCG PC Client Platform TPM Profile, 5.9).
_PCRS: Final = 24


class DataOptions(NamedTuple):
    """How a disk is made that has nothing on it; one that has is used as it is, or not at all."""

    device: str = ""
    """As `aurae.data=`; empty: one that is there and named as ours, else a new partition of the
    disk that was booted; `off`: none."""
    filesystem: str = "ext4"
    encryption: str = "none"
    tpm2_pcrs: tuple[int, ...] = (7,)
    """The registers that a TPM compares before it gives its key."""
    makes: bool = True
    """False: nothing is made or grown, as something was asked for that nobody understood, or as it
    is the emergency entry that runs."""


def device(value: str) -> str:
    """Raises ValueError, as all these do."""
    if value != "off" and (value in _DEVICES or not value.startswith(_DEVICES)):
        raise ValueError("must be off, LABEL=…, PARTLABEL=… or /dev/…")
    return value


def filesystem(value: str) -> str:
    return _one_of(value, FILESYSTEMS)


def encryption(value: str) -> str:
    return _one_of(value, ENCRYPTIONS)


def tpm2_pcrs(value: str) -> tuple[int, ...]:
    """Numbers with `+` between them, as other tools write them."""
    words = value.split("+")
    if all(word.isascii() and word.isdigit() and int(word) < _PCRS for word in words):
        return tuple(sorted({int(word) for word in words}))
    raise ValueError(f"must be numbers of 0 to {_PCRS - 1} with + between them, as 7+11")


def _one_of(value: str, words: tuple[str, ...]) -> str:
    if value not in words:
        raise ValueError(f"must be one of {', '.join(words)}")
    return value
