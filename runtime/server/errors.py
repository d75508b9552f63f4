"""Refusals and failures to gRPC status: the one table."""

import errno
import itertools
import logging
import os
from collections.abc import Mapping
from typing import Final

from grpc import StatusCode

from initd import errors

log = logging.getLogger(__name__)

REFUSALS: Final[Mapping[type[errors.AuraedError], StatusCode]] = {
    errors.InvalidArgument: StatusCode.INVALID_ARGUMENT,
    errors.NotFound: StatusCode.NOT_FOUND,
    errors.AlreadyExists: StatusCode.ALREADY_EXISTS,
    errors.FailedPrecondition: StatusCode.FAILED_PRECONDITION,
    errors.ResourceExhausted: StatusCode.RESOURCE_EXHAUSTED,
    errors.PermissionDenied: StatusCode.PERMISSION_DENIED,
    errors.Unauthenticated: StatusCode.UNAUTHENTICATED,
    errors.Unimplemented: StatusCode.UNIMPLEMENTED,
    errors.Unavailable: StatusCode.UNAVAILABLE,
}

# Failures that the caller, or who runs the node, can do something about. The rest is INTERNAL.
FAILURES: Final[Mapping[int, StatusCode]] = {
    errno.EAGAIN: StatusCode.RESOURCE_EXHAUSTED,
    errno.EDQUOT: StatusCode.RESOURCE_EXHAUSTED,
    errno.EMFILE: StatusCode.RESOURCE_EXHAUSTED,
    errno.ENFILE: StatusCode.RESOURCE_EXHAUSTED,
    errno.ENOMEM: StatusCode.RESOURCE_EXHAUSTED,
    errno.ENOSPC: StatusCode.RESOURCE_EXHAUSTED,
    errno.EACCES: StatusCode.PERMISSION_DENIED,
    errno.EPERM: StatusCode.PERMISSION_DENIED,
    errno.EROFS: StatusCode.FAILED_PRECONDITION,
    errno.EBUSY: StatusCode.UNAVAILABLE,
    errno.EINTR: StatusCode.UNAVAILABLE,
    errno.ECONNREFUSED: StatusCode.UNAVAILABLE,
    errno.ECONNRESET: StatusCode.UNAVAILABLE,
    errno.EPIPE: StatusCode.UNAVAILABLE,
    errno.ETIMEDOUT: StatusCode.UNAVAILABLE,
}

_references: Final = itertools.count(1)


def status(error: Exception) -> tuple[StatusCode, str]:
    """Status and message for the caller. What nobody foresaw is logged here, once."""
    for kind in type(error).__mro__:
        if code := REFUSALS.get(kind):
            return code, str(error)
    if isinstance(error, OSError) and (code := FAILURES.get(error.errno or 0)):
        return code, describe(error)
    reference = f"{os.getpid()}-{next(_references)}"
    log.error("unexpected error, reference %s", reference, exc_info=error)
    return StatusCode.INTERNAL, (
        f"unexpected error; auraed's log says more under reference {reference}"
    )


def describe(error: OSError) -> str:
    """`/path: fact`, without Python's brackets."""
    fact = error.strerror or str(error)
    return f"{error.filename}: {fact}" if error.filename else fact
