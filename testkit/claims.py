"""A machine that nobody has claimed: its fingerprint, and `aer node claim`."""

import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from runtime.identity.fingerprint import Fingerprint
from testkit.machines import BOOT_SECONDS, Machine
from testkit.trust import NODE, TrustDomain

CLAIM_SECONDS: Final = 240.0
_PREFIX: Final = r"\[ *[0-9.]+\] runtime: "
_SHOWN: Final = rf"Its fingerprint:\r*\n((?:{_PREFIX} [a-z ]+\r*\n){{4}})"
_CODE: Final = rf"((?:{_PREFIX}[ █▀▄]{{20,}}\r*\n)+)"
_OFFERED: Final = r"aer node claim HOST:\d+ [^\n]*\n"


def shown(machine: Machine, timeout: float = BOOT_SECONDS) -> Fingerprint:
    """What the console shows next; when this returns the node may be claimed."""
    lines = machine.console.wait_for(_SHOWN, timeout)[1]
    machine.console.wait_for(_OFFERED, timeout)
    return Fingerprint.parse(re.sub(_PREFIX, "", lines))


def code(console: str) -> list[str]:
    """The lines of the last QR code in what a console has said."""
    found: str = re.findall(_CODE, console)[-1]
    return [re.sub(_PREFIX, "", line) for line in found.splitlines()]


def line(
    machine: Machine, trust: TrustDomain, fingerprint: Fingerprint, *options: str, name: str = NODE
) -> Sequence[str]:
    """The command line of `aer` that claims the machine for a trust domain."""
    return (
        *(sys.executable, "-m", "aer", "node", "claim", machine.address),
        *("--fingerprint", fingerprint.words(), "--name", name, "--dir", str(trust.folder)),
        *options,
    )


def claim(
    machine: Machine, trust: TrustDomain, fingerprint: Fingerprint, *options: str, name: str = NODE
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        line(machine, trust, fingerprint, *options, name=name),
        check=False,
        capture_output=True,
        text=True,
        timeout=CLAIM_SECONDS,
    )


def owned(machine: Machine, trust: TrustDomain) -> Path:
    """From now on `machine.api` calls as the person of `trust`, which has claimed it."""
    machine.config_file.write_text(trust.config(machine.address))
    return machine.config_file
