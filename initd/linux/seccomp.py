"""Filters of system calls: seccomp(2), as classic BPF programs.

What the profile denies fails with EPERM: what changes the machine, or reaches kernel code that a
workload does not need and that has had holes. New namespaces are denied too, for they open most of
it to anybody: clone(2) by its flags, clone3(2), whose flags no filter can see, by ENOSYS; C
libraries use clone(2) then.
"""

import ctypes
import errno
import functools
import struct
from collections.abc import Mapping
from typing import Final

from initd.linux.libc import check, libc
from initd.linux.mount import MountFlag
from initd.linux.namespace import Namespace
from initd.values import NamedTuple


class Machine(NamedTuple):
    """What `uname -m` calls it has these AUDIT_ARCH (include/uapi/linux/audit.h): its own, and that
    of its 32 bit programs."""

    audit: int
    audit_32: int
    column: int


MACHINES: Final = {
    "x86_64": Machine(0xC000003E, 0x40000003, 0),
    "aarch64": Machine(0xC00000B7, 0x40000028, 1),
}

# Numbers on x86_64 (arch/x86/entry/syscalls/syscall_64.tbl) and aarch64
# (include/uapi/asm-generic/unistd.h); None where it has no such call.
DENIED: Final[dict[str, tuple[int, int | None]]] = {
    "acct": (163, 89),
    "add_key": (248, 217),
    "adjtimex": (159, 171),
    "bpf": (321, 280),
    "chroot": (161, 51),
    "clock_adjtime": (305, 266),
    "clock_settime": (227, 112),
    "create_module": (174, None),
    "delete_module": (176, 106),
    "finit_module": (313, 273),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fsopen": (430, 430),
    "fspick": (433, 433),
    "get_kernel_syms": (177, None),
    "init_module": (175, 105),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "io_uring_setup": (425, 425),
    "ioperm": (173, None),
    "iopl": (172, None),
    "kcmp": (312, 272),
    "kexec_file_load": (320, 294),
    "kexec_load": (246, 104),
    "keyctl": (250, 219),
    "lookup_dcookie": (212, 18),
    "mount": (165, 40),
    "mount_setattr": (442, 442),
    "move_mount": (429, 429),
    "name_to_handle_at": (303, 264),
    "nfsservctl": (180, 42),
    "open_by_handle_at": (304, 265),
    "open_tree": (428, 428),
    "perf_event_open": (298, 241),
    "pivot_root": (155, 41),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "query_module": (178, None),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "reboot": (169, 142),
    "request_key": (249, 218),
    "setdomainname": (171, 162),
    "sethostname": (170, 161),
    "setns": (308, 268),
    "settimeofday": (164, 170),
    "swapoff": (168, 225),
    "swapon": (167, 224),
    "syslog": (103, 116),
    "umount2": (166, 39),
    "unshare": (272, 97),
    "uselib": (134, None),
    "userfaultfd": (323, 282),
    "vhangup": (153, 58),
}
CLONE: Final = (56, 220)
CLONE3: Final = 435
# mount(2) of 32 bit programs, on both.
MOUNT_32: Final = 21
# Calls with this bit are of the x32 ABI: the same ones under other numbers.
_X32: Final = 0x40000000

# include/uapi/linux/filter.h, bpf_common.h: 32 bit words of struct seccomp_data.
_LOAD: Final = 0x20
_JUMP_EQUAL: Final = 0x15
_JUMP_GREATER_EQUAL: Final = 0x35
_JUMP_ANY_BIT: Final = 0x45
_RETURN: Final = 0x06
_NUMBER_AT: Final = 0
_ARCHITECTURE_AT: Final = 4
_FIRST_ARGUMENT_AT: Final = 16
_FOURTH_ARGUMENT_AT: Final = 40
_ALLOW: Final = 0x7FFF0000
_ERRNO: Final = 0x00050000

_INSTRUCTION: Final = struct.Struct("=HBBI")
_PR_SET_SECCOMP: Final = 22
_SECCOMP_MODE_FILTER: Final = 2


class _Program(ctypes.Structure):
    """struct sock_fprog of include/uapi/linux/filter.h."""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


class _Jump(NamedTuple):
    """Compare the word loaded last; None is the next instruction."""

    code: int
    constant: int
    then: str | None = None
    otherwise: str | None = None


class _Do(NamedTuple):
    """Load the word at an offset, or return a constant."""

    code: int
    constant: int


# A text is a label: it stands for the instruction after it.
_Line = str | _Jump | _Do


@functools.cache
def profile(machine: str) -> bytes:
    """The filter that denies what is in the table, for what `uname -m` calls the machine.

    KeyError: unknown."""
    audit, _, column = MACHINES[machine]
    numbers = sorted(n for row in DENIED.values() if (n := row[column]) is not None)
    return _assembled(
        _Do(_LOAD, _ARCHITECTURE_AT),
        _Jump(_JUMP_EQUAL, audit, None, "denied"),
        _Do(_LOAD, _NUMBER_AT),
        _Jump(_JUMP_GREATER_EQUAL, _X32, "denied"),
        *(_Jump(_JUMP_EQUAL, number, "denied") for number in numbers),
        _Jump(_JUMP_EQUAL, CLONE3, "unknown"),
        _Jump(_JUMP_EQUAL, CLONE[column], None, "allowed"),
        _Do(_LOAD, _FIRST_ARGUMENT_AT),
        _Jump(_JUMP_ANY_BIT, int(sum(Namespace)), "denied", "allowed"),
        "unknown",
        _Do(_RETURN, _ERRNO | errno.ENOSYS),
        *_ENDS,
    )


@functools.cache
def remounts(machine: str) -> bytes:
    """The filter for root of the node in a mount namespace of its own: it cannot change a file
    system for all who have it mounted, nor make a mount writable again. Of mount(2) with MS_REMOUNT
    what is left is MS_BIND, which is about one mount, together with MS_RDONLY; fspick(2) is denied,
    and mount_setattr(2), whose arguments no filter can see. KeyError: the machine is unknown."""
    audit, audit_32, column = MACHINES[machine]
    mount, fspick, setattr_ = (
        number
        for name in ("mount", "fspick", "mount_setattr")
        if (number := DENIED[name][column]) is not None
    )
    return _assembled(
        _Do(_LOAD, _ARCHITECTURE_AT),
        _Jump(_JUMP_EQUAL, audit, "ours"),
        _Jump(_JUMP_EQUAL, audit_32, None, "denied"),
        _Do(_LOAD, _NUMBER_AT),
        _Jump(_JUMP_EQUAL, MOUNT_32, "mount", "others"),
        "ours",
        _Do(_LOAD, _NUMBER_AT),
        _Jump(_JUMP_EQUAL, mount, "mount"),
        _Jump(_JUMP_EQUAL, mount | _X32, "mount"),
        "others",
        *(
            _Jump(_JUMP_EQUAL, number, "denied")
            for number in (fspick, setattr_, fspick | _X32, setattr_ | _X32)
        ),
        _Do(_RETURN, _ALLOW),
        "mount",
        _Do(_LOAD, _FOURTH_ARGUMENT_AT),
        _Jump(_JUMP_ANY_BIT, MountFlag.REMOUNT, None, "allowed"),
        _Jump(_JUMP_ANY_BIT, MountFlag.BIND, None, "denied"),
        _Jump(_JUMP_ANY_BIT, MountFlag.RDONLY, "allowed", "denied"),
        *_ENDS,
    )


_ENDS: Final[tuple[_Line, ...]] = (
    "denied",
    _Do(_RETURN, _ERRNO | errno.EPERM),
    "allowed",
    _Do(_RETURN, _ALLOW),
)


def _assembled(*lines: _Line) -> bytes:
    """struct.error where a jump goes back, or further than 255: an instruction cannot hold it."""
    places: dict[str | None, int] = {}
    steps: list[_Jump | _Do] = []
    for line in lines:
        if isinstance(line, str):
            places[line] = len(steps)
        else:
            steps.append(line)
    return b"".join(_packed(step, {None: at + 1, **places}, at) for at, step in enumerate(steps))


def _packed(step: _Jump | _Do, places: Mapping[str | None, int], at: int) -> bytes:
    if isinstance(step, _Do):
        return _INSTRUCTION.pack(step.code, 0, 0, step.constant)
    skips = [places[label] - at - 1 for label in (step.then, step.otherwise)]
    return _INSTRUCTION.pack(step.code, *skips, step.constant)


def confine(instructions: bytes) -> None:
    """For this process and its children, for good; filters add up. Needs CAP_SYS_ADMIN or
    no_new_privs."""
    filtered = _Program(len(instructions) // _INSTRUCTION.size, instructions)
    mode = ctypes.c_ulong(_SECCOMP_MODE_FILTER)
    check(libc.prctl(_PR_SET_SECCOMP, mode, ctypes.byref(filtered)))
