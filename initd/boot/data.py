"""The data disk: an ext4 file system that becomes /var, where the node keeps what outlives a boot.

It is looked for, mounted and made ready in a copy of this process: a disk may answer late, or
never. What the copy has mounted aside is then moved to its place, at once and as a whole.
"""

import os
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final

from initd.boot.cmdline import CommandLine
from initd.boot.credentials import FOLDER as CREDENTIALS
from initd.boot.disks import block_devices, ext4_label
from initd.boot.modules import Modules, find_modaliases
from initd.boot.mounts import FOLDERS, LINKS
from initd.boot.plan import Done
from initd.linux import spawn
from initd.linux.mount import MountFlag, mount
from initd.values import NamedTuple

NAME: Final = "aurae-data"
PLACE: Final = "/var"
STATE: Final = "lib/aurae"
"""The node's own folder there."""

# Seconds that a disk may take to appear which the command line asks for, and then to be mounted:
# after a power cut that writes what its journal holds.
PATIENCE: Final = 30.0
MOUNTING: Final = 60.0
_POLL: Final = 0.02
# What one look has brought forth may need drivers in turn.
_LOOKS: Final = 8

_ASIDE: Final = "/run/aurae/data"
_PROCS: Final = "/sys/fs/cgroup/auraed/hardware/cgroup.procs"
_BLOCK: Final = "/sys/class/block"
# No more to be found on these than on what they show.
_NO_DISKS: Final = ("ram", "loop", "zram", "pmem", "nbd", "fd")
# Who has these says itself who it is: runtime.trust.files.
_IDENTITY: Final = ("aurae.node.crt", "aurae.node.key", "aurae.ca.crt")

# What a disk is reached by: mass storage, USB and SD controllers by their PCI class, and virtio.
_CLASSES: Final = ("bc01sc", "bc0Csc03", "bc08sc05")
_BUSES: Final = ("virtio:d00000002", "virtio:d00000008", "pci:v00001AF4")
_BUSES_OF_DISKS: Final = ("usb:", "scsi:", "mmc:", "vmbus:", "xen:vbd")


class Search(NamedTuple):
    """What to look for, how long, and whether drivers are loaded for it."""

    wanted: str
    """As in `aurae.data=`; empty: any that is named as ours."""
    patience: float
    drivers: bool


class NotThere(Exception):
    """No disk, or none that can be used. Empty: there is none, and none was asked for."""


def search(command_line: CommandLine, credentials: str = CREDENTIALS) -> Search | None:
    """What this boot looks for. None: nothing.

    Disks' drivers are loaded late, to not hold the API up. A node that was not told who it is may
    know from its disk, and has nothing else to serve.
    """
    if command_line.data == "off":
        return None
    if command_line.data:
        return Search(command_line.data, PATIENCE, drivers=True)
    given = any(os.path.exists(f"{credentials}/{name}") for name in _IDENTITY)
    return Search("", 0.0, drivers=not given)


def place(command_line: CommandLine, folder: str = _BLOCK, credentials: str = CREDENTIALS) -> Done:
    """Have the data disk at its place, if there is one. What fails is in `problems`."""
    wanted = search(command_line, credentials)
    if wanted is None:
        return Done("off")
    if not wanted.drivers and not any(map(_may_be, block_devices(folder))):
        return Done("none")
    try:
        device = _in_copy(lambda: _prepare(wanted, unclaims=command_line.unclaim), wanted.patience)
        mount(_ASIDE, PLACE, "", MountFlag.MOVE)
    except NotThere as e:
        return Done("none", (str(e),) if str(e) else ())
    except OSError as e:
        return Done("none", (f"{PLACE}: {e.strerror}; the node keeps nothing across boots",))
    return Done(device)


def matches(device: Mapping[str, str], wanted: str, folder: str = "/dev") -> bool:
    """Whether a block device is what `aurae.data=` names. May block."""
    kind, _, value = wanted.partition("=")
    path = f"{folder}/{device['DEVNAME']}"
    match kind:
        case "":
            return device.get("PARTNAME") == NAME or (_may_be(device) and ext4_label(path) == NAME)
        case "PARTLABEL":
            return device.get("PARTNAME") == value
        case "LABEL":
            return _may_be(device) and ext4_label(path) == value
        case _:
            return f"/dev/{device['DEVNAME']}" == wanted


def is_storage(modalias: str) -> bool:
    """Whether disks may be behind such a device."""
    if any(kind in modalias for kind in _CLASSES):
        return True
    return modalias.startswith((*_BUSES, *_BUSES_OF_DISKS))


def unclaim(state: str) -> None:
    """Move away who the node is, and by which policy, to a folder of its own. OSError."""
    names = [name for name in ("identity", "policy.json") if os.path.lexists(f"{state}/{name}")]
    if not names:
        return
    number = 1
    while os.path.lexists(aside := f"{state}/unclaimed.{number}"):
        number += 1
    os.mkdir(aside, 0o700)
    # The identity first: none is ever without its policy, and a policy alone means nothing.
    for name in names:
        os.rename(f"{state}/{name}", f"{aside}/{name}")
    os.sync()


def _may_be(device: Mapping[str, str]) -> bool:
    return not device["DEVNAME"].rpartition("/")[2].startswith(_NO_DISKS)


def _in_copy(work: Callable[[], str], patience: float) -> str:
    """What `work` says, in a copy of this process. Raises NotThere with what it raised, and where
    it is not done in time."""
    import select

    read, write = os.pipe2(os.O_CLOEXEC)
    try:
        pid = spawn.in_child(lambda: _tell(work, write))
    except OSError:
        os.close(read)
        raise
    finally:
        os.close(write)
    try:
        if not select.select([read], [], [], patience + MOUNTING)[0]:
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)
            raise NotThere("the disk does not answer; the node keeps nothing across boots")
        kind, _, text = os.read(read, 4096).decode(errors="replace").partition(" ")
        os.waitpid(pid, 0)
    finally:
        os.close(read)
    if kind not in ("found", "none"):
        raise NotThere("its search ended before it was done; the node keeps nothing across boots")
    if kind == "none":
        raise NotThere(text)
    return text


def _tell(work: Callable[[], str], write: int) -> None:
    with suppress(OSError), open(_PROCS, "w") as procs:
        procs.write(str(os.getpid()))
    try:
        said = f"found {work()}"
    except NotThere as e:
        said = f"none {e}"
    except OSError as e:
        where = f"{e.filename}: " if e.filename else ""
        said = f"none {where}{e.strerror}; the node keeps nothing across boots"
    os.write(write, said.encode()[:4096])


def _prepare(wanted: Search, *, unclaims: bool) -> str:
    """Find it, mount it aside, make its folders; returns what it is. Raises NotThere, OSError."""
    device = _find(wanted)
    path = f"/dev/{device}"
    Modules().load("ext4")
    os.makedirs(_ASIDE, mode=0o700, exist_ok=True)
    try:
        mount(path, _ASIDE, "ext4", MountFlag.NOSUID | MountFlag.NODEV, "errors=remount-ro")
    except OSError as e:
        raise NotThere(
            f"{path}: cannot be mounted ({e.strerror}); it must be ext4 and writable. The node "
            "keeps nothing across boots"
        ) from e
    make_folders(_ASIDE)
    if unclaims:
        unclaim(f"{_ASIDE}/{STATE}")
    return path


def make_folders(root: str) -> None:
    """What /var has, and the node's own folder, in the file system at `root`. OSError."""
    inside = [(name, mode) for name, mode in FOLDERS if name.startswith(f"{PLACE}/")]
    for name, mode in inside:
        path = root + name.removeprefix(PLACE)
        os.makedirs(path, exist_ok=True)
        os.chmod(path, mode)
    for name, target in LINKS:
        if name.startswith(f"{PLACE}/"):
            with suppress(FileExistsError):
                os.symlink(target, root + name.removeprefix(PLACE))
    own = f"{root}/{STATE}"
    os.makedirs(own, exist_ok=True)
    os.chmod(own, 0o700)


def _find(wanted: Search) -> str:
    """The device's name. Raises NotThere."""
    modules = Modules() if wanted.drivers else None
    deadline = time.monotonic() + wanted.patience
    looks = 0
    while True:
        loaded: list[str] = []
        if modules is not None:
            loaded, _ = modules.for_aliases(filter(is_storage, find_modaliases()))
        devices = block_devices(_BLOCK)
        for device in devices:
            if matches(device, wanted.wanted):
                return device["DEVNAME"]
        looks += 1
        if time.monotonic() >= deadline and (not loaded or looks >= _LOOKS):
            break
        if not loaded:
            time.sleep(_POLL)
    if not wanted.wanted:
        raise NotThere
    names = " ".join(device["DEVNAME"] for device in devices if _may_be(device)) or "no disk at all"
    raise NotThere(
        f"{wanted.wanted}: not found in {wanted.patience:g} s; there is {names}; set aurae.data=. "
        "The node keeps nothing across boots"
    )
