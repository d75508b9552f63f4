"""PID 1 of a machine: all its parts, its plan, its loop and its end."""

import functools
import os
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from initd import headstart, shutdown
from initd.boot import booted, clock, configuration, identity, limits, sysctls
from initd.boot import cgroups as tree
from initd.boot.cmdline import WATCHDOG, parse
from initd.boot.hardware import Hardware
from initd.boot.plan import Done, Step, Taken, describe, run_plan
from initd.console import open_console
from initd.control import Control
from initd.errors import FailedPrecondition, InvalidArgument, NotFound, Unavailable
from initd.first import Begun, Pipe, start_service
from initd.health import Health, missing
from initd.health import undecided as health_undecided
from initd.linux import interface, power, prctl, spawn
from initd.log import Log
from initd.logs.budget import Budget
from initd.logs.stream import Stream
from initd.loop import Loop
from initd.power import PowerButtons
from initd.processes import notify, wire
from initd.processes.cgroups import Cgroups
from initd.processes.children import Children, Ending
from initd.processes.model import How, Process, Status, StepReport
from initd.processes.notify import Notify
from initd.processes.operations import ProcessOperations
from initd.processes.processes import Processes
from initd.processes.wire import Object
from initd.reload import Reload
from initd.reload import answer as answer_reload
from initd.services import Service
from initd.version import VERSION
from initd.watchdog import Vigil, Watchdog

if TYPE_CHECKING:
    from initd import screen
    from initd.handover.model import ControlState, ServiceState, State

_LOGS: Final = Path("/run/aurae/logs")
_OWN_LOGS: Final = _LOGS / "auraed"
# There in an image of the debug profile only; see image/root.py.
_DEBUG: Final = Path("/etc/aurae/debug")
# Seconds after the boot plan, when the screen begins even if no API has come to answer.
_SCREEN: Final = 60.0
# Seconds after it answers: what waits for it comes first.
_SCREEN_AFTER: Final = 1.0
# Seconds after the boot plan, when PID 1 has no hurry any more even if no API has come to answer.
_HURRY: Final = 10.0
# Where PID 1 waits for its console to take more.
_CONSOLE_TURN: Final = 0.05
# A loop that fails so often without a turn between does not work any more.
_FAILURES: Final = 100

# What signals to PID 1 ask for. The kernel drops all others, but for SIGCHLD; see docs/signals.md.
SIGNALS: Final = {
    signal.SIGTERM: (How.POWEROFF, "SIGTERM"),
    # Sent by the kernel, too, for ctrl-alt-del.
    signal.SIGINT: (How.REBOOT, "ctrl-alt-del"),
    # What the kernel sends on loss of power, where a board reports it.
    signal.SIGPWR: (How.POWEROFF, "SIGPWR"),
}


class Machine:
    """Built in the order of the plan: what needs a file system is made by the step that can."""

    def __init__(self, begun: Begun) -> None:
        self._begun = begun
        self._log = begun.log
        self._loop = Loop(self._failed)
        self._children = Children()
        self._cgroups = Cgroups(Path(tree.ROOT))
        self._spawner = spawn.best()
        self._budget = Budget(_memory() // limits.LOG_SHARE)
        self._command_line = begun.command_line
        self._steps = list(begun.steps)
        self._services: dict[str, Service] = {}
        self._control: Control | None = None
        self._notify: Notify | None = None
        self._down: How | None = None
        # Made when the API answers: until then there is no time for it.
        self._screen: screen.Screen | None = None
        self._identity = ("", "")
        # What the screen of the program before listened with.
        self._listener: int | None = None
        self._log.on_failure = self._changed
        self._buttons = PowerButtons(self._loop, self._button_pressed)
        # Built with the services.
        self._vigil: Vigil | None = None
        self._health: Health | None = None
        self._watchdog = Watchdog(self._loop, self._log, self._command_line.watchdog, self._is_well)
        self._hardware = Hardware(
            self._loop,
            self._children,
            self._log,
            {"input": self._buttons.add, "watchdog": self._watchdog.add},
        )
        self._processes = Processes(
            self._loop,
            self._children,
            self._cgroups,
            logs=_LOGS,
            budget=self._budget,
            spawner=self._spawner,
            on_change=self._process_changed,
        )
        self._reload = Reload(self._loop, self._children, self._spawner, self._log, self._save)

    def run(self) -> BaseException:
        """The machine's life. What fails is logged; there is nobody to tell it to. Comes back with
        what cannot be survived: a loop that does not work, a machine that does not end."""
        self._guard(self._boot)
        return self._live()

    def _live(self) -> BaseException:
        failures = 0
        while self._down is None:
            error = self._guard(self._turn)
            failures = failures + 1 if error else 0
            if error and failures == _FAILURES:
                return error
        how = self._down
        self._guard(self._stop)
        error = self._guard(lambda: shutdown.finish(self._log, how, self._watchdog))
        return error or RuntimeError(f"{how.value}: the machine did not end")

    def _boot(self) -> None:
        self._steps += run_plan(self._plan(), self._log)
        # What ended before SIGCHLD was listened for; all children are known now.
        self._children.reap()
        self._loop.later(_SCREEN, self._show)
        self._loop.later(_HURRY, headstart.settle)

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
            Step("limits", _limit_workloads, optional=True),
            Step("clock", lambda: Done(clock.set_clock()), optional=True),
            Step("health", self._watch_health, optional=True),
            Step("device events", self._hear_of_devices, optional=True),
            Step("sysctls", self._set_sysctls, optional=True),
            Step("machine id", lambda: Done(identity.set_machine_id()), optional=True),
            *((Step("debug shell", self._open_shells, optional=True),) if _DEBUG.exists() else ()),
        )

    def resume(self, state: "State") -> BaseException:
        """As `run`, from where another program of this process called `_save`. Raises what keeps
        it from taking over."""
        headstart.settle()
        if state.log is not None:
            self._log.keep(Stream.resume(state.log), self._budget)
        self._processes.resume(state.processes)
        self._watch_services(state.services)
        self._hardware.resume(state.hardware)
        self._buttons.resume(state.buttons)
        if state.watchdog is not None:
            self._watchdog.resume(state.watchdog)
        if state.control is not None:
            self._listen(state.control)
        if state.notify is not None:
            self._hear_of_readiness(state.notify)
        if health_undecided():
            self._watch_health()
            if self._health is not None and self._services["runtime"].ready:
                self._health.ready()
        self._identity = (state.screen.spiffe_id, state.screen.fingerprint)
        self._listener = state.screen.listener
        self._loop.later(0, self._show)
        # Children that were ended meanwhile are still ours to wait for.
        self._watch_signals()
        self._children.reap()
        if self._control is not None:
            pause = answer_reload(self._control, state.began)
            self._log.info(
                f"reload: {state.version} became {VERSION}, {pause * 1000:.0f} ms without PID 1"
            )
        return self._live()

    def _save(self) -> "State":
        from initd.handover.model import Descriptor, ScreenState, State

        listener = self._listener if self._screen is None else self._screen.listener
        stream = self._log.stream
        return State(
            version=VERSION,
            began=time.monotonic(),
            steps=self._reports(),
            log=None if stream is None else stream.save(),
            services=tuple(
                service.save(self._begun.pipes[name].write)
                for name, service in self._services.items()
            ),
            processes=self._processes.save(),
            control=None if self._control is None else self._control.save(),
            hardware=self._hardware.save(),
            notify=None if self._notify is None else Descriptor(self._notify.descriptor),
            buttons={path: Descriptor(fd) for path, fd in self._buttons.save().items()},
            watchdog=self._watchdog.save(),
            screen=ScreenState(*self._identity, None if listener is None else Descriptor(listener)),
        )

    def _replace(self) -> None:
        from initd.handover import program

        with program.unheard():
            self._loop.hear()
            if self._down is None:
                self._reload.replace()
            else:
                self._reload.refuse(Unavailable("node: going down"))

    def _turn(self) -> None:
        if self._reload.due:
            self._replace()
        console = self._log.console
        waiting = console is not None and console.pending
        self._loop.turn(_CONSOLE_TURN if waiting else None)
        if console is not None and waiting:
            console.flush()

    def _stop(self) -> None:
        services = tuple(self._services.values())
        shutdown.stop_all(self._loop, self._log, self._processes, services)

    def _guard(self, action: Callable[[], None]) -> BaseException | None:
        """What it raised, whatever it was: PID 1 has nowhere to raise to."""
        try:
            action()
        except BaseException as error:
            self._failed(error)
            return error
        return None

    def _failed(self, error: BaseException) -> None:
        # To log takes memory, which may be what there is none of.
        with suppress(BaseException):
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
        roads = {
            number: functools.partial(self._go_down, how, why)
            for number, (how, why) in SIGNALS.items()
        }
        self._loop.watch_signals({signal.SIGCHLD: self._children.reap, **roads})
        return Done()

    def _listen(self, state: "ControlState | None" = None) -> Done:
        self._control = Control(
            self._loop,
            Path(wire.SOCKET),
            {
                **ProcessOperations(self._processes).table(),
                "ready": self._ready,
                "alive": self._alive,
                "status": self._status,
                "shutdown": self._shutdown,
                "reload": self._reload_asked,
                "identity": self._identified,
            },
            admits=self._is_runtime,
            state=state,
        )
        return Done(wire.SOCKET)

    def _hear_of_readiness(self, descriptor: int | None = None) -> Done:
        self._notify = notify.serve(self._loop, self._processes.told, descriptor)
        return Done(notify.LINK)

    def _is_runtime(self, pid: int) -> bool:
        return self._services["runtime"].pid == pid

    def _watch_services(self, states: "Sequence[ServiceState]" = ()) -> Done:
        before = {state.name: state for state in states}
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
                state=before.get(name),
                on_change=self._changed,
            )
            self._services[name] = service
            if name in before:
                continue
            if name in self._begun.pids:
                service.adopt(self._begun.pids[name])
            else:
                service.start()
        # Off, no device is used; the runtime is looked after all the same.
        seconds = self._command_line.watchdog or WATCHDOG
        self._vigil = Vigil(self._loop, self._log, self._services["runtime"], seconds)
        self._vigil.start()
        return Done(" ".join(self._services))

    def _open_shells(self) -> Done:
        from initd.shell import Shells

        where = Shells(self._loop, self._children, self._spawner, self._log).start()
        self._log.warning(f"debug image: a root shell on {where}")
        return Done(where)

    def _is_well(self) -> bool:
        # On the road down the runtime ends; that the loop turns is enough.
        return self._down is not None or self._vigil is None or self._vigil.good

    def _hear_of_devices(self) -> Done:
        self._hardware.start(self._begun.drivers)
        self._buttons.look()
        self._watchdog.look()
        return Done()

    # What the loop calls

    def _button_pressed(self) -> None:
        self._go_down(How.POWEROFF, "power button")

    def _changed(self) -> None:
        if self._screen is not None:
            self._screen.changed()

    def _show(self) -> None:
        """Begin to show how the node is, if that is wanted."""
        # Where shells are on these terminals, they would be in each other's way.
        if self._screen is None and self._command_line.screen and not _DEBUG.exists():
            from initd.screen import Screen

            self._screen = Screen(self._loop, self._log, self._look, self._listener)
            self._screen.start()

    def _look(self) -> "screen.State":
        from initd import screen

        # Who it is stands elsewhere.
        as_whom = f" as {self._identity[0]}"
        services = [
            screen.Service(
                one.name, one.ready.replace(as_whom, ""), one.pid is not None, one.starts
            )
            for one in self._services.values()
        ]
        down = "" if self._down is None else self._down.value
        health, well = screen.health(services, going_down=down)
        return screen.State(
            host=os.uname().nodename,
            version=screen.version(),
            slot=screen.origin(emergency=self._command_line.emergency),
            addresses=screen.host_addresses(),
            identity=screen.Identity(*self._identity),
            health=health,
            well=well,
            error=self._log.failure,
        )

    def _process_changed(self, process: Process) -> None:
        if self._control is not None:
            self._control.publish(process)

    def _go_down(self, how: How, why: str) -> None:
        if self._down is None:
            self._down = how
            self._log.info(f"going down: {how.value} ({why})")
            if self._control is not None:
                self._control.tell({"event": "shutdown", "how": how.value})

    # Operations of the control socket that are not about processes

    def _ready(self, request: Object, _fds: list[int], pid: int) -> Object:
        message = request.get("message")
        if not isinstance(message, str):
            raise InvalidArgument("message: must be text")
        for service in self._services.values():
            if service.pid == pid:
                service.told_ready(message)
                headstart.settle()
                if self._vigil is not None:
                    self._vigil.hear()
                self._hardware.complete()
                if self._health is not None:
                    self._health.ready()
                _prepare()
                self._loop.later(_SCREEN_AFTER, self._show)
                return {}
        raise NotFound(f"pid {pid}: no service of auraed")

    def _watch_health(self) -> Done:
        told = booted.read()
        self._health = Health(
            self._loop,
            self._children,
            self._log,
            told,
            bound=self._command_line.health,
            look=lambda expected: missing(expected, self._processes.list()),
            confirm=functools.partial(self._confirm, told),
            reboot=functools.partial(self._go_down, How.REBOOT),
        )
        return Done(self._health.start())

    def _confirm(self, told: booted.Booted, new: bool) -> None:
        """This boot is a good one, if its boot image is whole."""
        from initd.boot import confirm

        health = self._health
        assert health is not None
        try:
            looking = confirm.start(told, bless=new)
        except OSError as error:
            self._log.warning(f"boot: {error}")
            health.confirmed()
            return

        def ended(_ending: Ending) -> None:
            said = confirm.report(looking)
            if said.problem:
                self._log.error(said.problem)
            if said.reboot:
                self._go_down(How.REBOOT, "damaged boot image")
            else:
                health.confirmed()

        self._children.add(looking.pid, ended)

    def _identified(self, request: Object, _fds: list[int], _pid: int) -> Object:
        spiffe_id, fingerprint = request.get("spiffe_id"), request.get("fingerprint")
        if not isinstance(spiffe_id, str) or not isinstance(fingerprint, str):
            raise InvalidArgument("spiffe_id, fingerprint: must be text")
        self._identity = (spiffe_id, fingerprint)
        self._changed()
        return {}

    def _alive(self, _request: Object, _fds: list[int], _pid: int) -> Object:
        assert self._vigil is not None
        self._vigil.hear()
        return {"again": self._vigil.every}

    def _reload_asked(self, _request: Object, _fds: list[int], _pid: int) -> None:
        if self._down is not None:
            raise Unavailable("node: going down, PID 1 stays what it is")
        assert self._control is not None
        self._reload.begin(self._control)

    def _reports(self) -> tuple[StepReport, ...]:
        return tuple(
            StepReport(name=step.name, milliseconds=step.milliseconds, error=step.error)
            for step in self._steps
        )

    def _status(self, _request: Object, _fds: list[int], _pid: int) -> Object:
        status = Status(
            version=VERSION,
            boot_id=Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
            steps=self._reports(),
            services=tuple(service.report() for service in self._services.values()),
        )
        return wire.status_to_object(status)

    def _shutdown(self, request: Object, _fds: list[int], _pid: int) -> Object:
        try:
            how = How(request.get("how", ""))
        except ValueError as error:
            names = ", ".join(how.value for how in How)
            raise InvalidArgument(f"how: must be one of {names}") from error
        if how is How.KEXEC and self._down is None and not shutdown.kexec_is_loaded():
            raise FailedPrecondition("kexec: no kernel is loaded: kexec_file_load(2) one first")
        self._go_down(how, "asked for")
        return {}


def resume(state: "State") -> BaseException:
    """The machine of another program of this process goes on. See `Machine.resume`."""
    prctl.set_name("auraed")
    log = Log(None)
    with suppress(OSError):
        log.console = open_console()
    command_line = configuration.in_effect(parse(Path("/proc/cmdline").read_text(errors="replace")))
    log.level = command_line.level
    begun = Begun(
        log,
        command_line,
        [Taken(step.name, step.milliseconds, step.error) for step in state.steps],
        # Its read end is with its service's own state.
        {service.name: Pipe(None, service.output) for service in state.services},
        {},
        None,
    )
    return Machine(begun).resume(state)


def _prepare() -> None:
    """Import what a handover and isolated cells take, before another version may lie there."""
    from initd.handover import program  # noqa: F401
    from initd.processes import confined, inits  # noqa: F401


def _limit_workloads() -> Done:
    found = limits.share(limits.read_machine())
    text = f"{found.memory >> 20} MiB and {found.pids} processes for workloads"
    return Done(text, tuple(limits.apply(found)))


def _loopback_up() -> Done:
    interface.up("lo")
    return Done()


def _memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
