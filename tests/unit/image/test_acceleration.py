from pathlib import Path

import pytest

from image import acceleration
from image.acceleration import Acceleration, find_acceleration


@pytest.fixture
def kvm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    device = tmp_path / "kvm"
    device.touch()
    monkeypatch.setattr(acceleration, "KVM", device)
    return device


def qemu(folder: Path, script: str) -> str:
    """A QEMU that writes to the file of its `-serial file:`."""
    program = folder / "qemu"
    find = 'while [ "$1" != -serial ]; do shift; done; console=${2#file:}'
    program.write_text(f"#!/bin/sh\necho tried >> {folder}/tries\n{find}\n{script}\n")
    program.chmod(0o755)
    return str(program)


def test_kvm_counts_where_a_kernel_came_to_the_end_of_its_start(tmp_path: Path, kvm: Path) -> None:
    works = qemu(tmp_path, 'echo "Kernel panic - not syncing: VFS: no root" > $console')
    cache = tmp_path / "new/cache"
    assert find_acceleration(works, Path("/k"), cache) is Acceleration.KVM
    assert find_acceleration(works, Path("/k"), cache) is Acceleration.KVM
    assert (tmp_path / "tries").read_text() == "tried\n"


def test_a_device_that_runs_nothing_does_not_count(tmp_path: Path, kvm: Path) -> None:
    aborts = qemu(tmp_path, "exit 134")
    assert find_acceleration(aborts, Path("/k"), tmp_path / "cache") is Acceleration.TCG


def test_a_guest_that_hangs_does_not_count(
    tmp_path: Path, kvm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acceleration, "TRIAL_SECONDS", 0.2)
    hangs = qemu(tmp_path, "exec sleep 60")
    assert find_acceleration(hangs, Path("/k"), tmp_path / "cache") is Acceleration.TCG


def test_without_the_device_nothing_is_tried(tmp_path: Path, kvm: Path) -> None:
    kvm.unlink()
    never = qemu(tmp_path, "exit 0")
    assert find_acceleration(never, Path("/k"), tmp_path / "cache") is Acceleration.TCG
    assert not (tmp_path / "tries").exists()


def test_the_answer_of_another_boot_of_the_host_does_not_count(tmp_path: Path, kvm: Path) -> None:
    cache = tmp_path / "cache"
    cache.write_text("another-boot qemu kvm\n")
    aborts = qemu(tmp_path, "exit 134")
    assert find_acceleration(aborts, Path("/k"), cache) is Acceleration.TCG
