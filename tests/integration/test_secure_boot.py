"""An image that is signed boots where firmware asks for it; one that was changed does not."""

import mmap
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from image import build, overlay, secure_boot
from image.build import Places
from image.machine import Drive
from testkit.machines import BOOT_SECONDS, Machine, Machines

Boot = Callable[..., Machine]

SECURE_BOOT = "SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
# The first four bytes of a variable's file are its attributes.
READ = f"""
unshare -m sh -ec '
  mount -t efivarfs none /sys/firmware/efi/efivars
  tail -c 1 /sys/firmware/efi/efivars/{SECURE_BOOT} | od -An -tu1'
"""


@pytest.fixture(scope="module")
def signed(machines: Machines, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The disk of this image, as `make image SECURE_BOOT=…` makes it."""
    made = overlay.PROJECT / "build"
    if machines.artifacts.resolve() != made or not (made / "image/tools").exists():
        pytest.skip("the image was not built here")
    keys = tmp_path_factory.mktemp("keys")
    subprocess.run(
        [sys.executable, "-m", "aer", "pki", "secure-boot", "--dir", keys],
        check=True,
        capture_output=True,
    )
    output = made / "secure-boot"
    shutil.rmtree(output, ignore_errors=True)
    at = Places(
        overlay.PROJECT,
        build.cache_folder(),
        keys=secure_boot.find({"SECURE_BOOT": str(keys)}),
        output=output,
    )
    (at.root / "usr/lib").mkdir(parents=True)
    shutil.copyfile(made / "image/root/usr/lib/os-release", at.root / "usr/lib/os-release")
    for name in ("vmlinuz", "initramfs-micro", "initramfs", "root.erofs", "version"):
        (output / name).hardlink_to(made / name)
    for name in ("mkosi", "tools", "base"):
        at.tree(name).symlink_to((made / "image" / name).resolve())
    build.make_disk(at)
    return output / "aurae.img"


def test_firmware_takes_the_key_and_boots_what_it_has_signed(boot: Boot, signed: Path) -> None:
    # In setup mode the boot loader enrols the key and starts the machine again.
    machine = boot(disk=Drive(file=signed), reboots=True)
    assert machine.system.read(READ).strip() == "1"
    with machine.cell("c") as cell:
        assert cell.read("echo fine") == "fine\n"
    machine.poweroff()


def test_a_changed_byte_of_the_command_line_is_refused_by_the_firmware(
    boot: Boot, signed: Path
) -> None:
    changed = signed.with_name("changed.img")
    subprocess.run(["cp", "--sparse=always", signed, changed], check=True)
    with changed.open("r+b") as file, mmap.mmap(file.fileno(), 0) as content:
        at = -1
        # Of each entry: which comes first on the disk does not say which is started.
        while (at := content.find(b"loglevel=4", at + 1)) >= 0:
            content[at : at + 10] = b"loglevel=7"
    machine = boot(disk=Drive(file=changed), reboots=True, wait=False)
    machine.console.wait_for(r"(?i)access denied|security violation", BOOT_SECONDS)
    assert "auraed" not in machine.console.text
    machine.kill()
