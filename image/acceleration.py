"""KVM or emulation: decided by booting a kernel once, never by opening `/dev/kvm`.

There are hosts whose `/dev/kvm` opens and yet runs no stock kernel.
"""

import subprocess
import tempfile
from enum import StrEnum
from pathlib import Path
from typing import Final

KVM: Final = Path("/dev/kvm")
BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
# What a kernel says that found nothing to boot: it got through all of its own start.
STARTED: Final = b"Kernel panic - not syncing: VFS"
TRIAL_SECONDS: Final = 20


# A kernel that changes its own code puts int3 over it for a moment. The emulation of QEMU before
# 8.1 now and then runs that int3 when it is gone already, with several processors, and the kernel
# takes it for its own fault. Nothing of ours makes an int3. See docs/decisions/0031.
EMULATOR_FAULT: Final = "Oops: int3"
# An emulated timer that did not tick while the kernel waited for it: the host had other work.
EMULATOR_LATE: Final = "Kernel panic - not syncing: IO-APIC + timer doesn't work"
BOOT_ATTEMPTS: Final = 3


class Acceleration(StrEnum):
    """How QEMU runs the guest's instructions."""

    KVM = "kvm"
    TCG = "tcg"

    def arguments(self) -> tuple[str, ...]:
        if self is Acceleration.KVM:
            return ("-accel", "kvm", "-cpu", "host")
        # Fast string instructions are the slowest there are when emulated: without them a boot
        # takes 7 % less.
        return ("-accel", "tcg,thread=multi", "-cpu", "max,-erms,-fsrm")


def find_acceleration(qemu: str, kernel: Path, cache: Path) -> Acceleration:
    """What works on this host, tried once a boot of it. `cache` is a file for the answer."""
    key = f"{BOOT_ID.read_text().strip()} {qemu}"
    if cache.exists():
        kept, _, answer = cache.read_text().strip().rpartition(" ")
        if kept == key:
            return Acceleration(answer)
    answer = Acceleration.KVM if KVM.exists() and _boots(qemu, kernel) else Acceleration.TCG
    cache.parent.mkdir(parents=True, exist_ok=True)
    cache.write_text(f"{key} {answer}\n")
    return answer


def _boots(qemu: str, kernel: Path) -> bool:
    """Whether the kernel gets to the point under KVM where it looks for a root."""
    with tempfile.TemporaryDirectory() as folder:
        console = Path(folder) / "console"
        trial = [
            qemu,
            *("-nodefaults", "-no-user-config", "-display", "none", "-machine", "q35"),
            *Acceleration.KVM.arguments(),
            *("-m", "256M", "-serial", f"file:{console}", "-kernel", str(kernel)),
            *("-append", "console=ttyS0 panic=-1", "-no-reboot"),
        ]
        try:
            subprocess.run(trial, capture_output=True, check=False, timeout=TRIAL_SECONDS)
        except subprocess.TimeoutExpired:
            return False
        return console.exists() and STARTED in console.read_bytes()


def emulator_failed(console: str) -> bool:
    """Whether the kernel died of the emulation's own fault."""
    return EMULATOR_FAULT in console or EMULATOR_LATE in console
