"""Refusals: what auraed will not do, named by what the caller can do next.

Failures of the system are `OSError` and travel untouched. `runtime/server/errors.py` maps both to
gRPC status. The message says: object, fact, remedy.
"""


class AuraedError(Exception):
    """Any refusal. Nothing was changed."""


class InvalidArgument(AuraedError):
    """The request can never work: mend it."""


class NotFound(AuraedError):
    """The object does not exist: make it first, or name another."""


class AlreadyExists(AuraedError):
    """The name is taken: use another, or remove what has it."""


class FailedPrecondition(AuraedError):
    """The object is not in a state for this: change that first."""


class ResourceExhausted(AuraedError):
    """A limit is reached: free something first."""


class PermissionDenied(AuraedError):
    """The caller may not do this."""


class Unauthenticated(AuraedError):
    """Nobody who is known calls: show another certificate, or have yours renewed."""

    def __init__(self, message: str, claimed: str = "") -> None:
        super().__init__(message)
        self.claimed = claimed
        """Who the caller says it is, for the audit; nothing vouches for it."""


class Unimplemented(AuraedError):
    """Not built: do without it."""


class Unavailable(AuraedError):
    """Not now: try again."""
