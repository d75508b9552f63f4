"""A running QEMU: start it, watch it, end it."""

import os
import select
import shlex
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePosixPath
from typing import Final

from image.acceleration import Acceleration
from image.console import Console, LostError
from image.cpio import Archive
from image.machine import (
    Channel,
    Files,
    KernelBoot,
    Machine,
    command,
    find_firmware,
    has_firmware,
    smbios_strings,
)
from image.monitor import Monitor, MonitorError

MONITOR_SOCKET: Final = "monitor.sock"
CONSOLE_SOCKET: Final = "console.sock"
KILL_SECONDS: Final = 10.0


class StartError(Exception):
    """QEMU did not start."""


class Qemu:
    """A machine that was started here or, by `find`, by another process.

    Whoever has it must end it or leave it: `kill` and `wait_end`, or `detach`.
    """

    def __init__(self, files: Files, pid: int, process: subprocess.Popen[bytes] | None) -> None:
        """Connect to the monitor. Raises `StartError` or `MonitorError`."""
        self.files = files
        self.pid = pid
        self._process = process
        self._asked_to_end = False
        self._open = ExitStack()
        self._pidfd = os.pidfd_open(pid)
        self._open.callback(os.close, self._pidfd)
        self.console = Console(files.console, self.wait_end)
        try:
            with _reachable(files.folder / MONITOR_SOCKET) as path:
                self.monitor = self._open.enter_context(Monitor(path))
        except BaseException:
            self._open.close()
            raise

    @classmethod
    def find(cls, files: Files) -> "Qemu | None":
        """The machine that another process left running in this folder, or None."""
        try:
            with _connect(files.folder / MONITOR_SOCKET):
                pid = int(files.pid.read_text())
        except (OSError, ValueError):
            return None
        try:
            return cls(files, pid, None)
        except (ProcessLookupError, MonitorError):
            return None

    @property
    def ended(self) -> bool:
        return self.wait_end(0)

    def wait_end(self, timeout: float | None) -> bool:
        """Wait up to `timeout` seconds (None: for ever) for QEMU's end; whether it has come."""
        waiter = select.poll()
        waiter.register(self._pidfd, select.POLLIN)
        ended = bool(waiter.poll(None if timeout is None else max(timeout, 0) * 1000))
        if ended and self._process:
            self._process.wait()
        return ended

    def check(self) -> None:
        """Raise `LostError` if the machine has ended unasked or panicked."""
        if self.ended and not self._asked_to_end:
            raise LostError(f"lost the machine: QEMU has ended; {self._why()}")
        if "Kernel panic - not syncing" in self.console.text:
            raise LostError(f"lost the machine: kernel panic; {self.console.last_lines()}")

    def expect_end(self) -> None:
        """From now on the machine may end: something was done that leads to it."""
        self._asked_to_end = True

    def powerdown(self) -> None:
        """Press the power button (ACPI). Returns at once."""
        self.expect_end()
        self.monitor.execute("system_powerdown")

    def kill(self) -> None:
        """End QEMU as a power cut would."""
        self.expect_end()
        if not self.ended:
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            if not self.wait_end(KILL_SECONDS):
                raise LostError(f"QEMU (pid {self.pid}) survived SIGKILL for {KILL_SECONDS} s")

    def wait_for_shutdown(self, reason: str, timeout: float) -> None:
        """Wait for the guest's own end, for QEMU's `reason`; else raise `LostError`."""
        self.expect_end()
        if not self.wait_end(timeout):
            raise LostError(
                f"the machine did not end in {timeout:g} s; {self.console.last_lines()}"
            )
        if (seen := self.monitor.shutdown_reason()) != reason:
            raise LostError(f"the machine ended by {seen}, not {reason}; {self._why()}")

    def console_line(self) -> socket.socket:
        """A connection to type on the console. Read it, or the guest's console stops."""
        return _connect(self.files.folder / CONSOLE_SOCKET)

    def detach(self) -> None:
        """Leave the machine as it is and close what was opened here."""
        self._open.close()
        if self._process and self._process.returncode is None:
            # Ours to leave running: without this, Popen warns that nobody waited.
            self._process.returncode = 0

    @property
    def pidfd(self) -> int:
        """Readable when QEMU has ended. Valid until `detach`."""
        return self._pidfd

    def _why(self) -> str:
        said = self.files.log.read_text(errors="replace").strip() if self.files.log.exists() else ""
        return f"it said: {said}" if said else self.console.last_lines()


def start(machine: Machine, folder: Path, acceleration: Acceleration) -> Qemu:
    """Start the machine with its files in `folder`, which is emptied of an earlier one's.

    Raises `StartError`.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    files = Files(folder=folder.absolute())
    prepare(machine, files)
    with ExitStack() as started:
        monitor = started.enter_context(_listen(folder / MONITOR_SOCKET))
        console = started.enter_context(_listen(folder / CONSOLE_SOCKET))
        line = command(
            machine, files, acceleration, monitor=monitor.fileno(), console=console.fileno()
        )
        files.command.write_text(shlex.join(line) + "\n")
        log = started.enter_context(files.log.open("wb"))
        try:
            process = subprocess.Popen(
                line,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(
                    *(monitor.fileno(), console.fileno()),
                    *(nic.tap for nic in machine.nics if nic.tap is not None),
                ),
                # ctrl-c on our terminal is for us.
                start_new_session=True,
            )
        except FileNotFoundError as e:
            raise StartError(f"{line[0]}: not found; install qemu-system-x86") from e
    files.pid.write_text(f"{process.pid}\n")
    try:
        qemu = Qemu(files, process.pid, process)
        qemu.monitor.execute("cont")
    except (MonitorError, ProcessLookupError) as e:
        process.kill()
        process.wait()
        said = files.log.read_text(errors="replace").strip()
        raise StartError(f"QEMU did not start: {said or e}; its command: {files.command}") from e
    return qemu


def prepare(machine: Machine, files: Files) -> None:
    """Write the files that the command line names."""
    for old in files.folder.iterdir():
        if old.is_file() or old.is_socket():
            old.unlink()
    for number, text in enumerate(smbios_strings(machine)):
        _write_secret(files.smbios(number), text)
    for credential in machine.credentials:
        if credential.channel is Channel.FW_CFG:
            _write_secret(files.fw_cfg(credential.name), credential.content)
    if has_firmware(machine):
        _, template = find_firmware()
        shutil.copyfile(template, files.variables)
    elif isinstance(machine.boot, KernelBoot):
        _write_initrd(machine, machine.boot, files.initrd)


def _write_secret(path: Path, content: bytes) -> None:
    with open(path, "wb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        file.write(content)


def _write_initrd(machine: Machine, boot: KernelBoot, path: Path) -> None:
    """One file of all archives, each from a multiple of 4 on, as the kernel wants them."""
    by_file = [c for c in machine.credentials if c.channel is Channel.INITRAMFS]
    _write_secret(path, b"")
    with path.open("r+b") as output:
        for archive in boot.initrds:
            with archive.open("rb") as content:
                shutil.copyfileobj(content, output, 1 << 20)
            output.write(b"\0" * (-output.tell() % 4))
        if by_file:
            credentials = Archive(output)
            for credential in by_file:
                name = PurePosixPath("/credentials") / credential.name
                credentials.data(name, credential.content, 0o400)
            credentials.close()


@contextmanager
def _listen(path: Path) -> Iterator[socket.socket]:
    """A listening Unix socket: who connects to it need not wait for QEMU to be there."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        with _reachable(path) as short:
            listener.bind(str(short))
        path.chmod(0o600)
        listener.listen(1)
        yield listener


def _connect(path: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with _reachable(path) as short:
            connection.connect(str(short))
    except OSError:
        connection.close()
        raise
    return connection


@contextmanager
def _reachable(path: Path) -> Iterator[Path]:
    """The same file by a name that fits a socket address, which holds 107 bytes."""
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        yield Path(f"/proc/self/fd/{folder}") / path.name
    finally:
        os.close(folder)
