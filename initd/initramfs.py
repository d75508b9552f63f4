"""`/init` of the initramfs: find the root, mount it, become the root's PID 1.

Every import here is paid at each boot: it keeps to `os` and strings.
"""

import errno
import os
import struct
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Final, NoReturn

from initd import headstart, pack
from initd.boot import cgroups
from initd.boot.booted import Booted
from initd.boot.booted import write as write_booted
from initd.boot.disks import block_devices, lines
from initd.linux import module
from initd.linux.mount import MountFlag, mount

# How long a disk may take to appear. A disk shelf or a USB stick takes some seconds.
PATIENCE: Final = 30.0
_POLL: Final = 0.02

_SYSROOT: Final = "/sysroot"
_INIT: Final = "/sbin/init"
_DIST_PACKAGES: Final = f"{_SYSROOT}/usr/lib/python3/dist-packages"
_OVERLAY: Final = "/overlay"
_PMEM: Final = "/dev/pmem"
_PMEM_PATIENCE: Final = 2.0
_PMEM_POLL: Final = 0.002
_ROOT_FILE: Final = "/root.erofs"
_RAMFS: Final = "/ramfs"
_DEFAULT_ROOT: Final = "PARTLABEL=aurae-root-a"

# X86_FEATURE_SHA_NI, as the processor's modalias lists it.
_SHA_NI: Final = ",013D,"

# Levels of the kernel's log: the console shows errors.
_ERROR: Final = 3
_INFO: Final = 6

_NOTHING: Final = MountFlag.NOSUID | MountFlag.NODEV | MountFlag.NOEXEC

# Mounted here and moved to the root.
_MOUNTS: Final = (
    ("proc", "/proc", _NOTHING, ""),
    ("sysfs", "/sys", _NOTHING, ""),
    ("devtmpfs", "/dev", MountFlag.NOSUID | MountFlag.NOEXEC, "mode=755"),
    ("tmpfs", "/run", MountFlag.NOSUID | MountFlag.NODEV, "mode=755,size=10%"),
)


class RootError(Exception):
    """There is no root to hand over to."""


def main(runtime: headstart.Begun | None) -> None:
    """Never returns: becomes PID 1 of the root, or ends with a message, which is a panic."""
    for fstype, target, flags, options in _MOUNTS:
        mount(fstype, target, fstype, flags, options)
    keep_credentials("/credentials", "/run/credentials/@system")
    # What systemd-stub found beside the kernel's image, and for all images: systemd-stub(7).
    for folder in ("/.extra/credentials", "/.extra/global_credentials"):
        if os.path.isdir(folder):
            keep_credentials(folder, "/run/credentials/@esp", suffix=".cred")
    load_modules("root")
    try:
        with open("/proc/cmdline", encoding="utf-8", errors="replace") as file:
            booted = mount_root(file.read())
    except (RootError, OSError) as e:
        sys.exit(f"initramfs: cannot mount the root: {e}")
    _log(f"root is {booted.root}")
    try:
        write_booted(booted)
    except OSError as e:
        # No room. Who asks later finds nothing said of slots.
        _log(f"what was booted: cannot be written down: {e.strerror}")
    hand_over(runtime)


def mount_root(cmdline: str) -> Booted:
    """Mount what the command line wants. Raises `RootError`, OSError."""
    if root_hash := last(cmdline, "roothash="):
        return mount_verified(root_hash, emergency="aurae.emergency" in cmdline.split())
    wanted = root_of(cmdline, in_memory=os.path.exists(_ROOT_FILE))
    if wanted == _ROOT_FILE:
        mount_file(wanted)
    else:
        wanted = wait_for(wanted, PATIENCE)
        # Used where it lies, and not copied to other memory.
        options = "dax=always" if wanted.startswith(_PMEM) else ""
        mount(wanted, _SYSROOT, "erofs", MountFlag.RDONLY, options)
    return Booted(root=wanted)


def mount_verified(root_hash: str, *, emergency: bool) -> Booted:
    """Mount the root with this hash. What fails is tried again by the boot loader's next choice.

    A version that came to nothing too often is given up; the emergency entry, which comes last, is
    not. Raises `RootError`, OSError.
    """
    # Only here: a root without a hash does without all of it.
    from initd.boot import attempts, verified

    disk = ""
    try:
        if _hashes_in_hardware():
            load_modules("sha256")
        load_modules("verity")
        if emergency:
            booted = verified.open_emergency(root_hash, looks(PATIENCE))
        else:
            booted, before = verified.open_root(root_hash, looks(PATIENCE))
            disk = booted.disk
            if before >= attempts.LIMIT:
                _start_another(disk, f"{before} boots of it came to nothing")
        mount(booted.root, _SYSROOT, "erofs", MountFlag.RDONLY)
    except (verified.NotFoundError, OSError) as e:
        _start_another(disk, str(e))
        raise RootError(str(e)) from e
    return booted


def _hashes_in_hardware() -> bool:
    """Whether the processor has instructions for SHA-256. Those for vectors, which the same module
    uses else, are slower than none where they are emulated."""
    return any(_SHA_NI in line for line in lines("/sys/devices/system/cpu/modalias"))


def _start_another(disk: str, why: str) -> None:
    """Have the boot loader choose another entry, and start again. Returns where it cannot."""
    from initd.boot import verified
    from initd.linux import power

    try:
        taken = verified.take_out(disk)
    except OSError as e:
        _log(f"cannot choose another boot entry: {e}", _ERROR)
        return
    if taken:
        _log(f"version {taken} is given up: {why}; another one is started", _ERROR)
        os.sync()
        power.reboot(power.Action.RESTART)


def mount_file(path: str) -> None:
    """Mount an erofs image that lies in the initramfs. `RootError`: it did not fit into memory."""
    with open(path, "rb") as file:
        file.seek(1024)
        whole = erofs_size(file.read(128))
    if os.stat(path).st_size < whole:
        # The kernel unpacks what fits and goes on. A tmpfs may fill half of the memory only.
        raise RootError(f"{path}: cut off for lack of memory; give more, or rootfstype=ramfs")
    try:
        mount(path, _SYSROOT, "erofs", MountFlag.RDONLY)
    except OSError as e:
        if e.errno != errno.ENOTBLK:
            raise
        # The rootfs is a tmpfs unless `rootfstype=ramfs`, and erofs mounts no file of a tmpfs. A
        # loop device could, but its thread makes each first read of a page three times as slow.
        mount("ramfs", _RAMFS, "ramfs")
        move(path, f"{_RAMFS}{path}")
        mount(f"{_RAMFS}{path}", _SYSROOT, "erofs", MountFlag.RDONLY)


def move(source: str, target: str, chunk: int = 1 << 22) -> None:
    """Move a file to another file system, from its end on, holding no more than a chunk twice."""
    with open(source, "r+b", buffering=0) as old, open(target, "xb", buffering=0) as new:
        end = os.fstat(old.fileno()).st_size
        while end:
            start = max(0, end - chunk)
            os.lseek(new.fileno(), start, os.SEEK_SET)
            while start < end:
                start += os.sendfile(new.fileno(), old.fileno(), start, end - start)
            end = max(0, end - chunk)
            os.ftruncate(old.fileno(), end)
    os.unlink(source)


def root_of(cmdline: str, *, in_memory: bool) -> str:
    """What the kernel command line wants as root; the last `root=` counts."""
    return last(cmdline, "root=") or (_ROOT_FILE if in_memory else _DEFAULT_ROOT)


def last(cmdline: str, key: str) -> str:
    """The value of a parameter such as `root=`; the last one counts. Empty: there is none."""
    given = [word.removeprefix(key) for word in cmdline.split() if word.startswith(key)]
    return given[-1] if given else ""


def keep_credentials(source: str, target: str, suffix: str = "") -> None:
    """Move the credentials of the initramfs to where they outlive it, readable by root only. Their
    files have that suffix, which their names lose."""
    os.makedirs(target, mode=0o700, exist_ok=True)
    os.chmod(target, 0o700)
    if not os.path.isdir(source):
        return
    for name in sorted(os.listdir(source)):
        path = f"{source}/{name}"
        if not os.path.isfile(path) or os.path.islink(path) or not name.endswith(suffix):
            continue
        kept_as = f"{target}/{name.removesuffix(suffix)}"
        if os.path.exists(kept_as):
            # Of an earlier folder, or a file without a name.
            continue
        try:
            fd = os.open(kept_as, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400)
            with open(path, "rb") as content, open(fd, "wb") as kept:
                kept.write(content.read())
        except OSError as e:
            _log(f"credential {name}: {e.strerror}")
            # A part of it is none.
            with suppress(FileNotFoundError):
                os.unlink(kept_as)
        os.unlink(path)


def load_modules(purpose: str, folder: str = "") -> None:
    """Load what is listed in load order: a list made with the image. `root` is for any root."""
    folder = folder or f"/usr/lib/modules/{os.uname().release}"
    for path in lines(f"{folder}/modules.{purpose}"):
        try:
            module.load(f"{folder}/{path}")
        except FileExistsError:
            continue


def wait_for(wanted: str, patience: float) -> str:
    """The device node of the wanted root, once it is there, loading drivers as hardware appears.

    Raises `RootError` when it does not appear in time.
    """
    match = matcher(wanted)
    if wanted.startswith(_PMEM):
        load_modules("pmem")
        # The kernel finds it beside what else goes on: to look at all the hardware takes longer.
        if opens(wanted, _PMEM_PATIENCE):
            return wanted
    devices: list[dict[str, str]] = []
    for devices in looks(patience):
        for device in devices:
            if match(device) and opens(path := f"/dev/{device['DEVNAME']}"):
                return path
    names = ", ".join(_describe(device) for device in devices) or "no disk at all"
    raise RootError(f"{wanted}: not found in {patience:.0f} s; there is {names}; set root=")


def opens(path: str, patience: float = 0) -> bool:
    """Whether the device is there within so many seconds. The kernel makes its node a moment
    before."""
    deadline = time.monotonic() + patience
    while True:
        try:
            os.close(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        except OSError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(_PMEM_POLL)
        else:
            return True


def looks(patience: float) -> Iterator[list[dict[str, str]]]:
    """What block devices there are, again and again for so many seconds, loading drivers as
    hardware appears."""
    # Only here: a root in memory does without looking at the hardware, and boots faster for it.
    from initd.boot.modules import Modules, find_modaliases

    modules = Modules()

    def load(*, quick: bool) -> bool:
        aliases = [alias for alias in find_modaliases() if _is_quick(alias) or not quick]
        loaded, problems = modules.for_aliases(aliases)
        for problem in problems:
            _log(f"module {problem}")
        return bool(loaded)

    deadline = time.monotonic() + patience
    # One brings forth the bus, the next what is on it.
    while load(quick=True):
        yield block_devices("/sys/class/block")
    while True:
        load(quick=False)
        yield block_devices("/sys/class/block")
        if time.monotonic() > deadline:
            return
        time.sleep(_POLL)


def _is_quick(modalias: str) -> bool:
    """Whether the device has what it has as soon as its driver is there: virtio and NVMe. Others
    look for disks on their links, for up to seconds."""
    return modalias.startswith(("virtio:", "pci:v00001AF4")) or "bc01sc08" in modalias


class matcher:  # noqa: N801 (a function with state)
    """Says whether a block device, given by its properties, is the wanted one.

    Raises `RootError` for a kind of name that nobody knows.
    """

    def __init__(self, wanted: str) -> None:
        kind, equals, value = wanted.partition("=")
        if wanted.startswith("/dev/"):
            kind, value = "DEVNAME", wanted.removeprefix("/dev/")
        elif not equals or kind not in ("PARTLABEL", "PARTUUID", "LABEL"):
            raise RootError(f"root={wanted}: not PARTLABEL=, PARTUUID=, LABEL= or /dev/…")
        self._kind = kind
        self._value = value.lower() if kind == "PARTUUID" else value

    def __call__(self, device: Mapping[str, str]) -> bool:
        match self._kind:
            case "DEVNAME":
                return device["DEVNAME"] == self._value
            case "PARTLABEL":
                return device.get("PARTNAME") == self._value
            case "PARTUUID":
                return partition_uuid(device) == self._value
            case _:
                return erofs_label(f"/dev/{device['DEVNAME']}") == self._value


def partition_uuid(device: Mapping[str, str]) -> str | None:
    """The unique GUID of a partition, from the kernel or else from the disk's GPT."""
    if known := device.get("PARTUUID"):
        return known.lower()
    if "DISK" not in device:
        return None
    disk = device["DISK"]
    [size] = lines(f"/sys/class/block/{disk}/queue/logical_block_size")
    try:
        with open(f"/dev/{disk}", "rb") as file:
            return guid_in_table(file.read(int(size) * 34), int(size), int(device["PARTN"]))
    except OSError:
        return None


def guid_in_table(disk: bytes, block: int, number: int) -> str | None:
    """The GUID of partition `number` in a GPT (UEFI specification, 5.3), `disk` from its start."""
    header = disk[block : block + 92]
    if header[:8] != b"EFI PART":
        return None
    first, _, size = struct.unpack_from("<QII", header, 72)
    entry = disk[first * block + (number - 1) * size :][:32]
    if len(entry) < 32:
        return None
    a, b, c = struct.unpack_from("<IHH", entry, 16)
    return f"{a:08x}-{b:04x}-{c:04x}-{entry[24:26].hex()}-{entry[26:32].hex()}"


def erofs_size(superblock: bytes) -> int:
    """How many bytes a file system has, from its superblock (fs/erofs/erofs_fs.h)."""
    bits, blocks = struct.unpack_from("<12xB23xI", superblock)
    return int(blocks << bits)


def erofs_label(path: str) -> str | None:
    """The volume name in an erofs superblock (fs/erofs/erofs_fs.h), None for other contents."""
    try:
        with open(path, "rb") as file:
            file.seek(1024)
            block = file.read(128)
    except OSError:
        return None
    if block[:4] != b"\xe2\xe1\xf5\xe0":
        return None
    return block[64:80].rstrip(b"\0").decode(errors="replace")


def hand_over(runtime: headstart.Begun | None) -> None:
    """Make the mounted root the root, give back the initramfs's memory, become its PID 1.

    Where that is `initd` in the same build of Python and all, no other interpreter is started: its
    start takes longer than all that PID 1 does before its services run. Else `/sbin/init` is
    executed.
    """
    # Packages of a newer state of the code, for a machine that is being developed on.
    if os.path.isdir(_OVERLAY):
        for name in sorted(os.listdir(_OVERLAY)):
            mount(f"{_OVERLAY}/{name}", f"{_DIST_PACKAGES}/{name}", "", MountFlag.BIND)
    for _, target, _, _ in _MOUNTS:
        mount(target, f"{_SYSROOT}{target}", "", MountFlag.MOVE)
    ours = pack.build(_DIST_PACKAGES) == pack.build() != ""
    variables = _let_in(runtime) if ours else {}
    os.chdir(_SYSROOT)
    # The root's file may go too: its mount holds it. A bind mount shows what is left of its source.
    empty("/", keep={_OVERLAY, _SYSROOT})
    mount(".", "/", "", MountFlag.MOVE)
    os.chroot(".")
    os.chdir("/")
    os.environ.update(variables)
    sys.argv[0] = _INIT
    if ours:
        _go_on()
    os.execve(_INIT, sys.argv, os.environ)


def _go_on() -> NoReturn:
    """As the root's PID 1, with the modules of the root."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "initd"]:
        del sys.modules[name]
    sys.path_importer_cache.clear()
    pack.install()
    sys.exit(__import__("initd.__main__", fromlist=["main"]).main())


def _let_in(runtime: headstart.Begun | None) -> dict[str, str]:
    """Have the runtime in the root; returns what PID 1 must have in its environment to find it."""
    if runtime is None:
        return {}
    started, answer = runtime
    try:
        started.let_in(_SYSROOT, answer)
        # For the first use of a controller the kernel changes its own code, which emulators are
        # known to get wrong while another processor runs it: so now, while the runtime rests.
        folder = f"{_SYSROOT}{cgroups.ROOT}"
        mount("cgroup2", folder, "cgroup2", _NOTHING, cgroups.OPTIONS)
        os.mkdir(f"{folder}/{cgroups.CELLS}")
        cgroups.hand_down(folder)
    except OSError as e:
        _log(f"the runtime's head start: {e}")
    started.go()
    return started.variables()


def empty(folder: str, keep: Iterable[str]) -> None:
    """Remove what is in a folder, but for `keep` and what is mounted in it."""
    device = os.lstat(folder).st_dev
    with os.scandir(folder) as entries:
        for entry in entries:
            path = os.path.join(folder, entry.name)
            if path in keep or entry.stat(follow_symlinks=False).st_dev != device:
                continue
            if entry.is_dir(follow_symlinks=False):
                empty(path, keep)
                os.rmdir(path)
            else:
                os.unlink(path)


def _describe(device: Mapping[str, str]) -> str:
    label = device.get("PARTNAME")
    return f"{device['DEVNAME']} ({label})" if label else device["DEVNAME"]


def _log(message: str, level: int = _INFO) -> None:
    with open("/dev/kmsg", "w", encoding="utf-8") as log:
        log.write(f"<{level}>initramfs: {message}\n")
