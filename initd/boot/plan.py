"""Runs a plan: named steps, each logged with its time."""

import time
from collections.abc import Callable, Iterable

from initd.log import Log
from initd.values import NamedTuple


class Done(NamedTuple):
    """What a step has to say: one line, and what went wrong without stopping it."""

    text: str = ""
    problems: tuple[str, ...] = ()


class Step(NamedTuple):
    """`optional`: its failure is a warning. Without the others the machine is not what it should
    be, yet goes on with as much as works: PID 1 has nowhere to return to."""

    name: str
    run: Callable[[], Done]
    optional: bool = False


class Taken(NamedTuple):
    """A step that was run; `error` is empty when it went well."""

    name: str
    milliseconds: float
    error: str


def run_plan(steps: Iterable[Step], log: Log) -> list[Taken]:
    return [_run(step, log) for step in steps]


def _run(step: Step, log: Log) -> Taken:
    began = time.monotonic()
    error = ""
    try:
        done = step.run()
    except BaseException as e:  # Whatever it met, the next step may still work.
        done = Done()
        error = describe(e)
    milliseconds = (time.monotonic() - began) * 1000
    log.info(f"{step.name:<18}{milliseconds:6.0f} ms  {done.text}".rstrip())
    for problem in done.problems:
        log.warning(f"{step.name}: {problem}")
    if error:
        tell = log.warning if step.optional else log.error
        tell(f"{step.name}: failed: {error}")
    return Taken(step.name, round(milliseconds, 1), error)


def describe(error: BaseException) -> str:
    """One line: the fact for failures of the system, the place too for mistakes of ours."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    where = f" at {frame.tb_frame.f_code.co_filename}:{frame.tb_lineno}" if frame else ""
    return f"{type(error).__name__}: {error}{where}"
