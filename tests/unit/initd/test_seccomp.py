"""The filter as the kernel would run it, and its table against the kernel's headers."""

import re
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from initd.linux import capability, seccomp
from initd.linux.mount import MountFlag
from initd.linux.namespace import Namespace

ALLOW, EPERM, ENOSYS = 0x7FFF0000, 0x00050001, 0x00050026
HEADERS = Path("/usr/include")
NUMBERS = {
    "x86_64": HEADERS / "x86_64-linux-gnu/asm/unistd_64.h",
    "aarch64": HEADERS / "asm-generic/unistd.h",
}


def run(
    machine: str,
    number: int,
    *arguments: int,
    audit: int | None = None,
    program: Callable[[str], bytes] = seccomp.profile,
) -> int:
    """What the program returns for a call: struct seccomp_data of include/uapi/linux/seccomp.h."""
    architecture = seccomp.MACHINES[machine].audit if audit is None else audit
    padded = (*arguments, 0, 0, 0, 0, 0, 0)[:6]
    data = struct.pack("=IIQ6Q", number, architecture, 0, *padded)
    instructions = list(struct.iter_unpack("=HBBI", program(machine)))
    at = accumulator = 0
    while True:
        code, then, otherwise, constant = instructions[at]
        at += 1
        if code == 0x06:
            return int(constant)
        if code == 0x20:
            (accumulator,) = struct.unpack_from("=I", data, constant)
            continue
        true = {
            0x15: accumulator == constant,
            0x35: accumulator >= constant,
            0x45: bool(accumulator & constant),
        }[code]
        at += then if true else otherwise


@pytest.mark.parametrize("kind", seccomp.MACHINES)
def test_what_is_in_the_table_is_denied_and_nothing_else(kind: str) -> None:
    column = seccomp.MACHINES[kind].column
    denied = {row[column] for row in seccomp.DENIED.values()} - {None}
    results = {number: run(kind, number) for number in range(600)}
    assert {number for number, result in results.items() if result == EPERM} == denied
    assert {number for number, result in results.items() if result == ENOSYS} == {seccomp.CLONE3}
    assert set(results.values()) == {ALLOW, EPERM, ENOSYS}


@pytest.mark.parametrize("kind", seccomp.MACHINES)
def test_clone_is_denied_new_namespaces(kind: str) -> None:
    clone = seccomp.CLONE[seccomp.MACHINES[kind].column]
    # A thread, a vfork, a fork.
    for flags in (0x3D0F00, 0x4111, 0x1200011):
        assert run(kind, clone, flags) == ALLOW
    for namespace in Namespace:
        assert run(kind, clone, namespace | 17) == EPERM


@pytest.mark.parametrize("kind", seccomp.MACHINES)
def test_other_calling_conventions_are_denied(kind: str) -> None:
    assert run(kind, 20, audit=0x40000003) == EPERM
    assert run(kind, 0x40000000 | 39) == EPERM


@pytest.mark.parametrize("kind", seccomp.MACHINES)
def test_a_file_system_is_not_remounted_for_all(kind: str) -> None:
    audit, audit_32, column = seccomp.MACHINES[kind]
    (mount, fspick), wide = (
        (seccomp.DENIED[name][column] for name in ("mount", "fspick")),
        1 << 30,
    )
    assert mount is not None
    assert fspick is not None
    for number, convention in ((mount, audit), (mount | wide, audit), (21, audit_32)):

        def mounts(flags: int, number: int = number, convention: int = convention) -> int:
            arguments = (0, 0, 0, flags)
            return run(kind, number, *arguments, audit=convention, program=seccomp.remounts)

        assert mounts(MountFlag.REMOUNT) == EPERM
        assert mounts(MountFlag.REMOUNT | MountFlag.RDONLY | 1 << 40) == EPERM
        assert mounts(MountFlag.REMOUNT | MountFlag.BIND) == EPERM
        assert mounts(MountFlag.REMOUNT | MountFlag.BIND | MountFlag.RDONLY) == ALLOW
        assert mounts(MountFlag.NOSUID) == ALLOW
    for number in (433, 442):
        for convention in (audit, audit_32):
            assert run(kind, number, audit=convention, program=seccomp.remounts) == EPERM
        assert run(kind, number | wide, audit=audit, program=seccomp.remounts) == EPERM
    assert run(kind, 21, audit=audit, program=seccomp.remounts) == ALLOW
    assert run(kind, 0, audit=1, program=seccomp.remounts) == EPERM


@pytest.mark.parametrize("kind", seccomp.MACHINES)
def test_the_numbers_are_those_of_the_headers(kind: str) -> None:
    header = NUMBERS[kind].read_text()
    found = re.finditer(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", header)
    numbers = {match[1]: int(match[2]) for match in found}
    column = seccomp.MACHINES[kind].column
    wanted = {name: row[column] for name, row in seccomp.DENIED.items()}
    wanted |= {"clone": seccomp.CLONE[column], "clone3": seccomp.CLONE3}
    assert {name: numbers.get(name) for name in wanted} == wanted


def test_the_capabilities_are_those_of_the_header_in_their_order() -> None:
    header = (HEADERS / "linux/capability.h").read_text()
    found = re.finditer(r"#define (CAP_\w+)\s+(\d+)\s*$", header, re.MULTILINE)
    numbers = {match[1]: int(match[2]) for match in found}
    assert {name: number for number, name in enumerate(capability.NAMES)} == numbers
