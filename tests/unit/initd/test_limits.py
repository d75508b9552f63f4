"""What workloads may have, for machines of many sizes."""

from pathlib import Path

import pytest

from initd.boot import limits
from initd.boot.limits import Machine, share
from initd.boot.mounts import MACHINE

MIB = 1024 * 1024


@pytest.mark.parametrize("mib", [200, 256, 512, 1024, 4096, 65536, 1 << 20])
@pytest.mark.parametrize("held", [0, 90])
def test_both_workloads_and_auraed_have_room(mib: int, held: int) -> None:
    found = share(Machine(mib * MIB, held * MIB, 4096))
    usable = (mib - held) * MIB
    assert usable // 2 <= found.memory < usable
    assert sum(found.protected.values()) <= usable - found.memory or mib < 512
    assert found.protected.keys() == limits.PROTECTED.keys()
    assert all(0 < size <= limits.PROTECTED[name] for name, size in found.protected.items())
    if mib >= 1024:
        assert usable - found.memory >= sum(limits.PROTECTED.values()) + mib * MIB // 8
        assert found.protected == limits.PROTECTED


@pytest.mark.parametrize(
    ("threads", "pids"), [(100, 50), (1600, 1344), (7800, 7313), (4194304, 3932160)]
)
def test_some_processes_are_kept_for_auraed(threads: int, pids: int) -> None:
    assert share(Machine(1 << 30, 0, threads)).pids == pids


def test_all_tmpfs_together_leave_memory_to_run_in() -> None:
    sizes = {
        mount.target: int(option.removeprefix("size=").removesuffix("%"))
        for mount in MACHINE
        if mount.fstype == "tmpfs"
        for option in mount.options.split(",")
        if option.startswith("size=")
    }
    assert sizes.keys() == {mount.target for mount in MACHINE if mount.fstype == "tmpfs"}
    assert sum(sizes.values()) <= 75
    # Room for the logs, and as much again for all else that auraed keeps.
    assert sizes["/run/aurae"] >= 1.5 * 100 / limits.LOG_SHARE


def test_the_machine_is_read_and_the_limits_are_written(tmp_path: Path) -> None:
    kernel = tmp_path / "sys/kernel"
    kernel.mkdir(parents=True)
    (tmp_path / "meminfo").write_text("MemTotal:  1000 kB\nMemFree:  1 kB\nUnevictable:  100 kB\n")
    (kernel / "threads-max").write_text("7000\n")
    (kernel / "pid_max").write_text("4194304\n")
    machine = limits.read_machine(tmp_path)
    assert machine == Machine(1000 * 1024, 100 * 1024, 7000)
    root = tmp_path / "cgroup"
    for name in ("aurae", *(f"auraed/{service}" for service in limits.PROTECTED)):
        (root / name).mkdir(parents=True)
    found = share(machine)
    assert limits.apply(found, root) == []
    assert (root / "aurae/memory.max").read_text() == str(found.memory)
    assert (root / "aurae/pids.max").read_text() == str(found.pids)
    assert (root / "auraed/runtime/memory.min").read_text() == str(found.protected["runtime"])
    assert limits.apply(found, tmp_path / "nowhere")[0].startswith("aurae/memory.max=")
