"""auraed where the machine is another's: PID 1 of a container, or a daemon on somebody's host.

It owns processes and serves the API as on a machine. It has no hardware, mounts nothing, leaves the
network alone, and removes what it made when it ends.
"""

import errno
import functools
import os
import resource
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from initd import shutdown
from initd.boot import cgroups as tree
from initd.boot import limits
from initd.boot.plan import Done, Step, Taken, describe, run_plan
from initd.console import Console
from initd.control import Control
from initd.errors import InvalidArgument, NotFound
from initd.first import start_service
from initd.linux import prctl, spawn, splice
from initd.log import Log
from initd.logs.budget import Budget
from initd.logs.stream import Stream
from initd.loop import Loop
from initd.processes import notify, wire
from initd.processes.cgroups import Cgroups
from initd.processes.children import Children
from initd.processes.model import How, Process, Status, StepReport
from initd.processes.notify import Notify
from initd.processes.operations import ProcessOperations
from initd.processes.processes import Processes
from initd.processes.wire import Object
from initd.services import Service
from initd.version import VERSION
from initd.watchdog import Vigil

RUN: Final = Path("/run/aurae")
# With their modes; what is in them is ours alone.
FOLDERS: Final = (("", 0o755), ("cells", 0o700), ("logs", 0o700), ("logs/auraed", 0o700))
# Seconds that the runtime may be silent, and those that what was killed has to be gone.
_PATIENCE: Final = 60.0
_GONE: Final = 5.0
# Seconds between two looks at whether anything is left of what stayed.
_LOOK: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How it is to be. Without `listen` the API is on its Unix socket only. With `stay` what runs
    outlives it."""

    container: bool
    listen: str = ""
    credentials: str = ""
    stay: bool = False


class Unfit(Exception):
    """It cannot run here. The message says why, and what would help."""


def own_cgroup(root: Path = Path(tree.ROOT), proc: Path = Path("/proc")) -> Path:
    """The folder of the cgroup that we are in. Raises `Unfit`."""
    if not (root / "cgroup.controllers").exists():
        raise Unfit(f"{root}: has no cgroup of version 2: mount cgroup2 there")
    for line in (proc / "self/cgroup").read_text().splitlines():
        if line.startswith("0::/"):
            return root / line.removeprefix("0::/")
    raise Unfit(f"{proc}/self/cgroup: names no cgroup of version 2: boot the host with it")


def check(base: Path) -> None:
    """Whether we can have this cgroup to ourselves. Raises `Unfit`."""
    if not os.access(base / "cgroup.procs", os.W_OK):
        raise Unfit(f"{base}: cannot be written: run as root, with cgroups mounted writable")
    # 0 are those that our namespace does not show.
    others = set((base / "cgroup.procs").read_text().split()) - {str(os.getpid())}
    # The root cgroup alone may hold both processes and cgroups with controllers.
    if others and (base / "cgroup.type").exists():
        raise Unfit(f"{base}: holds other processes too: start auraed in a cgroup of its own")


def runs_already(path: Path) -> bool:
    """Whether another auraed answers at its control socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as attempt:
        try:
            attempt.connect(str(path))
        except OSError:
            return False
    return True


class Guest:
    """Built in the order of its plan, as a machine is."""

    def __init__(self, options: Options, base: Path, log: Log) -> None:
        self._options = options
        self._base = base
        self._log = log
        self._loop = Loop(self._failed)
        self._children = Children()
        self._cgroups = Cgroups(base)
        self._spawner = spawn.best()
        self._budget = Budget(_memory() // limits.LOG_SHARE)
        self._steps: list[Taken] = []
        self._runtime: Service | None = None
        self._vigil: Vigil | None = None
        self._control: Control | None = None
        self._notify: Notify | None = None
        self._down: How | None = None
        self._processes = Processes(
            self._loop,
            self._children,
            self._cgroups,
            logs=RUN / "logs",
            budget=self._budget,
            spawner=self._spawner,
            on_change=self._process_changed,
        )

    def run(self) -> int:
        """Until SIGTERM, SIGINT or the API's Shutdown; the exit code."""
        self._steps = run_plan(self._plan(), self._log)
        self._children.reap()
        failed = any(step.error for step in self._steps)
        if failed:
            self._log.error("cannot run without that")
        while self._down is None and not failed:
            self._guard(self._loop.turn)
        services = [] if self._runtime is None else [self._runtime]
        stays = self._options.stay and not failed and self._cgroups.populated(tree.CELLS)
        stop = shutdown.stop_services if stays else shutdown.stop_all
        self._guard(lambda: stop(self._loop, self._log, self._processes, services))
        if stays:
            self._guard(self._leave_running)
        else:
            self._guard(self._remove)
        self._log.info("ended")
        return int(failed)

    def _plan(self) -> tuple[Step, ...]:
        return (
            Step("cgroups", self._make_cgroups),
            Step("folders", self._make_folders),
            Step("log", self._keep_log),
            Step("signals", self._watch_signals),
            Step("control socket", self._listen),
            Step("notify socket", self._hear_of_readiness),
            Step("service", self._start_runtime),
        )

    # Steps

    def _make_cgroups(self) -> Done:
        # What one that was killed has left.
        for name in (tree.CELLS, *(f"{tree.OURS}/{name}" for name in tree.WEIGHTS)):
            self._cgroups.kill(name)
            self._remove_cgroup(name)
        return Done(str(self._base), tuple(tree.make_tree(str(self._base))))

    def _make_folders(self) -> Done:
        # What one that was killed has left.
        _empty(RUN)
        for name, mode in FOLDERS:
            (RUN / name).mkdir(parents=True, exist_ok=True)
            (RUN / name).chmod(mode)
        return Done(str(RUN))

    def _keep_log(self) -> Done:
        self._log.keep(Stream(RUN / "logs/auraed/initd"), self._budget)
        return Done()

    def _watch_signals(self) -> Done:
        if not self._options.container:
            prctl.set_child_subreaper()
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        down = functools.partial(self._go_down, How.POWEROFF)
        self._loop.watch_signals(
            {
                signal.SIGCHLD: self._children.reap,
                signal.SIGTERM: lambda: down("SIGTERM"),
                signal.SIGINT: lambda: down("SIGINT"),
            }
        )
        return Done()

    def _listen(self) -> Done:
        self._control = Control(
            self._loop,
            Path(wire.SOCKET),
            {
                **ProcessOperations(self._processes).table(),
                "ready": self._ready,
                "alive": self._alive,
                "status": self._status,
                "shutdown": self._shutdown,
            },
            admits=lambda pid: self._runtime is not None and self._runtime.pid == pid,
        )
        return Done(wire.SOCKET)

    def _hear_of_readiness(self) -> Done:
        self._notify = notify.serve(self._loop, self._processes.told)
        return Done(notify.LINK)

    def _start_runtime(self) -> Done:
        read, write = splice.make_pipe()
        words = {
            "cgroups": str(self._base),
            "listen": self._options.listen,
            "credentials": self._options.credentials,
        }
        said = " ".join(f"aurae.{name}={value}" for name, value in words.items())
        start = functools.partial(
            start_service, "runtime", write, self._spawner, str(self._base), said
        )
        self._runtime = Service(
            "runtime",
            start,
            read,
            loop=self._loop,
            children=self._children,
            cgroups=self._cgroups,
            log=self._log,
            logs=RUN / "logs/auraed",
            budget=self._budget,
        )
        self._runtime.start()
        self._vigil = Vigil(self._loop, self._log, self._runtime, _PATIENCE)
        self._vigil.start()
        return Done("runtime")

    # The end

    def _leave_running(self) -> None:
        """To a copy of this process that takes what they write, until the last has ended."""
        self._close()
        keeper = spawn.in_child(self._keep)
        self._log.info(
            f"what runs stays, and pid {keeper} keeps its output; SIGTERM to that ends it"
        )

    def _keep(self) -> None:
        os.setsid()
        prctl.set_name("auraed-keeper")
        # Nobody is to wait for what this process will never say.
        null = os.open(os.devnull, os.O_RDWR)
        for number in range(3):
            os.dup2(null, number)
        self._log.console = None
        asked: list[None] = []
        self._loop.watch_signals({signal.SIGTERM: lambda: asked.append(None)})
        while not asked and self._cgroups.populated(tree.CELLS):
            self._guard(lambda: self._loop.turn(_LOOK))
        self._remove()

    def _close(self) -> None:
        for part in (self._notify, self._control):
            if part is not None:
                part.close()
        self._notify = self._control = None

    def _remove(self) -> None:
        self._close()
        _empty(RUN)
        with suppress(OSError):
            RUN.rmdir()
        others = (f"{tree.OURS}/{name}" for name in tree.WEIGHTS if name != "initd")
        for name in (tree.CELLS, *others):
            self._cgroups.kill(name)
            self._remove_cgroup(name)
        tree.leave(str(self._base))

    def _remove_cgroup(self, path: str) -> None:
        """What was killed may take a moment to be gone."""
        deadline = time.monotonic() + _GONE
        while True:
            try:
                self._cgroups.remove(path)
            except OSError as error:
                if error.errno != errno.EBUSY or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
            else:
                return

    # What the loop calls

    def _process_changed(self, process: Process) -> None:
        if self._control is not None:
            self._control.publish(process)

    def _go_down(self, how: How, why: str) -> None:
        if self._down is None:
            self._down = how
            self._log.info(f"going down ({why})")
            if self._control is not None:
                self._control.tell({"event": "shutdown", "how": how.value})

    def _guard(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:
            self._failed(error)

    def _failed(self, error: BaseException) -> None:
        with suppress(Exception):
            self._log.error(f"unexpected: {describe(error)}")

    # Operations of the control socket that are not about processes

    def _ready(self, request: Object, _fds: list[int], pid: int) -> Object:
        message = request.get("message")
        if not isinstance(message, str):
            raise InvalidArgument("message: must be text")
        if self._runtime is None or self._runtime.pid != pid:
            raise NotFound(f"pid {pid}: no service of auraed")
        self._runtime.told_ready(message)
        self._alive(request, [], pid)
        return {}

    def _alive(self, _request: Object, _fds: list[int], _pid: int) -> Object:
        assert self._vigil is not None
        self._vigil.hear()
        return {"again": self._vigil.every}

    def _status(self, _request: Object, _fds: list[int], _pid: int) -> Object:
        services = () if self._runtime is None else (self._runtime.report(),)
        status = Status(
            version=VERSION,
            boot_id=Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
            steps=tuple(
                StepReport(name=step.name, milliseconds=step.milliseconds, error=step.error)
                for step in self._steps
            ),
            services=services,
        )
        return wire.status_to_object(status)

    def _shutdown(self, request: Object, _fds: list[int], _pid: int) -> Object:
        if request.get("how") != How.POWEROFF.value:
            raise InvalidArgument("how: here is no machine: poweroff ends auraed")
        self._go_down(How.POWEROFF, "asked for")
        return {}


def _memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _empty(folder: Path) -> None:
    """Remove what is in it. It may be a mount point, which stays."""
    for entry in folder.iterdir() if folder.exists() else ():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def run(options: Options) -> int:
    """The exit code. Says on stderr what keeps it from running."""
    os.umask(0o022)
    prctl.set_name("auraed")
    try:
        if runs_already(Path(wire.SOCKET)):
            raise Unfit(f"{wire.SOCKET}: auraed runs already: end that first")
        base = own_cgroup()
        check(base)
    except (Unfit, OSError) as error:
        sys.stderr.write(f"auraed: {error}\n")
        return 1
    log = Log(Console(_output(), end=b"\n"))
    context = "container" if options.container else "daemon"
    log.info(f"Aurae {VERSION} as a {context}, Linux {os.uname().release}")
    return Guest(options, base, log).run()


def _output() -> int:
    """A descriptor for stderr that does not block us, where it can be opened anew."""
    try:
        return os.open("/proc/self/fd/2", os.O_WRONLY | os.O_NONBLOCK | os.O_APPEND | os.O_CLOEXEC)
    except OSError:
        return 2
