"""What can go wrong in a client, by who can mend it."""


class AerError(Exception):
    """Something was refused or failed: exit status 1. `hint` says what to try."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(AerError):
    """The command line or a configuration is wrong: exit status 2."""
