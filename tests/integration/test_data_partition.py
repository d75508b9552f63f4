"""The data partition of the disk that was booted: made, grown, encrypted, and never lost."""

import hashlib
import os
import random
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from image.machine import Credential, Drive
from testkit.machines import BOOT_SECONDS, Machine, Machines
from tests.integration import gpt
from tests.integration.gpt import MIB

Boot = Callable[..., Machine]

# With AURAE_SOAK=1 the counts are large.
CUTS: Final = 50 if os.environ.get("AURAE_SOAK") else 6

# The root of the disk, and not that in persistent memory.
ROOT: Final = "root=PARTLABEL=aurae-root-a"
GIB: Final = 1 << 30
DONE: Final = r"auraed: data disk +[0-9]+ ms +(\S+)"
FREE: Final = "df -m /var | tail -n 1 | awk '{print $2}'"
PASSPHRASE: Final = Credential("aurae.data.passphrase", b"correct horse battery staple\n")


@pytest.fixture
def disk(tmp_path: Path, machines: Machines) -> Callable[..., Path]:
    """Makes a disk as an image is, without a data partition."""
    root = machines.artifacts / "root.erofs"

    def make(size: int = 2 * GIB, sector: int = 512) -> Path:
        file = tmp_path / "disk.img"
        parts: list[gpt.Part] = [
            ("aurae-esp", 8, None),
            ("aurae-root-a", -(-root.stat().st_size // MIB), root),
        ]
        gpt.write(file, size, parts, sector)
        return file

    return make


def booted(boot: Boot, drive: Drive, *words: str, **more: object) -> Machine:
    return boot(drives=(drive,), cmdline=(ROOT, *words), **more)


def looked(boot: Boot, drive: Drive, *words: str, **more: object) -> str:
    """What a boot says of the data disk. The machine is killed then, as by a power cut."""
    machine = booted(boot, drive, *words, wait=False, **more)
    machine.console.wait_for(DONE, BOOT_SECONDS)
    machine.console.wait_for("auraed: services", BOOT_SECONDS)
    machine.kill()
    return "\n".join(line for line in machine.console.text.splitlines() if "data" in line)


def mounted(machine: Machine) -> list[str]:
    return machine.system.read("grep ' /var ' /proc/mounts").splitlines()[-1].split()


@pytest.mark.parametrize(("kind", "sector"), [("ext4", 512), ("xfs", 4096), ("btrfs", 512)])
def test_a_data_partition_is_made_at_first_boot_and_grows_with_its_disk(
    boot: Boot, disk: Callable[..., Path], kind: str, sector: int
) -> None:
    file = disk(sector=sector)
    drive = Drive(file=file, kept=True, sector=sector)
    words = () if kind == "ext4" else (f"aurae.data.filesystem={kind}",)
    machine = booted(boot, drive, *words)
    said = machine.console.text
    assert "data disk: making a partition on /dev/vda" in said
    assert f"data disk: making {kind} on /dev/vda3" in said
    assert mounted(machine)[:3] == ["/dev/vda3", "/var", kind]
    assert 1600 < int(machine.system.read(FREE)) < 2048
    machine.system.read("echo kept > /var/lib/aurae/kept; sync")
    machine.poweroff()

    os.truncate(file, 20 * GIB)
    machine = booted(boot, drive, *words)
    said = machine.console.text
    assert "data disk: growing /dev/vda3 to " in said
    assert f"data disk: growing {kind} on /dev/vda3" in said
    assert 19_000 < int(machine.system.read(FREE)) < 20_480
    assert machine.system.read("cat /var/lib/aurae/kept") == "kept\n"
    machine.kill()

    # A boot that has nothing to do does nothing; and no word changes what is there.
    said = looked(boot, drive, "aurae.data.filesystem=ext4")
    assert "growing" not in said
    assert "making" not in said
    if sector == 512:
        sfdisk = shutil.which("sfdisk", path="/usr/sbin:/usr/bin")
        assert sfdisk is not None
        checked = subprocess.run([sfdisk, "--verify", file], capture_output=True, text=True)
        assert "No errors detected" in checked.stdout, checked
        assert checked.stderr == ""


def test_a_superblock_that_was_half_written_is_repaired_and_nothing_is_lost(
    boot: Boot, disk: Callable[..., Path]
) -> None:
    file = disk()
    drive = Drive(file=file, kept=True)
    machine = booted(boot, drive)
    machine.system.read("seq 100000 > /var/lib/aurae/kept; sync /var/lib/aurae/kept")
    device = mounted(machine)[0].rpartition("/")[2]
    begin = 512 * int(machine.system.read(f"cat /sys/class/block/{device}/start"))
    machine.kill()
    # One of its two sectors has another time of the last write; the other has the checksum.
    with file.open("r+b") as image:
        image.seek(begin + 1024 + 0x30)
        image.write(b"torn")
    machine = booted(boot, drive)
    assert "ext4 had faults, and was repaired" in machine.console.text
    kept = machine.system.read("cat /var/lib/aurae/kept")
    assert kept == "".join(f"{number}\n" for number in range(1, 100_001))
    machine.poweroff()


def test_a_power_cut_while_it_is_made_leaves_what_the_next_boot_finishes(
    boot: Boot, disk: Callable[..., Path]
) -> None:
    chance = random.Random(os.environ.get("AURAE_SEED", "1"))
    machine = booted(boot, Drive(file=disk()), wait=False)
    machine.console.wait_for("data disk: making a partition", BOOT_SECONDS)
    began = time.monotonic()
    machine.console.wait_for(DONE, BOOT_SECONDS)
    takes = time.monotonic() - began
    machine.kill()

    file = disk()
    drive = Drive(file=file, kept=True)
    for _ in range(CUTS):
        machine = booted(boot, drive, wait=False)
        machine.console.wait_for(r"data disk: making|" + DONE, BOOT_SECONDS)
        # Nothing is waited for but the moment of the cut.
        assert not machine.qemu.wait_end(chance.uniform(0, takes))
        machine.kill()
        assert "warning: data disk" not in machine.console.text
        if "data disk: making" not in machine.console.text:
            # It was whole: the next begins anew.
            disk()
    machine = booted(boot, drive)
    assert mounted(machine)[:3] == ["/dev/vda3", "/var", "ext4"]
    assert "warning: data disk" not in machine.console.text
    machine.poweroff()


def fingerprint(file: Path) -> bytes:
    """Of all that is not zero on a disk."""
    digest = hashlib.sha256()
    with file.open("rb") as disk:
        while chunk := disk.read(8 * MIB):
            if chunk.strip(b"\0"):
                digest.update(chunk)
    return digest.digest()


@pytest.mark.parametrize(
    ("size", "foreign", "word", "warning"),
    [
        (160 * MIB, False, "", r"/dev/vda: \d+ MiB are free .* a data partition needs 64"),
        (512 * MIB, True, "", "no data partition is made, as what is free .* holds ext4"),
        (
            512 * MIB,
            False,
            "aurae.data.filesystem=zfs",
            "/dev/vda: nothing is made on it while a parameter is wrong",
        ),
        (512 * MIB, False, "aurae.data.encryption=tpm2", "this machine has no TPM 2.0"),
    ],
)
def test_a_disk_that_cannot_have_one_is_left_as_it_is(
    boot: Boot,
    disk: Callable[..., Path],
    tmp_path: Path,
    size: int,
    foreign: bool,
    word: str,
    warning: str,
) -> None:
    file = disk(size)
    if foreign:
        # Where the data partition would begin.
        other, start = tmp_path / "other", gpt.end_of_last(file)
        with other.open("wb") as image:
            image.truncate(100 * MIB)
        subprocess.run(["/sbin/mkfs.ext4", "-q", "-L", "mine", other], check=True)
        with file.open("r+b") as image:
            image.seek(start)
            image.write(other.read_bytes())
    before = fingerprint(file)
    said = looked(boot, Drive(file=file, kept=True), *filter(None, [word]))
    assert re.search(f"warning: data disk: .*{warning}.*The node keeps nothing across boots", said)
    assert fingerprint(file) == before


@pytest.fixture
def blank(tmp_path: Path) -> Path:
    """A disk that has nothing on it."""
    file = tmp_path / "blank.img"
    with file.open("wb") as image:
        image.truncate(512 * MIB)
    return file


def trusted(machines: Machines, *credentials: Credential) -> list[Credential]:
    return [*machines.trust.credentials(), *credentials]


@pytest.mark.parametrize(
    ("word", "secret"),
    [
        ("passphrase", PASSPHRASE),
        ("key-file", Credential("aurae.data.key", bytes(range(64)))),
    ],
)
def test_an_encrypted_disk_is_opened_by_its_credential_and_by_nothing_else(
    boot: Boot, machines: Machines, blank: Path, word: str, secret: Credential
) -> None:
    drives = (Drive(file=blank, kept=True),)
    words = ("aurae.data=/dev/vda", f"aurae.data.encryption={word}")
    with_secret = trusted(machines, secret)
    machine = boot(drives=drives, cmdline=words, credentials=with_secret)
    assert "data disk: encrypting /dev/vda" in machine.console.text
    assert mounted(machine)[:3] == ["/dev/mapper/aurae-data", "/var", "ext4"]
    machine.system.read("echo plain-text-in-here > /var/lib/aurae/kept; sync")
    machine.poweroff()
    before = blank.read_bytes()
    assert before.startswith(b"LUKS\xba\xbe\0\2")
    assert b"plain-text-in-here" not in before

    # Without, or with another: the node goes on, and what is on the disk stays.
    wrong = Credential(secret.name, bytes(64))
    for given in ((), (wrong,)):
        machine = boot(
            drives=drives, cmdline=words, credentials=trusted(machines, *given), wait=False
        )
        machine.console.wait_for("warning: data disk: /dev/vda: encrypted, and cannot", 180)
        machine.console.wait_for("auraed: services", BOOT_SECONDS)
        machine.kill()
        assert blank.read_bytes() == before

    # It is known by its name, and needs no word; and it has grown with its disk.
    os.truncate(blank, GIB)
    machine = boot(drives=drives, cmdline=("aurae.data=LABEL=aurae-data",), credentials=with_secret)
    assert mounted(machine)[:3] == ["/dev/mapper/aurae-data", "/var", "ext4"]
    assert machine.system.read("cat /var/lib/aurae/kept") == "plain-text-in-here\n"
    assert int(machine.system.read(FREE)) > 800
    machine.poweroff()


@contextmanager
def tpm(state: Path) -> Iterator[Path]:
    """The control socket of an emulated TPM whose memory is in the folder."""
    state.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="aurae-tpm-") as folder:
        socket = Path(folder) / "socket"
        emulator = subprocess.Popen(
            [
                *("swtpm", "socket", "--tpm2", "--tpmstate", f"dir={state}", "--terminate"),
                *("--ctrl", f"type=unixio,path={socket}"),
            ]
        )
        try:
            deadline = time.monotonic() + 10
            while not socket.exists():
                assert emulator.poll() is None
                assert time.monotonic() < deadline, "swtpm: no socket in 10 s"
                time.sleep(0.02)
            yield socket
        finally:
            emulator.terminate()
            emulator.wait(10)


def test_a_tpm_opens_what_was_made_with_it_and_a_recovery_key_what_it_does_not(
    boot: Boot, machines: Machines, blank: Path, tmp_path: Path
) -> None:
    if shutil.which("swtpm") is None:
        pytest.skip("this host has no swtpm")
    drives = (Drive(file=blank, kept=True),)
    words = ("aurae.data=/dev/vda", "aurae.data.encryption=tpm2")

    def start(state: str, *given: Credential, end: str = "") -> Machine | None:
        """Boot with the TPM of this name; with `end`, until the console says that."""
        with tpm(tmp_path / state) as socket:
            machine = boot(
                drives=drives,
                cmdline=words,
                credentials=trusted(machines, *given),
                tpm=socket,
                wait=not end,
            )
            if end:
                machine.console.wait_for(end, BOOT_SECONDS)
                machine.console.wait_for("auraed: services", BOOT_SECONDS)
            else:
                assert mounted(machine)[:3] == ["/dev/mapper/aurae-data", "/var", "ext4"]
                look = "cat /var/lib/aurae/data.recovery-key; stat -c %a /var/lib/aurae/data.*"
                said.append(machine.system.read(look))
            machine.kill()
            return machine

    said: list[str] = []
    start("one")
    key, mode = said[0].splitlines()
    assert (len(key), mode) == (71, "600")
    start("one")
    assert said[1] == said[0]
    # Another machine's TPM does not open it; whoever has the recovery key does, and binds it anew.
    refused = "warning: data disk: /dev/vda: encrypted, and cannot be opened: the TPM does not"
    before = blank.read_bytes()
    start("two", end=refused)
    assert blank.read_bytes() == before
    start("two", Credential("aurae.data.passphrase", key.encode()), end="bound anew to the TPM")
    start("two")
    assert said[2] == said[0]
    start("one", end=refused)
