"""Entry point: run one command, and turn what goes wrong into words and an exit status."""

import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType

from aer import cli, output
from aer.errors import AerError, UsageError

# A shell's convention: 128 and the signal's number.
INTERRUPTED = 130
BROKEN_PIPE = 141
# Seconds that an interrupted command has to end by itself.
PATIENCE = 1.0


def main(words: Sequence[str] | None = None) -> int:
    # gRPC's own log is for its developers; what it says is in the error as well.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    # Who started us to ignore it, as shells do with what they start by `&`, is heeded.
    if words is None and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)
    try:
        return _run(sys.argv[1:] if words is None else words)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read us has gone. Python flushes stdout once more at exit, and would complain.
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    """Python drops an exception that comes amid a callback of gRPC's: then this second one ends."""
    signal.signal(signal.SIGALRM, lambda _number, _frame: os._exit(INTERRUPTED))
    signal.setitimer(signal.ITIMER_REAL, PATIENCE)
    raise KeyboardInterrupt


def _run(words: Sequence[str]) -> int:
    try:
        call = cli.parse(words)
        status = call.command.run(call)
        sys.stdout.flush()
    except UsageError as e:
        output.complain(str(e), e.hint)
        return 2
    except AerError as e:
        output.complain(str(e), e.hint)
        return 1
    except FileExistsError as e:
        output.complain(
            f"{e.filename}: exists already, and is left as it is", "choose another name"
        )
        return 1
    except BrokenPipeError:
        raise
    except OSError as e:
        output.complain(f"{e.filename}: {e.strerror}" if e.filename else str(e))
        return 1
    except ValueError as e:
        output.complain(str(e))
        return 1
    return status


if __name__ == "__main__":
    sys.exit(main())
