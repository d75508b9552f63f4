"""The development machine: `make boot`, `make poweroff` and `make run`.

It lives in `build/node` and its trust domain in `build/pki`. `aer` is called as a program, as a
person would.
"""

import argparse
import fcntl
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import grpc

from image import overlay
from image.acceleration import BOOT_ATTEMPTS, emulator_failed, find_acceleration
from image.console import LostError, NotSeenError, attach, clean, has_terminal
from image.machine import QEMU, Credential, Files, KernelBoot, Machine, NoFirmwareError
from image.monitor import MonitorError
from image.qemu import Qemu, StartError, start
from image.readiness import NotServingError, wait_until_serving

BUILD: Final = overlay.PROJECT / "build"
NODE: Final = BUILD / "node"
CONFIG: Final = NODE / "config"
PKI: Final = BUILD / "pki"
TRUST_DOMAIN: Final = "dev.aurae.test"
NAME: Final = "node"
PERSON: Final = "me"

BOOT_SECONDS: Final = 180.0
POWEROFF_SECONDS: Final = 60.0

FIRST_COMMAND: Final = 'echo "hello from $AURAE_CELL on $(hostname)"; uname -sr; uptime'


class NodeError(Exception):
    """What was asked for cannot be done; says what to do instead."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m image.node", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    boot_parser = commands.add_parser("boot", help="boot the machine")
    boot_parser.add_argument(
        "--background", action="store_true", help="return when the API answers"
    )
    commands.add_parser("run", help="boot, run a first cell, attach the console")
    commands.add_parser("poweroff", help="press the power button")
    given = parser.parse_args()
    # A terminal that is closed takes its machine along, as ctrl-c does.
    for number in (signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    try:
        match given.command:
            case "boot":
                boot(background=given.background)
            case "run":
                run()
            case _:
                poweroff()
    except (
        *(NodeError, StartError, LostError, NotSeenError, NotServingError, MonitorError),
        *(NoFirmwareError, OSError),
    ) as e:
        sys.exit(f"make {given.command}: {e}")


def boot(*, background: bool) -> None:
    """Boot with the newest Python of the working tree, and leave it running or attach to it."""
    began = time.monotonic()
    machine = prepare()
    packed = time.monotonic()
    with _booted(machine, show=not background) as (qemu, shown):
        now = time.monotonic()
        print(
            f"\nAPI answers: {now - began:.1f} s after the start of this command"
            f" (overlay {packed - began:.1f} s, boot {now - packed:.1f} s)"
        )
        _explain()
        if background:
            print(f"the machine runs on (pid {qemu.pid}); make poweroff ends it")
            qemu.detach()
        else:
            _stay(qemu, shown)


def run() -> None:
    """Boot, run a first cell, and stay with the console; without a terminal power off instead."""
    machine = prepare()
    print("==> boot", flush=True)
    with _booted(machine, show=True) as (qemu, shown):
        print("\n==> a first cell, and an executable in it", flush=True)
        _first_cell()
        _explain()
        if has_terminal():
            _stay(qemu, shown)
        else:
            print("no terminal here: powering off", flush=True)
            _power_off(qemu)


def poweroff() -> None:
    qemu = Qemu.find(Files(folder=NODE))
    if qemu is None:
        raise NodeError("no machine is running; make boot BACKGROUND=1 starts one")
    try:
        _power_off(qemu)
    finally:
        qemu.detach()


def prepare() -> Machine:
    """Overlay, trust domain and what else the machine is made of."""
    _refuse_second()
    for product in ("vmlinuz", "initramfs-micro", "root.erofs"):
        if not (BUILD / product).exists():
            raise NodeError(f"{BUILD / product}: does not exist; make image builds it")
    packed = overlay.build_overlay(BUILD / "overlay")
    make_trust_domain()
    return Machine(
        boot=KernelBoot(
            kernel=BUILD / "vmlinuz",
            initrds=(BUILD / "initramfs-micro", packed),
            root=BUILD / "root.erofs",
        ),
        cmdline=(f"aurae.hostname={NAME}",),
        credentials=credentials(),
    )


def make_trust_domain() -> None:
    """The authority, the node's own, its SVID and a person's, each if it is not there yet."""
    folder = ("--dir", str(PKI))
    if not (PKI / "ca.crt").exists():
        aer("pki", "init", "--trust-domain", TRUST_DOMAIN, *folder)
    for file, kind, name in (
        (f"node/{NAME}", "node", NAME),
        (f"node/{NAME}.ca", "node-ca", NAME),
        (f"person/{PERSON}", "person", PERSON),
    ):
        if not (PKI / f"{file}.crt").exists():
            aer("pki", "issue", kind, name, *folder)


def credentials() -> tuple[Credential, ...]:
    return (
        Credential("aurae.ca.crt", (PKI / "ca.crt").read_bytes()),
        Credential("aurae.node.crt", (PKI / "node" / f"{NAME}.crt").read_bytes()),
        Credential("aurae.node.key", (PKI / "node" / f"{NAME}.key").read_bytes()),
        Credential("aurae.node-ca.crt", (PKI / "node" / f"{NAME}.ca.crt").read_bytes()),
        Credential("aurae.node-ca.key", (PKI / "node" / f"{NAME}.ca.key").read_bytes()),
    )


def aer(*arguments: str) -> None:
    """Run `aer`, its output on ours. Raises `NodeError` where it refuses."""
    done = subprocess.run((sys.executable, "-m", "aer", *arguments), check=False)
    if done.returncode:
        raise NodeError(f"aer {' '.join(arguments)}: exit {done.returncode}, see above")


def _refuse_second() -> None:
    if (other := Qemu.find(Files(folder=NODE))) is not None:
        pid = other.pid
        other.detach()
        raise NodeError(f"a machine is running already (pid {pid}); make poweroff ends it")


@contextmanager
def _started(machine: Machine) -> Iterator[Qemu]:
    """Start it and write its client configuration; end it if what follows fails."""
    BUILD.mkdir(exist_ok=True)
    with (BUILD / "node.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise NodeError("another make boot is at work; wait for it, or make poweroff") from None
        _refuse_second()
        acceleration = find_acceleration(QEMU, BUILD / "vmlinuz", BUILD / "acceleration")
        qemu = start(machine, NODE, acceleration)
        try:
            address = f"127.0.0.1:{qemu.monitor.forwarded_port()}"
            where = ("--dir", str(PKI), "--to", str(CONFIG))
            aer("pki", "config", PERSON, NAME, address, *where)
            yield qemu
        except BaseException:
            qemu.kill()
            qemu.detach()
            raise


@contextmanager
def _booted(machine: Machine, *, show: bool) -> Iterator[tuple[Qemu, int]]:
    """Start it and wait for its API; also how many bytes of the console were shown meanwhile."""
    for left in reversed(range(BOOT_ATTEMPTS)):
        with _started(machine) as qemu:
            try:
                shown = _wait(qemu, show=show)
            except LostError:
                if not (left and emulator_failed(qemu.console.text)):
                    raise
                qemu.kill()
                qemu.detach()
                print("the emulation of a QEMU before 8.1 failed the kernel: once more")
                continue
            yield qemu, shown
            return


def _wait(qemu: Qemu, *, show: bool) -> int:
    """Wait for the API, showing the console meanwhile. Returns how many bytes of it were shown."""
    shown = 0

    def look() -> None:
        nonlocal shown
        qemu.check()
        if show:
            said = qemu.files.console.read_bytes()[shown:]
            sys.stdout.write(clean(said))
            sys.stdout.flush()
            shown += len(said)

    wait_until_serving(_channel, look, BOOT_SECONDS)
    look()
    return shown


def _channel() -> grpc.Channel:
    config = tomllib.loads(CONFIG.read_text())
    auth, system = config["auth"], config["system"]
    secrets = grpc.ssl_channel_credentials(
        root_certificates=Path(auth["ca_crt"]).read_bytes(),
        private_key=Path(auth["client_key"]).read_bytes(),
        certificate_chain=Path(auth["client_crt"]).read_bytes(),
    )
    options = (("grpc.ssl_target_name_override", system["server_name"]),)
    return grpc.secure_channel(system["socket"], secrets, options=options)


def _first_cell() -> None:
    config = ("--config", str(CONFIG))
    lines: Sequence[Sequence[str]] = (
        ("cell", "allocate", "hello"),
        ("cell", "start", "hello", "first", FIRST_COMMAND),
        ("cell", "wait", "hello", "first"),
        ("logs", "hello/first"),
        ("cell", "list"),
        ("cell", "free", "hello"),
    )
    for line in lines:
        shown = " ".join(f"'{word}'" if " " in word else word for word in line)
        print(f"$ aer {shown}", flush=True)
        aer(*config, *line)


def _explain() -> None:
    program = Path(sys.executable).parent / "aer"
    print(
        f"""
from another terminal:
    alias aer='{program} --config {CONFIG}'
    aer health check
    aer cell allocate web --cpu-weight 200
    aer cell start web server 'while sleep 1; do date; done'
    aer logs web/server -f
    aer cell list
    aer cell free web
""",
        flush=True,
    )


def _stay(qemu: Qemu, shown: int) -> None:
    """The rest of the console after `shown` bytes, until ctrl-a x or the machine's own end."""
    if not has_terminal():
        print("no terminal here: the console goes to", qemu.files.console, flush=True)
        qemu.wait_end(None)
    else:
        print("the console follows; ctrl-a x leaves it and powers the machine off", flush=True)
        with qemu.console_line() as line:
            ended = attach(line, qemu.files.console, qemu.pidfd, shown)
        print()
        if not ended:
            _power_off(qemu)
    qemu.detach()


def _power_off(qemu: Qemu) -> None:
    began = time.monotonic()
    qemu.powerdown()
    if qemu.wait_end(POWEROFF_SECONDS):
        reason = qemu.monitor.shutdown_reason()
        print(f"powered off in {time.monotonic() - began:.1f} s ({reason})")
        return
    qemu.kill()
    raise NodeError(
        f"the machine did not power off in {POWEROFF_SECONDS:g} s and was killed;"
        f" see {qemu.files.console}"
    )


if __name__ == "__main__":
    main()
