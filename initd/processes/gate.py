"""Where a new process waits until it lies in its leaf cgroup.

A child that is born in its leaf by vfork(2) or posix_spawn(3) shares PID 1's memory until it has
executed, and PID 1 waits for that. The leaf's limits would then hold PID 1: a cell that had used up
its `cpu.max` held it for 5 s, one with a `memory.max` of 0 for ever (the kernel finds nobody to
kill, for the memory is init's). So the child is born beside PID 1 and executes a shell, which waits
at a pipe; PID 1 moves it, which costs microseconds, and lets go.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Final

SHELL: Final = "/bin/sh"

# What shells export without being asked.
_LITTER: Final = ("OLDPWD", "PWD", "SHLVL")


def descriptor(taken: Collection[int]) -> int:
    """The child's number for the pipe. POSIX has shells understand one digit only."""
    return next(number for number in range(9, 2, -1) if number not in taken)


def command(number: int, path: str, argv: Sequence[str], env: Mapping[str, str]) -> tuple[str, ...]:
    """What the child executes: wait for the end of file at descriptor `number`, then `path`."""
    litter = " ".join(name for name in _LITTER if name not in env)
    script = f'read -r _ <&{number}; unset _ {litter}; exec "$@" {number}<&-'
    return (SHELL, "-c", script, SHELL, path, *argv[1:])
