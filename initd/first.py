"""What PID 1 does before it has imported the rest of itself: it starts its services.

Their interpreters take seconds on a slow machine, and need little: file systems, their cgroups,
the credentials. So nothing here imports what those do not need; `pathlib`, `dataclasses` and `json`
come after, while the services start.
"""

import os
import resource
import signal
import sys
from contextlib import ExitStack, suppress
from typing import Final

from initd import headstart
from initd.boot import cgroups, configuration, credentials, data, drivers, mounts
from initd.boot.cmdline import CommandLine, parse
from initd.boot.modules import Modules
from initd.boot.plan import Done, Step, Taken, run_plan
from initd.console import open_console
from initd.linux import prctl, splice
from initd.linux.spawn import FILES, Spawner
from initd.log import Level, Log
from initd.values import NamedTuple
from initd.version import VERSION

# The module each one runs. They start together, and none needs the other; the first, which serves
# callers, is the first to end.
SERVICES: Final = {"runtime": "runtime.__main__", "network": "initd.network.__main__"}

# How many descriptors PID 1 may have: six a process, some a connection. Its children may raise
# theirs as far.
DESCRIPTORS: Final = 524288
# The kernel takes workloads first when memory ends.
_OOM_SCORE: Final = "-900"


# The service that `/init` may have started already.
HEAD_START: Final = "runtime"


class Pipe(NamedTuple):
    """A service's output; both ends stay ours, so it outlives each run of the service. The read end
    is None once its service has it."""

    read: int | None
    write: int


class Begun(NamedTuple):
    """What PID 1 goes on with. A service that did not start has no pid here."""

    log: Log
    command_line: CommandLine
    steps: list[Taken]
    pipes: dict[str, Pipe]
    pids: dict[str, int]
    drivers: drivers.Loading | None


def begin() -> Begun:
    """Never raises: what fails is logged, and the rest is tried."""
    # Until there is a loop that hears them; children start with none blocked.
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    os.umask(0o022)
    prctl.set_name("auraed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))
    try:
        console = open_console()
    except OSError:
        # A machine without one.
        console = None
    log = Log(console)
    log.info(f"Aurae {VERSION}, Linux {os.uname().release} on {os.uname().machine}")
    beginning = _Beginning(log)
    steps = run_plan(
        (
            Step("mounts", beginning.mount),
            Step("cgroups", lambda: Done(problems=tuple(cgroups.make_tree()))),
            Step("credentials", _collect_credentials, optional=True),
            Step("configuration", beginning.configure, optional=True),
            Step("data disk", beginning.place_data_disk, optional=True),
            Step("stored", beginning.configure_by_disk, optional=True),
            Step("services", beginning.start_services),
            Step("hardware", beginning.load_drivers, optional=True),
        ),
        log,
    )
    return Begun(
        log,
        beginning.command_line,
        steps,
        beginning.pipes,
        beginning.pids,
        beginning.drivers,
    )


class _Beginning:
    def __init__(self, log: Log) -> None:
        self.command_line = CommandLine()
        self.pipes: dict[str, Pipe] = {}
        self.pids: dict[str, int] = {}
        self.drivers: drivers.Loading | None = None
        self._configuring: configuration.Configuring | None = None
        self._data_disk = ""
        self._log = log

    def mount(self) -> Done:
        problems = mounts.mount_all()
        mounts.make_folders()
        with open("/proc/cmdline", encoding="utf-8", errors="replace") as file:
            self.command_line = parse(file.read())
        self._log.level = self.command_line.level
        if self.command_line.level > Level.DEBUG:
            # The kernel's warnings and worse stay on the console; its own log has all.
            _write("/proc/sys/kernel/printk", "5 4 1 7")
        return Done(problems=(*problems, *self.command_line.problems))

    def configure(self) -> Done:
        self._configuring = configuration.Configuring(self.command_line)
        done = self._configuring.begin()
        self._take(self._configuring.command_line)
        return done

    def place_data_disk(self) -> Done:
        options = self.command_line.data
        if self.command_line.emergency:
            # What is there is used, and nothing else is done to a disk.
            options = options._replace(makes=False)
        done = data.place(
            options,
            say=lambda text: self._log.info(f"data disk: {text}"),
            unclaims=self.command_line.unclaim,
        )
        self._data_disk = done.text
        return done

    def configure_by_disk(self) -> Done:
        assert self._configuring is not None
        done = self._configuring.complete(self._data_disk)
        self._take(self._configuring.command_line)
        return done

    def _take(self, command_line: CommandLine) -> None:
        self.command_line = command_line
        self._log.level = command_line.level

    def start_services(self) -> Done:
        # The network service, and whatever loads drivers, would take half of our processor.
        headstart.hurry(os.getpid())
        problems = []
        for name in SERVICES:
            try:
                if name == HEAD_START and (begun := headstart.taken()) is not None:
                    self.pipes[name] = Pipe(begun.output, begun.end)
                    self.pids[name] = begun.pid
                    _let_go(name, begun)
                else:
                    self.pipes[name] = Pipe(*splice.make_pipe())
                    self.pids[name] = _begin_service(name, self.pipes[name].write)
            except OSError as error:
                problems.append(f"{name}: {error.strerror}")
        return Done(" ".join(self.pids), tuple(problems))

    def load_drivers(self) -> Done:
        self.drivers = drivers.start(limit=0)
        return Done()


def _begin_service(name: str, output: int) -> int:
    """As `start_service`, in a copy of this interpreter, which saves the start of another. Only
    here: later there is more in PID 1 that is not the service's."""

    def prepare() -> None:
        os.closerange(3, DESCRIPTORS)
        _write(f"{cgroups.ROOT}/{cgroups.OURS}/{name}/cgroup.procs", "0")
        resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, DESCRIPTORS))
        signal.pthread_sigmask(signal.SIG_SETMASK, ())

    pid = headstart.copy(SERVICES[name], output, prepare)
    _write(f"/proc/{pid}/oom_score_adj", _OOM_SCORE)
    return pid


def _let_go(name: str, begun: headstart.HeadStart, root: str = cgroups.ROOT) -> None:
    """Give the process what it would have been born with, and let it go on. Raises OSError."""
    try:
        splice.enlarge(begun.output)
        _write(f"{root}/{cgroups.OURS}/{name}/cgroup.procs", str(begun.pid))
        _write(f"/proc/{begun.pid}/oom_score_adj", _OOM_SCORE)
        resource.prlimit(begun.pid, resource.RLIMIT_NOFILE, (FILES, DESCRIPTORS))
    finally:
        begun.go()
        os.close(begun.gate)


def start_service(
    name: str, output: int, spawner: Spawner, root: str = cgroups.ROOT, options: str = ""
) -> int:
    """Start a service in its cgroup; returns its pid. Raises OSError.

    `options` stand for the kernel's command line where that is not for us; nor are its processors
    then."""
    with ExitStack() as opened:
        null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        opened.callback(os.close, null)
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        leaf = os.open(f"{root}/{cgroups.OURS}/{name}", flags)
        opened.callback(os.close, leaf)
        argv = headstart.command(SERVICES[name], sys.executable or headstart.PYTHON)
        fds = {0: null, 1: output, 2: output}
        env = headstart.ENVIRONMENT
        if options:
            env = {**env, "AURAE_OPTIONS": options}
        pid = spawner(argv[0], argv, env, cwd="/", fds=fds, cgroup=leaf)
    with suppress(OSError):
        _write(f"/proc/{pid}/oom_score_adj", _OOM_SCORE)
    if name == HEAD_START and not options:
        headstart.hurry(pid)
    return pid


def _collect_credentials() -> Done:
    # What shows the firmware's strings in sysfs; no device asks for them.
    _, missing = Modules().load("dmi_sysfs", "qemu_fw_cfg")
    found, problems = credentials.collect()
    return Done(" ".join(found) or "none", (*missing, *problems))


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)
