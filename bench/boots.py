"""Time from the start of the kernel, by the kernel's own clock, until something is reached."""

import re
from pathlib import Path
from typing import Final

import pexpect

from bench.peers import Peers
from image.acceleration import BOOT_ATTEMPTS, Acceleration, emulator_failed
from image.console import PANIC
from image.machine import Drive, Files, KernelBoot, Machine
from image.qemu import start

BOOT_SECONDS: Final = 300.0
STAMP: Final = r"\[\s*(\d+\.\d+)\][^\n]*"


def floor(peers: Peers, kernel: Path, folder: Path, acceleration: Acceleration) -> float:
    """Seconds until a static C program that runs as /init has written a line and ended.

    The kernel panics when its init ends; that message's stamp is the figure.
    """
    machine = Machine(
        boot=KernelBoot(kernel=kernel, initrds=(peers.floor,)),
        cmdline=("rdinit=/busybox", "--", "echo", "floor"),
        nics=(),
    )
    return reached(machine, STAMP + re.escape(PANIC), folder, acceleration)


def systemd(
    peers: Peers, kernel: Path, initramfs: Path, folder: Path, acceleration: Acceleration
) -> float:
    """Seconds until a minimal Debian reaches multi-user.target, from the same micro-initramfs."""
    machine = Machine(
        boot=KernelBoot(kernel=kernel, initrds=(initramfs,)),
        # systemd's own lines are shown at level 6, with the kernel's stamps; the kernel's are not.
        cmdline=(
            *("sysctl.kernel.printk=7", "root=/dev/vda"),
            *("systemd.log_target=kmsg", "printk.devkmsg=on"),
        ),
        drives=(Drive(file=peers.erofs),),
    )
    return reached(machine, STAMP + r"Reached target.*[Mm]ulti-[Uu]ser", folder, acceleration)


def reached(machine: Machine, pattern: str, folder: Path, acceleration: Acceleration) -> float:
    """Boot the machine, wait for the pattern, whose first group is the figure, and end it."""
    for left in reversed(range(BOOT_ATTEMPTS)):
        try:
            return _reached(machine, pattern, folder, acceleration)
        except pexpect.EOF:
            console = Files(folder=folder).console.read_text(errors="replace")
            if not (left and emulator_failed(console)):
                raise
    raise AssertionError("the last attempt ends above")


def _reached(machine: Machine, pattern: str, folder: Path, acceleration: Acceleration) -> float:
    qemu = start(machine, folder, acceleration)
    try:
        qemu.expect_end()
        found = qemu.console.expect(re.compile(pattern), timeout=BOOT_SECONDS)
        assert found == 0
        match = qemu.console.match
        assert isinstance(match, re.Match)
        return float(match[1])
    finally:
        qemu.kill()
        qemu.detach()
