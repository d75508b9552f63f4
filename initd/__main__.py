"""`auraed`: PID 1 of a machine or a container, or a daemon."""

import os
import sys
from typing import Final

from initd.version import VERSION

_HELP: Final = """\
auraed: the init system of an Aurae node. The kernel starts it as PID 1.

  auraed daemon [--stay] [--listen HOST:PORT --credentials DIR]
                     serve the API on this host, until SIGTERM: on /run/aurae/aurae.sock, and over
                     TCP with the SVID and bundle in DIR; with --stay what runs then outlives it
  auraed spawn --output DIR [--root ROOT]
                     write an OCI bundle of this root, or of ROOT, with auraed as its init
  auraed --version   print the version
  auraed --help      print this

As PID 1 of a machine it is told what to do by the kernel command line (aurae.*), and in a container
(the variable `container` is set) by AURAE_LISTEN and AURAE_CREDENTIALS; see docs/architecture.md.
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


def options(arguments: list[str], names: tuple[str, ...]) -> dict[str, str] | None:
    """`--NAME VALUE` of these names, each once. None: they are something else."""
    given = dict(zip(arguments[::2], arguments[1::2], strict=False))
    known = {f"--{name}" for name in names}
    if len(arguments) % 2 or len(given) * 2 != len(arguments) or not given.keys() <= known:
        return None
    return {name.removeprefix("--"): value for name, value in given.items()}


def daemon_options(arguments: list[str]) -> dict[str, str] | None:
    """All but `--stay`, which has no value."""
    if arguments.count("--stay") > 1:
        return None
    return options([word for word in arguments if word != "--stay"], ("listen", "credentials"))


def serve(*, container: bool, listen: str = "", credentials: str = "", stay: bool = False) -> int:
    """Without a machine. See `initd.guest`."""
    if bool(listen) != bool(credentials):
        sys.stderr.write("auraed: an address and credentials go together: give both, or neither\n")
        return 2
    from initd import guest

    return guest.run(
        guest.Options(container=container, listen=listen, credentials=credentials, stay=stay)
    )


def spawn(output: str, root: str = "/") -> int:
    """Write an OCI bundle."""
    from pathlib import Path

    from initd import bundle

    try:
        bundle.write(Path(output), Path(root))
    except (bundle.Unusable, OSError) as error:
        sys.stderr.write(f"auraed: {error}\n")
        return 1
    sys.stdout.write(f"{output}: written; run it with an OCI runtime\n")
    return 0


def main() -> int:
    if os.getpid() == 1 and "container" in os.environ:
        return serve(
            container=True,
            listen=os.environ.get("AURAE_LISTEN", ""),
            credentials=os.environ.get("AURAE_CREDENTIALS", ""),
        )
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
        case ["daemon", *rest] if (given := daemon_options(rest)) is not None:
            return serve(container=False, stay="--stay" in rest, **given)
        case ["spawn", *rest] if "output" in (given := options(rest, ("output", "root")) or {}):
            return spawn(**given)
        case ["--version"]:
            sys.stdout.write(f"auraed {VERSION}\n")
            return 0
        case ["--help" | "-h"]:
            sys.stdout.write(_HELP)
            return 0
        case []:
            sys.stderr.write("auraed: not PID 1: boot an Aurae image, or see auraed --help\n")
            return 1
        case arguments:
            sys.stderr.write(f"auraed: {' '.join(arguments)}: unknown, see auraed --help\n")
            return 2


if __name__ == "__main__":
    sys.exit(main())
