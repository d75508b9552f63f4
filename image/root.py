"""The root file system: what is picked from Debian's tree, and the few files that are ours.

Only what is named here gets in; the libraries follow from what the programs need.
"""

import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from image import elf, kernel, python

PROGRAMS: Final = (
    *("busybox", "crun", f"python{python.SERIES}", "setpriv"),
    # What the data disk is made, grown and opened with: initd/boot/{partitions,filesystems}.py,
    # initd/boot/encryption.py.
    *("sfdisk", "blkid", "mke2fs", "resize2fs", "e2fsck", "cryptsetup", "systemd-cryptenroll"),
    # initd/network/timekeeper.py
    "systemd-timesyncd",
)

PROGRAM_FOLDERS: Final = ("usr/bin", "usr/sbin", "usr/lib/systemd")

# The same for other file systems than ext4, which a lean image has not; and their modules.
OTHER_FILE_SYSTEMS: Final = ("mkfs.xfs", "xfs_growfs", "mkfs.btrfs")
OTHER_MODULES: Final = ("xfs", "btrfs")

# Of the debug profile.
DEBUGGERS: Final = ("strace",)

# Opened by name at run time, so no program says that it needs them: threads that are cancelled
# and exceptions in C++; and what systemd-cryptenroll and cryptsetup's plugin talk to a TPM with.
OPENED_BY_NAME: Final = (
    *("libgcc_s.so.1", "libcryptsetup.so.12", "libtss2-esys.so.0", "libtss2-mu.so.0"),
    *("libtss2-rc.so.0", "libtss2-tcti-device.so.0"),
)

# In folders of their own below the libraries: cryptsetup's plugin for keys in a TPM, and what that
# and systemd-cryptenroll are made of.
PLUGINS: Final = (
    "cryptsetup/libcryptsetup-token-systemd-tpm2.so",
    "systemd/libsystemd-shared-*.so",
)

# Applets of busybox that would be a second init, a package manager, or a way to log in.
UNWANTED_APPLETS: Final = frozenset(
    (
        *("init", "linuxrc", "halt", "poweroff", "reboot", "run-init", "switch_root", "getty"),
        *("dpkg", "dpkg-deb", "rpm", "rpm2cpio", "ar", "login", "su", "sulogin", "passwd"),
        *("adduser", "addgroup", "deluser", "delgroup", "setpriv", "busybox"),
    )
)

LINKS: Final = {
    "bin": "usr/bin",
    "sbin": "usr/bin",
    "usr/sbin": "bin",
    "lib": "usr/lib",
    "lib64": "usr/lib64",
    "usr/bin/python3": f"python{python.SERIES}",
    "etc/mtab": "../proc/self/mounts",
    "etc/os-release": "../usr/lib/os-release",
    "etc/resolv.conf": "../run/aurae/resolv.conf",
    "var/run": "../run",
}

# What is mounted on or written below at run time, with its mode.
FOLDERS: Final = {
    **dict.fromkeys(("boot", "dev", "efi", "etc", "mnt", "proc", "run", "sys", "sysroot"), 0o755),
    **dict.fromkeys(("etc/aurae", "home", "opt", "srv", "usr/bin", "usr/lib", "var"), 0o755),
    **dict.fromkeys(("etc/modprobe.d", "var/lib", "var/log", "var/cache"), 0o755),
    "root": 0o700,
    "tmp": 0o1777,
    "var/tmp": 0o1777,
}

FILES: Final = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\n"
    "systemd-timesync:x:998:998::/:/bin/false\n"
    "nobody:x:65534:65534:nobody:/nonexistent:/bin/false\n",
    "etc/group": "root:x:0:\ntty:x:5:\nsystemd-timesync:x:998:\nnogroup:x:65534:\n",
    "etc/hosts": "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n"
    "networks: files\nprotocols: files\nservices: files\n",
    # These modules would make links by themselves (bond0 …), which then count as others'.
    "etc/modprobe.d/aurae.conf": "options bonding max_bonds=0\noptions dummy numdummies=0\n"
    "options ifb numifbs=0\n",
    # Empty: PID 1 mounts the machine's own over it.
    "etc/machine-id": "",
}

# Of Debian's configuration: names of protocols and ports, and of file types.
COPIED: Final = ("etc/protocols", "etc/services", "etc/mime.types")

INIT: Final = f"""\
#!/usr/bin/python3 -IS
import sys

sys.path.append("/{python.DIST_PACKAGES}")

from initd import pack

pack.install()

from initd.__main__ import main

sys.exit(main())
"""


# What the node runs on. A part of it that was pruned too far is found when the image is built.
IMPORTED: Final = """
import argparse, asyncio, ctypes, json, logging, multiprocessing, pickle, ssl, zipfile
import google.protobuf.json_format, grpc.aio, grpc_health.v1.health, grpc_reflection.v1alpha
import cryptography.x509, shtab, yaml
"""


def make(
    base: Path, root: Path, requirements: Path, report: Path, *, shell: bool, lean: bool
) -> None:
    """Fill the empty folder `root` with all but the packages of this project.

    `report` is written for `image.sbom`; see `python.install_wheels`. `shell` and `lean` are the
    profile's.
    """
    for name, mode in FOLDERS.items():
        folder = root / name
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(mode)
    for name, target in LINKS.items():
        (root / name).symlink_to(target)
    for name, text in FILES.items():
        (root / name).write_text(text)
    for name in COPIED:
        shutil.copyfile(base / name, root / name)
    more = (*(DEBUGGERS if shell else ()), *(() if lean else OTHER_FILE_SYSTEMS))
    for name in (*PROGRAMS, *more):
        places = (base / folder / name for folder in PROGRAM_FOLDERS)
        shutil.copy(next(filter(Path.exists, places)), root / "usr/bin" / name)
    if shell:
        (root / "etc/aurae/debug").write_text("Whoever sits at the console is root.\n")
    init = root / "usr/bin/init"
    init.write_text(INIT)
    init.chmod(0o755)
    python.copy_stdlib(base, root)
    packages = root / python.DIST_PACKAGES
    packages.mkdir(parents=True)
    python.install_wheels(requirements, packages, report)
    copy_libraries(base, root)
    make_applets(root)
    python.compile_in_place(root, [root / python.STDLIB, packages], prefix=root)
    for path in packages.rglob("*.so"):
        elf.strip(path)
    python.run(root, "-c", IMPORTED, path=[packages])


def copy_libraries(base: Path, root: Path) -> None:
    """Copy the loader and every library that a file of `root` needs."""
    source = base / python.LIBRARIES
    for pattern in PLUGINS:
        [plugin] = source.glob(pattern)
        place = root / plugin.relative_to(base)
        place.parent.mkdir(parents=True)
        shutil.copyfile(plugin, place)
    files = [p for p in root.rglob("*") if p.is_file() and not p.is_symlink() and elf.is_elf(p)]
    bundled = {path.name for path in files}
    named = {source / name for name in OPENED_BY_NAME}
    target = root / python.LIBRARIES
    for library in elf.closure([*files, *named], source, bundled) | named:
        shutil.copyfile(library, target / library.name)
    (root / python.LOADER).chmod(0o755)
    (root / "usr/lib64").mkdir()
    (root / "usr/lib64" / python.LOADER.name).symlink_to(f"../../{python.LOADER}")


def make_applets(root: Path) -> None:
    """Link every applet that nothing better stands in for to busybox."""
    # It is linked statically: to start it takes a fifth of the time, and each Start does twice.
    busybox = root / "usr/bin/busybox"
    listed = subprocess.run([busybox, "--list"], check=True, capture_output=True, text=True)
    for name in applets(listed.stdout.split()):
        link = root / "usr/bin" / name
        if not link.exists():
            link.symlink_to("busybox")


def applets(listed: Iterable[str]) -> list[str]:
    return sorted(set(listed) - UNWANTED_APPLETS)


def write_os_release(root: Path, version: str, image: str = "aurae") -> None:
    """The boot loader shows entries by the name of their image first, the last versions of it then.
    That of the emergency entry comes after all others."""
    file = root / "usr/lib/os-release"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(
        f'NAME="Aurae"\nID=aurae\nVERSION_ID="{version}"\nVERSION="{version}"\n'
        f'PRETTY_NAME="Aurae {version}"\nIMAGE_ID={image}\nIMAGE_VERSION="{version}"\n'
    )


def write_upgrade_keys(root: Path, keys: Iterable[Path]) -> None:
    """Whose signatures of an upgrade the node believes."""
    folder = root / "etc/aurae/upgrade-keys"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for key in keys:
        shutil.copyfile(key, folder / key.name)


def copy_modules(base: Path, root: Path, *, lean: bool) -> None:
    patterns = [p for p in kernel.for_root() if not (lean and p in OTHER_MODULES)]
    release = kernel.version(base)
    target = root / "usr/lib/modules" / release
    target.mkdir(parents=True)
    kernel.copy(base / "usr/lib/modules" / release, target, patterns)


def copy_copyrights(base: Path, root: Path) -> None:
    """Copy what Debian says of the licence of every package that a file of `root` came from."""
    for package in packages_of(base, root):
        licence = Path("usr/share/doc") / package / "copyright"
        (root / licence).parent.mkdir(parents=True)
        shutil.copyfile(base / licence, root / licence)


def packages_of(base: Path, root: Path) -> list[str]:
    """The packages that have a file at a place where `root` has a file, too, as it is or by xz."""
    found = []
    for listed in sorted((base / "var/lib/dpkg/info").glob("*.list")):
        names = (line.lstrip("/") for line in listed.read_text().splitlines())
        paths = (root / f"{name}{end}" for name in names for end in ("", ".xz"))
        if any(path.is_file() and not path.is_symlink() for path in paths):
            found.append(listed.stem.partition(":")[0])
    return found
