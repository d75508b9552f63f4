"""`make pxe`: what a network boots, in `build/pxe/`.

| file | what |
|---|---|
| `aurae_VERSION.vmlinuz`, `aurae_VERSION.initramfs` | kernel, and initramfs with the root inside |
| `aurae.ipxe` | the script by which iPXE loads the two from where it found the script |
| `aurae_VERSION.efi` | the same as one EFI program, for UEFI HTTP boot |

`aer netboot serve` offers them.
"""

import argparse
import fcntl
import os
import shutil
import sys
from pathlib import Path
from typing import Final

from image import disk, kernel, mkosi, overlay, secure_boot, stages
from image.build import Places, cache_folder
from image.mkosi import BuildError
from image.profile import DEFAULT, PROFILES
from image.stages import Stage

SCRIPT: Final = "aurae.ipxe"

# Of the tools tree.
STUB: Final = "/usr/lib/systemd/boot/efi/linuxx64.efi.stub"

# rootfstype: see docs/decisions/0030-image.md. A kernel that panics starts the machine again, which
# asks the network once more.
CMDLINE: Final = f"{disk.CMDLINE} rootfstype=ramfs"

# Bytes of the EFI program's command line. What is left of it is blank: room for arguments that are
# written there without making the program anew. The kernel takes 2047.
ROOM: Final = 1024


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m image.pxe", description="For the network.")
    parser.add_argument("--profile", choices=tuple(PROFILES), default=DEFAULT.name)
    profile = PROFILES[parser.parse_args().profile]
    try:
        keys = secure_boot.find(os.environ)
    except BuildError as e:
        sys.exit(f"make pxe: {e}")
    at = Places(overlay.PROJECT, cache_folder(), profile, keys)
    os.umask(0o022)
    at.work.mkdir(parents=True, exist_ok=True)
    with (at.work / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            changed = stages.run([stage(at)], at.work / "stamps")
        except (BuildError, OSError) as e:
            sys.exit(f"make pxe: {e}")
    if not changed:
        print("make pxe: nothing has changed since the last build")
        return
    for path in sorted(folder(at).iterdir()):
        print(f"    {path.relative_to(at.project)!s:50} {path.stat().st_size / 1e6:8.1f} MB")


def folder(at: Places) -> Path:
    return at.build / "pxe"


def stage(at: Places) -> Stage:
    return Stage(
        "pxe",
        "netboot: kernel, initramfs, iPXE script, EFI program",
        (
            *(at.build / "vmlinuz", at.build / "initramfs", at.root / "usr/lib/os-release"),
            *at.code("pxe.py"),
            *(at.keys.files if at.keys else ()),
        ),
        (folder(at),),
        lambda _: make(at),
    )


def make(at: Places) -> None:
    """Fill `build/pxe` anew: files of another version do not stay."""
    version = at.version.read_text().strip()
    target = folder(at)
    with mkosi.replaced(target) as new:
        names = {part: f"aurae_{version}.{part}" for part in ("vmlinuz", "initramfs", "efi")}
        for part in ("vmlinuz", "initramfs"):
            shutil.copyfile(at.build / part, new / names[part])
        (new / SCRIPT).write_text(script(version, names["vmlinuz"], names["initramfs"]))
        release = kernel.version(at.tree("base"))
        make_uki(at, release, new / names["efi"])


def script(version: str, kernel: str, initramfs: str) -> str:
    """URLs are relative to where the script came from. `initrd=` is what kernels look for that iPXE
    starts as EFI programs; BOOTIF tells the node by which card it was booted."""
    return f"""\
#!ipxe
# Aurae {version}
# Arguments of your own for the kernel: a script that sets `append` before it chains to this one, or
isset ${{append}} || set append

kernel {kernel} initrd=initramfs {CMDLINE} BOOTIF=01-${{mac:hexhyp}} ${{append}}
initrd --name initramfs {initramfs}
boot
"""


def make_uki(at: Places, release: str, output: Path) -> None:
    """Join kernel, initramfs with the root, and command line to one EFI program, signed where the
    image is."""
    build, keys = at.workshop(), at.keys
    # A file, as blanks at the end of an argument would be cut off.
    command_line = build.folder / "pxe.cmdline"
    command_line.write_text(CMDLINE.ljust(ROOM))
    build.tool(
        [
            *("ukify", "build", "--efi-arch=x64", f"--stub={STUB}", f"--uname={release}"),
            *(f"--linux={at.build / 'vmlinuz'}", f"--initrd={at.build / 'initramfs'}"),
            *(f"--cmdline=@{command_line}", f"--os-release=@{at.root / 'usr/lib/os-release'}"),
            f"--output={output}",
            *(keys.for_ukify() if keys else ()),
        ],
        readable=keys.readable if keys else (),
    )
    command_line.unlink()


if __name__ == "__main__":
    main()
