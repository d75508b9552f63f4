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


def main() -> int:
    # The kernel hands parameters that it does not know to PID 1: they mean nothing here.
    if os.getpid() == 1:
        from initd import first

        begun = first.begin()
        from initd.machine import Machine

        Machine(begun).run()
    match sys.argv[1:]:
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
