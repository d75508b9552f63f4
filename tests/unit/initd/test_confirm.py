"""What is made of a boot image that is not what it was: `initd.boot.confirm`."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from initd.boot import confirm, esp
from initd.boot.confirm import Report
from initd.boot.copies import Copy
from initd.boot.esp import Esp
from tests.unit.initd.fat_image import make

IMAGE = os.urandom(100_000)
HASH = hashlib.sha256(IMAGE).hexdigest()


@pytest.fixture
def partition(tmp_path: Path) -> Iterator[Esp]:
    with esp.opened(str(make(tmp_path / "esp", 512, 4))) as opened:
        add(opened, "aurae_1.0.efi", IMAGE)
        yield opened


def add(partition: Esp, name: str, content: bytes) -> None:
    writer = partition.writer(len(content))
    writer.write(0, content)
    writer.settle()
    writer.commit(esp.FOLDER, name)


def names(partition: Esp) -> set[str]:
    return {present.file.name for present in partition.entries()}


def damage(partition: Esp) -> None:
    present = partition.find("1.0")
    assert present is not None
    changed = bytearray(IMAGE)
    changed[77_777] ^= 1
    partition.remove(present)
    add(partition, present.file.name, bytes(changed))


def test_a_whole_image_is_left_alone(partition: Esp) -> None:
    assert confirm.judge(partition, "1.0", HASH) == Report()
    assert names(partition) == {"aurae_1.0.efi"}


def test_a_damaged_image_is_given_up_for_another_version(partition: Esp) -> None:
    damage(partition)
    add(partition, "aurae_0.9.efi", b"older")
    said = confirm.judge(partition, "1.0", HASH)
    assert said.reboot
    assert said.problem == (
        "boot image aurae_1.0.efi: damaged on the disk; another version is started"
    )
    assert names(partition) == {"aurae_1.0+0-3.efi", "aurae_0.9.efi"}


@pytest.mark.parametrize("other", [None, "aurae_0.9+0-3.efi"])
def test_a_damaged_image_runs_on_where_there_is_no_other(partition: Esp, other: str | None) -> None:
    damage(partition)
    if other is not None:
        add(partition, other, b"bad")
    said = confirm.judge(partition, "1.0", HASH)
    assert not said.reboot
    assert "there is no other" in said.problem
    assert "aurae_1.0.efi" in names(partition)


def test_an_image_that_is_not_there_was_not_booted_from_there(partition: Esp) -> None:
    assert confirm.judge(partition, "2.0", HASH) == Report()


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        (b"\n", Report()),
        (b"reboot\nit is damaged", Report("it is damaged", reboot=True)),
        (b"\nno such disk", Report("no such disk")),
    ],
)
def test_the_copy_says_what_it_found(said: bytes, wanted: Report) -> None:
    assert confirm.report(looking(said)) == wanted


def test_a_copy_that_says_nothing_has_failed() -> None:
    found = confirm.report(looking(b""))
    assert "nobody knows" in found.problem
    assert not found.reboot


def looking(said: bytes) -> Copy:
    read, write = os.pipe2(os.O_NONBLOCK)
    os.write(write, said)
    os.close(write)
    return Copy(0, read)
