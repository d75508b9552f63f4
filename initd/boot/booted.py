"""What this boot came from: the initramfs writes it down, the node reads it."""

import os
from typing import Final

from initd.values import NamedTuple

PLACE: Final = "/run/initramfs/boot.json"


class Booted(NamedTuple):
    """All but `root` are empty where the root is not a verified one in a slot."""

    slot: str = ""
    """`a` or `b`."""
    disk: str = ""
    """The slot's, as the kernel names it: `vda`."""
    roothash: str = ""
    root: str = ""
    """The device or file that was mounted."""


def write(booted: Booted, path: str = PLACE) -> None:
    """As JSON. None of the values has a character that would have to be escaped."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    fields = ", ".join(f'"{name}": "{value}"' for name, value in booted._asdict().items())
    with open(path, "w", encoding="utf-8") as file:
        file.write(f"{{{fields}}}\n")


def read(path: str = PLACE) -> Booted:
    """Of nothing but defaults where it is not there, or is something else."""
    import json

    try:
        with open(path, encoding="utf-8") as file:
            found = json.load(file)
    except (OSError, ValueError):
        return Booted()
    if not isinstance(found, dict):
        return Booted()
    given = {name: found.get(name) for name in Booted._fields}
    return Booted(**{name: text for name, text in given.items() if isinstance(text, str)})
