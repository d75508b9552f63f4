"""The disk: a unified kernel image, the EFI system partition with systemd-boot, and the root."""

import os
import shutil
from pathlib import Path
from typing import Final

from image import mkosi
from image.mkosi import Workshop
from image.secure_boot import Keys

# Partition and file system identifiers follow from this and not from chance.
SEED: Final = "d7e2f5a4-4a52-4d0c-9a3b-6f5f0f8c0a11"

# A kernel that panics starts the machine again, so that the boot loader can choose another entry.
CMDLINE: Final = "console=tty0 console=ttyS0,115200 root=PARTLABEL=aurae-root-a panic=10 loglevel=4"

# No default entry: systemd-boot would not count the boots of one that is named.
LOADER_CONF: Final = "timeout 0\neditor no\n"

# What the size of persistent memory is a multiple of: a large page.
PMEM_UNIT: Final = 2 << 20

_EFI: Final = Path("usr/lib/systemd/boot/efi")


def make_erofs(build: Workshop, root: Path, output: Path) -> None:
    """A plain erofs: compressed, the same root takes seconds longer to boot under emulation."""
    output.unlink(missing_ok=True)
    options = [
        "--all-root",
        "-x-1",
        "-L",
        "aurae-root",
        "-U",
        SEED,
        "-T",
        str(mkosi.EPOCH),
        "--quiet",
    ]
    build.tool(["mkfs.erofs", *options, output, root])
    # A hypervisor maps it in units of this.
    os.truncate(output, -(-output.stat().st_size // PMEM_UNIT) * PMEM_UNIT)


def make_uki(
    build: Workshop,
    kernel: Path,
    initramfs: Path,
    root: Path,
    release: str,
    output: Path,
    keys: Keys | None = None,
) -> None:
    """Join kernel, initramfs and command line to one EFI program."""
    stub = Path("/") / _EFI / "linuxx64.efi.stub"
    build.tool(
        [
            *("ukify", "build", "--efi-arch=x64", f"--stub={stub}", f"--linux={kernel}"),
            *(f"--initrd={initramfs}", f"--cmdline={CMDLINE}", f"--uname={release}"),
            *(f"--os-release=@{root / 'usr/lib/os-release'}", f"--output={output}"),
            *(keys.for_ukify() if keys else ()),
        ],
        readable=keys.readable if keys else (),
    )


def make_disk(
    build: Workshop, uki: Path, erofs: Path, version: str, output: Path, keys: Keys | None = None
) -> None:
    """A GPT disk that UEFI boots. It is sparse: most of it is room."""
    source = build.folder / "disk"
    mkosi.remove(source)
    esp = source / "esp"
    boot = build.tools / _EFI / "systemd-bootx64.efi"
    if keys:
        keys.sign(build, Path("/") / _EFI / boot.name, build.folder / boot.name)
        boot = build.folder / boot.name
    for target in ("EFI/BOOT/BOOTX64.EFI", "EFI/systemd/systemd-bootx64.efi"):
        (esp / target).parent.mkdir(parents=True)
        shutil.copyfile(boot, esp / target)
    (esp / "loader").mkdir()
    (esp / "loader/loader.conf").write_text(LOADER_CONF)
    (esp / "EFI/Linux").mkdir()
    shutil.copyfile(uki, esp / f"EFI/Linux/aurae_{version}.efi")
    if keys:
        keys.prepare_enrolment(build, esp)
    (source / "root.erofs").hardlink_to(erofs)
    for path in (esp, *esp.rglob("*")):
        os.utime(path, (mkosi.EPOCH, mkosi.EPOCH))
    output.unlink(missing_ok=True)
    definitions = Path(__file__).parent / "repart"
    build.tool(
        [
            *("systemd-repart", "--empty=create", "--size=auto", "--offline=yes", "--dry-run=no"),
            *(f"--definitions={definitions}", f"--root={source}", f"--seed={SEED}"),
            *("--architecture=x86-64", output),
        ],
        readable=[definitions],
    )
    mkosi.remove(source)
