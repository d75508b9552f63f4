"""`make bench`: measure, print a table, write build/bench.json; exit 1 where a bar is missed.

Ratios are taken in one run: what is compared boots and runs on this machine, minutes apart at most.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from bench import authorization, boots, calls, peers, recovery, workloads
from bench.measurement import Measurement, save, table
from image import overlay
from image.acceleration import find_acceleration
from image.build import Places, cache_folder
from image.machine import QEMU, Drive
from testkit.machines import Machine, Machines
from testkit.trust import TrustDomain

SMALL_MEMORY: Final = 256
"""MiB that a node boots with."""
KILLS: Final = 5
"""Of the runtime, for the time that its API is away."""
READY: Final = boots.STAMP + r"runtime ready"


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--boots", type=int, default=9, help="boots of each kind (default 9)")
    parser.add_argument("--runs", type=int, default=100, help="calls of each kind (default 100)")
    given = parser.parse_args()
    at = Places(overlay.PROJECT, cache_folder())
    found = peers.build(at)
    with tempfile.TemporaryDirectory(prefix="aurae-bench-") as name:
        measurements = [
            *sizes(at),
            *workloads.measure(Path(name) / "workloads", given.runs),
            *authorization.measure(),
            *measure(at, found, Path(name), boot_count=given.boots, runs=given.runs),
        ]
    print(table(measurements))
    save(measurements, at.build / "bench.json")
    return 1 if any(m.missed for m in measurements) else 0


def sizes(at: Places) -> list[Measurement]:
    """Of the files that people move about."""
    print("==> sizes", flush=True)
    packed = at.build / "bench/aurae.img.zst"
    subprocess.run(
        ["zstd", "-q", "-f", "-T0", "-12", "--long", at.build / "aurae.img", "-o", packed],
        check=True,
    )
    direct = sum((at.build / name).stat().st_size for name in ("vmlinuz", "initramfs"))
    return [
        Measurement(
            name="aurae.img as zstd",
            value=packed.stat().st_size / 1e6,
            unit="MB",
            bar=100,
            method="zstd -12 --long of the disk, with the emergency entry and its copy of the root",
        ),
        Measurement(
            name="kernel and initramfs",
            value=direct / 1e6,
            unit="MB",
            bar=90,
            method="vmlinuz and initramfs, with the root inside, as the files are",
        ),
    ]


def measure(
    at: Places, found: peers.Peers, folder: Path, *, boot_count: int, runs: int
) -> list[Measurement]:
    """Everything that needs a machine."""
    acceleration = find_acceleration(QEMU, at.build / "vmlinuz", at.build / "acceleration")
    machines = Machines(
        artifacts=at.build,
        overlays=(),
        acceleration=acceleration,
        trust=TrustDomain.make(folder / "pki"),
        folder=folder / "machines",
        memory=1024,
        cpus=2,
    )
    kernel = at.build / "vmlinuz"

    def ours(**arguments: int | bool) -> float:
        with _machine(machines, **arguments) as machine:
            return ready(machine)

    def floor() -> float:
        return boots.floor(found, kernel, folder / "floor", acceleration)

    def systemd() -> float:
        micro = at.build / "initramfs-micro"
        return boots.systemd(found, kernel, micro, folder / "systemd", acceleration)

    kinds: dict[str, Callable[[], float]] = {
        "floor": floor,
        "ours": ours,
        "disk": lambda: ours(disk=True),
        "systemd": systemd,
    }
    times: dict[str, list[float]] = {kind: [] for kind in kinds}
    for number in range(1, boot_count + 1):
        for kind, boot in kinds.items():
            times[kind].append(boot())
            print(f"==> boot {number}/{boot_count} {kind}: {times[kind][-1]:.2f} s", flush=True)
    small = ours(memory=SMALL_MEMORY)
    print(f"==> boot with {SMALL_MEMORY} MiB: {small:.2f} s", flush=True)
    with _machine(machines, drives=(Drive(file=found.erofs),)) as machine:
        print("==> memory and calls", flush=True)
        return [
            *_boots(times, small, acceleration),
            *calls.memory(machine),
            *calls.measure(machine, runs),
            *recovery.measure(machine, KILLS),
        ]


def ready(machine: Machine) -> float:
    """Seconds on the kernel's clock when PID 1 was told that the API is ready."""
    return float(machine.console.wait_for(READY, boots.BOOT_SECONDS)[1])


@contextmanager
def _machine(machines: Machines, **arguments: object) -> Iterator[Machine]:
    machine = machines.start(**arguments)  # type: ignore[arg-type]
    try:
        yield machine
    finally:
        machines.close(machine)


def _boots(times: dict[str, list[float]], small: float, acceleration: str) -> list[Measurement]:
    count = len(times["ours"])
    method = f"kernel's clock, median of {count} boots in turn, {acceleration}, 2 CPUs, 1 GiB"
    middle = {kind: statistics.median(seconds) for kind, seconds in times.items()}
    pairs = {
        kind: statistics.median(a / b for a, b in zip(times["ours"], times[kind], strict=True))
        for kind in ("floor", "systemd")
    }
    verified = statistics.median(a / b for a, b in zip(times["disk"], times["ours"], strict=True))
    return [
        Measurement(name="kernel to API ready", value=middle["ours"], unit="s", method=method),
        Measurement(
            name="kernel to a static C init", value=middle["floor"], unit="s", method=method
        ),
        Measurement(
            name="kernel to multi-user.target of systemd",
            value=middle["systemd"],
            unit="s",
            method=method,
        ),
        Measurement(
            name="API ready over C init",
            value=pairs["floor"],
            unit="ratio",
            bar=2.5,
            method=f"median of the pairs; {method}",
        ),
        Measurement(
            name="API ready over systemd",
            value=pairs["systemd"],
            unit="ratio",
            bar=0.3,
            method=f"median of the pairs; {method}",
        ),
        Measurement(
            name="kernel to API ready from a verified disk",
            value=middle["disk"],
            unit="s",
            method=f"OVMF boots aurae.img; {method}",
        ),
        Measurement(
            name="verified disk over direct boot",
            value=verified,
            unit="ratio",
            bar=1.5,
            method=f"median of the pairs; {method}",
        ),
        Measurement(
            name=f"kernel to API ready with {SMALL_MEMORY} MiB",
            value=small,
            unit="s",
            method="one boot of kernel and initramfs, with the root inside",
        ),
    ]


if __name__ == "__main__":
    sys.exit(main())
