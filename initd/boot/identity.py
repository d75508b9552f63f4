"""What the machine is called."""

import socket
from pathlib import Path
from typing import Final

from initd.linux.mount import MountFlag, mount

_PRODUCT: Final = Path("/sys/class/dmi/id/product_uuid")
_RANDOM: Final = Path("/proc/sys/kernel/random/uuid")
_OURS: Final = Path("/run/machine-id")
_MACHINE_ID: Final = Path("/etc/machine-id")


def set_hostname(name: str) -> str:
    socket.sethostname(name)
    return name


def set_machine_id() -> str:
    """machine-id(5): the firmware's UUID, else one for this boot. Raises OSError."""
    if _MACHINE_ID.read_text().strip():
        return "of the image"
    product = _PRODUCT.read_text().strip() if _PRODUCT.exists() else ""
    known = product.replace("-", "").lower()
    # Firmware that knows none says all zeros or all ones.
    usable = len(known) == 32 and len(set(known)) > 2
    text = known if usable else _RANDOM.read_text().strip().replace("-", "")
    _OURS.write_text(f"{text}\n")
    _OURS.chmod(0o444)
    mount(str(_OURS), str(_MACHINE_ID), "", MountFlag.BIND)
    return "of the firmware" if usable else "of this boot"
