"""Kernel modules."""

import ctypes
import os
from typing import Final

from initd.linux.libc import check, libc

# Numbers of x86_64 and aarch64; flag from include/uapi/linux/module.h.
_SYS_FINIT_MODULE: Final = {"x86_64": 313, "aarch64": 273}
_COMPRESSED: Final = 4
_COMPRESSIONS: Final = (".xz", ".gz", ".zst")


def load(path: str, parameters: str = "") -> None:
    """finit_module(2). FileExistsError: it is loaded already."""
    flags = _COMPRESSED if path.endswith(_COMPRESSIONS) else 0
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        number = _SYS_FINIT_MODULE[os.uname().machine]
        check(
            libc.syscall(
                ctypes.c_long(number),
                ctypes.c_int(fd),
                ctypes.c_char_p(os.fsencode(parameters)),
                ctypes.c_int(flags),
            ),
            path,
        )
    finally:
        os.close(fd)
