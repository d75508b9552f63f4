"""`auraed`: PID 1 of a machine."""

import os
import sys
from typing import Final

from initd.version import VERSION

_HELP: Final = """\
auraed: the init system of an Aurae node. The kernel starts it as PID 1.

  auraed --version   print the version
  auraed --help      print this

What it does is set by the kernel command line (aurae.*); see docs/architecture.md.
"""


def live(arguments: list[str]) -> BaseException:
    """As PID 1: boot the machine, or go on with one where another program left it. Comes back with
    what it cannot survive. The kernel hands parameters that it does not know to PID 1: they mean
    nothing here."""
    if arguments[:1] == ["handover"]:
        from initd.handover import program

        state = program.given(arguments)
        if state is not None:
            from initd.machine import resume

            return resume(program.take(state))
    from initd import first

    begun = first.begin()
    from initd.machine import Machine

    return Machine(begun).run()


def describe(error: BaseException) -> str:
    """With the place: there will be nothing else to look at."""
    where = ""
    trace = error.__traceback__
    while trace is not None:
        where = f" at {trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"
        trace = trace.tb_next
    return f"{type(error).__name__}: {error}{where}"


def main() -> int:
    if os.getpid() == 1:
        # Before anything that may fail: it is what is left then.
        from initd import fallback

        try:
            reason = describe(live(sys.argv[1:]))
        except BaseException as error:
            reason = describe(error)
        fallback.run(reason)
    match sys.argv[1:]:
        case ["check", number]:
            from initd.handover import program

            return program.check(number)
        case ["--version"]:
            sys.stdout.write(f"auraed {VERSION}\n")
            return 0
        case ["--help" | "-h"]:
            sys.stdout.write(_HELP)
            return 0
        case []:
            sys.stderr.write("auraed: not PID 1: boot an Aurae image, see auraed --help\n")
            return 1
        case arguments:
            sys.stderr.write(f"auraed: {arguments[0]}: unknown, see auraed --help\n")
            return 2


if __name__ == "__main__":
    sys.exit(main())
