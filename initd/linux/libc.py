"""The C library by ctypes, for calls that Python's own modules do not have."""

import ctypes
import os
from typing import Final

libc: Final = ctypes.CDLL(None, use_errno=True)


def check(result: int, filename: str | None = None) -> int:
    """The result of a call that sets errno and returns -1 when it fails."""
    if result < 0:
        raise error(ctypes.get_errno(), filename)
    return result


def error(number: int, filename: str | None = None) -> OSError:
    return OSError(number, os.strerror(number), filename)
