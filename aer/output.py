"""What is said to people and to programs, and where."""

import sys


def complain(message: str, hint: str = "") -> None:
    """An error: the message, then what to try."""
    print(f"aer: {message}", file=sys.stderr)
    if hint:
        print(f"({hint})", file=sys.stderr)


def warn(message: str) -> None:
    print(f"aer: warning: {message}", file=sys.stderr)
