"""PID 1 of a machine: all its parts, its plan, its loop and its end."""

import functools
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, NoReturn

from initd import shutdown
from initd.boot import cgroups as tree
from initd.boot import clock, identity, sysctls
from initd.boot.hardware import Hardware
from initd.boot.plan import Done, Step, describe, run_plan
from initd.control import Control
from initd.errors import InvalidArgument, NotFound
from initd.first import Begun, start_service
from initd.linux import interface, power, spawn
from initd.logs.budget import Budget
from initd.logs.stream import Stream
from initd.loop import Loop
from initd.power import PowerButtons
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

_LOGS: Final = Path("/run/aurae/logs")
_OWN_LOGS: Final = _LOGS / "auraed"
# Of the machine's memory, for all output together.
_LOG_SHARE: Final = 8
# Where PID 1 waits for its console to take more.
_CONSOLE_TURN: Final = 0.05


class Machine:
    """Built in the order of the plan: what needs a file system is made by the step that can."""

    def __init__(self, begun: Begun) -> None:
        self._begun = begun
        self._log = begun.log
        self._loop = Loop(self._failed)
        self._children = Children()
        self._cgroups = Cgroups(Path(tree.ROOT))
        self._spawner = spawn.best()
        self._budget = Budget(_memory() // _LOG_SHARE)
        self._command_line = begun.command_line
        self._steps = list(begun.steps)
        self._services: dict[str, Service] = {}
        self._control: Control | None = None
        self._notify: Notify | None = None
        self._down: How | None = None
        self._buttons = PowerButtons(self._loop, self._button_pressed)
        self._hardware = Hardware(self._loop, self._children, self._log, self._buttons.add)
        self._processes = Processes(
            self._loop,
            self._children,
            self._cgroups,
            logs=_LOGS,
            budget=self._budget,
            spawner=self._spawner,
            on_change=self._process_changed,
        )

    def run(self) -> NoReturn:
        """The machine's life. What fails is logged; there is nobody to tell it to."""
        self._guard(self._boot)
        while self._down is None:
            self._guard(self._turn)
        how = self._down
        self._guard(self._stop)
        self._guard(lambda: shutdown.finish(self._log, how))
        # Halted, or the kernel refused. PID 1 stays whatever happens.
        while True:
            time.sleep(3600)

    def _boot(self) -> None:
        self._steps += run_plan(self._plan(), self._log)
        # What ended before SIGCHLD was listened for; all children are known now.
        self._children.reap()

    def _plan(self) -> tuple[Step, ...]:
        """After those of `first`. The services are starting meanwhile: first what they wait for."""
        return (
            Step("log", self._keep_log),
            Step("signals", self._watch_signals),
            Step("supervision", self._watch_services),
            Step("control socket", self._listen),
            Step("notify socket", self._hear_of_readiness, optional=True),
            Step("hostname", self._set_hostname),
            Step("loopback", _loopback_up),
            Step("clock", lambda: Done(clock.set_clock()), optional=True),
            Step("device events", self._hear_of_devices, optional=True),
            Step("sysctls", self._set_sysctls, optional=True),
            Step("machine id", lambda: Done(identity.set_machine_id()), optional=True),
        )

    def _turn(self) -> None:
        console = self._log.console
        waiting = console is not None and console.pending
        self._loop.turn(_CONSOLE_TURN if waiting else None)
        if console is not None and waiting:
            console.flush()

    def _stop(self) -> None:
        services = tuple(self._services.values())
        shutdown.stop_all(self._loop, self._log, self._processes, services)

    def _guard(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:  # PID 1 has nowhere to raise to.
            self._failed(error)

    def _failed(self, error: Exception) -> None:
        self._log.error(f"unexpected: {describe(error)}")

    # Steps

    def _keep_log(self) -> Done:
        self._log.keep(Stream(_OWN_LOGS / "initd"), self._budget)
        return Done()

    def _set_hostname(self) -> Done:
        return Done(identity.set_hostname(self._command_line.hostname))

    def _set_sysctls(self) -> Done:
        problems = sysctls.apply(sysctls.MACHINE)
        problems += sysctls.apply(self._command_line.sysctls)
        return Done(problems=tuple(problems))

    def _watch_signals(self) -> Done:
        power.ctrl_alt_del_sends_sigint()
        self._loop.watch_signals(
            {
                signal.SIGCHLD: self._children.reap,
                signal.SIGTERM: lambda: self._go_down(How.POWEROFF, "SIGTERM"),
                signal.SIGINT: lambda: self._go_down(How.REBOOT, "ctrl-alt-del"),
                # What the kernel sends on loss of power, where a board reports it.
                signal.SIGPWR: lambda: self._go_down(How.POWEROFF, "SIGPWR"),
            }
        )
        return Done()

    def _listen(self) -> Done:
        operations = ProcessOperations(self._processes)
        self._control = Control(
            self._loop,
            Path(wire.SOCKET),
            {
                "spawn": operations.spawn,
                "signal": operations.signal,
                "stop": operations.stop,
                "list": operations.list,
                "finish": operations.finish,
                "forget": operations.forget,
                "ready": self._ready,
                "status": self._status,
                "shutdown": self._shutdown,
            },
        )
        return Done(wire.SOCKET)

    def _hear_of_readiness(self) -> Done:
        path, link = Path(notify.SOCKET), Path(notify.LINK)
        path.parent.mkdir(mode=0o755, exist_ok=True)
        self._notify = Notify(self._loop, path, self._processes.told)
        link.unlink(missing_ok=True)
        link.symlink_to(path.relative_to(link.parent))
        return Done(notify.LINK)

    def _watch_services(self) -> Done:
        for name, pipe in self._begun.pipes.items():
            service = Service(
                name,
                functools.partial(start_service, name, pipe.write, self._spawner),
                pipe.read,
                loop=self._loop,
                children=self._children,
                cgroups=self._cgroups,
                log=self._log,
                logs=_OWN_LOGS,
                budget=self._budget,
            )
            self._services[name] = service
            if name in self._begun.pids:
                service.adopt(self._begun.pids[name])
            else:
                service.start()
        return Done(" ".join(self._services))

    def _hear_of_devices(self) -> Done:
        self._hardware.start(self._begun.drivers)
        self._buttons.look()
        return Done()

    # What the loop calls

    def _button_pressed(self) -> None:
        self._go_down(How.POWEROFF, "power button")

    def _process_changed(self, process: Process) -> None:
        if self._control is not None:
            self._control.publish(process)

    def _go_down(self, how: How, why: str) -> None:
        if self._down is None:
            self._down = how
            self._log.info(f"going down: {how.value} ({why})")

    # Operations of the control socket that are not about processes

    def _ready(self, request: Object, _fds: list[int], pid: int) -> Object:
        message = request.get("message")
        if not isinstance(message, str):
            raise InvalidArgument("message: must be text")
        for service in self._services.values():
            if service.pid == pid:
                service.told_ready(message)
                self._hardware.complete()
                return {}
        raise NotFound(f"pid {pid}: no service of auraed")

    def _status(self, _request: Object, _fds: list[int], _pid: int) -> Object:
        status = Status(
            version=VERSION,
            boot_id=Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
            steps=tuple(
                StepReport(name=step.name, milliseconds=step.milliseconds, error=step.error)
                for step in self._steps
            ),
            services=tuple(service.report() for service in self._services.values()),
        )
        return wire.status_to_object(status)

    def _shutdown(self, request: Object, _fds: list[int], _pid: int) -> Object:
        try:
            how = How(request.get("how", ""))
        except ValueError as error:
            names = ", ".join(how.value for how in How)
            raise InvalidArgument(f"how: must be one of {names}") from error
        self._go_down(how, "asked for")
        return {}


def _loopback_up() -> Done:
    interface.up("lo")
    return Done()


def _memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
