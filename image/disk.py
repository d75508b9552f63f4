"""The disk: a unified kernel image, the EFI system partition with systemd-boot, and slots A and B.

A slot is two partitions, a root and its hash tree. A is filled, B is room for the next version. A
third pair, which no upgrade writes, has the root of the emergency entry: the same as A.
"""

import hashlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from image import mkosi
from image.mkosi import Workshop
from image.secure_boot import Keys

# Partition and file system identifiers follow from this and not from chance.
SEED: Final = "d7e2f5a4-4a52-4d0c-9a3b-6f5f0f8c0a11"

# A kernel that panics starts the machine again, so that the boot loader can choose another entry.
# It tries out none of its ciphers at each boot: so the kernel is built unless one asks for more, as
# Debian does.
CMDLINE: Final = "console=tty0 console=ttyS0,115200 panic=10 loglevel=4 cryptomgr.notests"

# Of the hash tree. It need not be secret, and two builds are to be equal.
SALT: Final = hashlib.sha256(SEED.encode()).hexdigest()
# Where a tree's first block has room for a line of ours; see initd/boot/verity.py.
SEAL: Final = 512

SECTORS: Final = (512, 4096)
"""Bytes of a sector, of the disks that there are."""

# No default entry: systemd-boot would not count the boots of one that is named.
LOADER_CONF: Final = "timeout 0\neditor no\n"

ESP_SIZE: Final = 512 << 20

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


def make_tree(build: Workshop, erofs: Path, output: Path, salt: str = SALT) -> str:
    """Write the root's hash tree; returns the root hash."""
    output.unlink(missing_ok=True)
    told = build.folder / "roothash"
    build.tool(
        [
            *("veritysetup", "format", "--hash=sha256", f"--salt={salt}", f"--uuid={SEED}"),
            *("--data-block-size=4096", "--hash-block-size=4096", f"--root-hash-file={told}"),
            *(erofs, output),
        ]
    )
    root_hash = told.read_text().strip()
    told.unlink()
    return root_hash


def seal(tree: Path, uki: Path) -> None:
    """Write down beside the root's hash tree what the image is that boots it."""
    line = f"aurae-boot-image {hashlib.sha256(uki.read_bytes()).hexdigest()}\n"
    with tree.open("r+b") as file:
        file.seek(SEAL)
        file.write(line.encode())


def make_uki(
    build: Workshop,
    kernel: Path,
    initramfs: Path,
    root: Path,
    release: str,
    parameters: str,
    output: Path,
    keys: Keys | None = None,
) -> None:
    """Join kernel, initramfs and command line to one EFI program. `parameters` are further ones of
    the kernel, such as `roothash=`."""
    stub = Path("/") / _EFI / "linuxx64.efi.stub"
    build.tool(
        [
            *("ukify", "build", "--efi-arch=x64", f"--stub={stub}", f"--linux={kernel}"),
            *(f"--initrd={initramfs}", f"--cmdline={CMDLINE} {parameters}", f"--uname={release}"),
            *(f"--os-release=@{root / 'usr/lib/os-release'}", f"--output={output}"),
            *(keys.for_ukify() if keys else ()),
        ],
        readable=keys.readable if keys else (),
    )


def make_emergency(
    build: Workshop,
    kernel: Path,
    initramfs: Path,
    root: Path,
    release: str,
    tree: tuple[str, Path],
    output: Path,
    keys: Keys | None = None,
) -> Path:
    """The boot image of the emergency entry, for the root whose hash and hash tree are `tree`.
    Returns the tree that goes with it, beside it."""
    root_hash, whole = tree
    parameters = f"roothash={root_hash} aurae.emergency"
    make_uki(build, kernel, initramfs, root, release, parameters, output, keys)
    sealed = output.with_suffix(".verity")
    shutil.copyfile(whole, sealed)
    seal(sealed, output)
    return sealed


def make_esp(build: Workshop, content: Path, output: Path, sector: int) -> None:
    """A FAT file system with what is in a folder, in the order of names: that of the builder's own
    file system would be another elsewhere."""
    named = ("-n", "AURAE-ESP", "-i", SEED[:8])
    build.tool(
        ["mkfs.fat", "-F", "32", *named, "-S", str(sector), "-C", output, str(ESP_SIZE >> 10)]
    )
    paths = sorted(content.rglob("*"))
    folders = [path for path in paths if path.is_dir()]
    places = {path: f"::{path.relative_to(content)}" for path in folders}
    build.tool(["mmd", "-i", output, *places.values()])
    for folder in folders:
        if files := [path for path in paths if path.parent == folder and path.is_file()]:
            build.tool(["mcopy", "-i", output, *files, f"{places[folder]}/"])


def make_disk(
    build: Workshop,
    entries: Mapping[str, Path],
    erofs: Path,
    tree: Path,
    emergency: Path,
    output: Path,
    sector: int = SECTORS[0],
    keys: Keys | None = None,
) -> None:
    """A GPT disk that UEFI boots. It is sparse: most of it is room. `entries` are unified kernel
    images, by their names for the boot loader. Of the root there are two copies, with these hash
    trees."""
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
    for name, uki in entries.items():
        shutil.copyfile(uki, esp / f"EFI/Linux/{name}")
    if keys:
        keys.prepare_enrolment(build, esp)
    (source / "root.erofs").hardlink_to(erofs)
    (source / "root.verity").hardlink_to(tree)
    (source / "emergency.verity").hardlink_to(emergency)
    make_esp(build, esp, source / "esp.img", sector)
    output.unlink(missing_ok=True)
    definitions = Path(__file__).parent / "repart"
    build.tool(
        [
            *("systemd-repart", "--empty=create", "--size=auto", "--offline=yes", "--dry-run=no"),
            *(f"--definitions={definitions}", f"--root={source}", f"--seed={SEED}"),
            *("--architecture=x86-64", f"--sector-size={sector}", output),
        ],
        readable=[definitions],
    )
    mkosi.remove(source)
