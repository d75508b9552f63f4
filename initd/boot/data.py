"""The data disk: a file system that becomes /var, where the node keeps what outlives a boot.

It is looked for, made, mounted and made ready in a copy of this process: a disk may answer late, or
never. What the copy has mounted aside is then moved to its place, at once and as a whole. What is
only needed for a disk that has to be made, grown or opened is imported, and run, only then.
"""

import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final

from initd.boot import copies
from initd.boot.credentials import FOLDER as CREDENTIALS
from initd.boot.disks import NotThere, block_devices, content
from initd.boot.modules import Modules, find_modaliases
from initd.boot.mounts import FOLDERS, LINKS
from initd.boot.options import DataOptions
from initd.boot.plan import Done
from initd.linux.mount import MountFlag, mount
from initd.values import NamedTuple

NAME: Final = "aurae-data"
PLACE: Final = "/var"
STATE: Final = "lib/aurae"
"""The node's own folder there."""

# Seconds that a disk may take to appear which the command line asks for, and then to be mounted:
# after a power cut that writes what its journal holds. And for each part of making one.
PATIENCE: Final = 30.0
MOUNTING: Final = 60.0
MAKING: Final = 300.0
_POLL: Final = 0.02
# What one look has brought forth may need drivers in turn.
_LOOKS: Final = 8

ASIDE: Final = "/run/aurae/data"
"""Where it is mounted until it is ready."""
BLOCK: Final = "/sys/class/block"
# No more to be found on these than on what they show.
_NO_DISKS: Final = ("ram", "loop", "zram", "pmem", "nbd", "fd", "dm-")
# Who has these says itself who it is: runtime.trust.files.
_IDENTITY: Final = ("aurae.node.crt", "aurae.node.key", "aurae.ca.crt")

# What a disk is reached by: mass storage, USB and SD controllers by their PCI class, and virtio.
_CLASSES: Final = ("bc01sc", "bc0Csc03", "bc08sc05")
_BUSES: Final = ("virtio:d00000002", "virtio:d00000008", "pci:v00001AF4")
_BUSES_OF_DISKS: Final = ("usb:", "scsi:", "mmc:", "vmbus:", "xen:vbd")

_WITHOUT: Final = "The node keeps nothing across boots"

Say = Callable[[str], None]


class Search(NamedTuple):
    """What to look for, how long, and whether drivers are loaded for it."""

    wanted: str
    """As in `aurae.data=`; empty: any that is named as ours."""
    patience: float
    drivers: bool


class Teller(NamedTuple):
    """How the copy is heard before it is done: what it does next, and what it goes on without."""

    say: Say
    warn: Say


def search(options: DataOptions, credentials: str = CREDENTIALS) -> Search | None:
    """What this boot looks for. None: nothing.

    Disks' drivers are loaded late, to not hold the API up. A node that was not told who it is may
    know from its disk, and has nothing else to serve.
    """
    if options.device == "off":
        return None
    if options.device:
        return Search(options.device, PATIENCE, drivers=True)
    given = any(os.path.exists(f"{credentials}/{name}") for name in _IDENTITY)
    return Search("", 0.0, drivers=not given)


def place(
    options: DataOptions,
    *,
    say: Say,
    unclaims: bool = False,
    folder: str = BLOCK,
    credentials: str = CREDENTIALS,
) -> Done:
    """Have the data disk at its place, if there is one or may be made. What fails is in `problems`;
    what takes its time is said before."""
    wanted = search(options, credentials)
    if wanted is None:
        return Done("off")
    if not wanted.drivers and not any(map(_may_be, block_devices(folder))):
        return Done("none")
    warnings: list[str] = []

    def prepare(teller: Teller) -> str:
        from initd.boot.preparation import Preparation

        return Preparation(wanted, options, credentials, teller).run(unclaims=unclaims)

    try:
        device = _in_copy(prepare, wanted.patience, Teller(say, warnings.append))
        mount(ASIDE, PLACE, "", MountFlag.MOVE)
    except NotThere as e:
        problems = (f"{e}. {_WITHOUT}",) if str(e) else ()
        return Done("none", (*warnings, *problems))
    except OSError as e:
        return Done("none", (*warnings, f"{PLACE}: {e.strerror}. {_WITHOUT}"))
    return Done(device, tuple(warnings))


def matches(device: Mapping[str, str], wanted: str, folder: str = "/dev") -> bool:
    """Whether a block device is what `aurae.data=` names. May block."""
    kind, _, value = wanted.partition("=")
    path = f"{folder}/{device['DEVNAME']}"
    match kind:
        case "":
            named = device.get("PARTNAME") == NAME
            return named or (_may_be(device) and content(path).label == NAME)
        case "PARTLABEL":
            return device.get("PARTNAME") == value
        case "LABEL":
            return _may_be(device) and content(path).label == value
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


def _in_copy(work: Callable[[Teller], str], patience: float, teller: Teller) -> str:
    """What `work` says, in a copy of this process. Raises NotThere with what it raised, and where
    it is not done in time."""
    copy = copies.start(lambda tell: _tell(work, tell))
    kind = text = ""
    try:
        for line in copies.lines(copy, patience + MOUNTING, MAKING):
            kind, _, text = line.partition(" ")
            if kind == "say":
                teller.say(text)
            elif kind == "warn":
                teller.warn(text)
    except TimeoutError:
        # And what it runs.
        with suppress(OSError), open(f"{copies.CGROUP}/cgroup.kill", "w") as kill:
            kill.write("1")
        raise NotThere("the disk does not answer") from None
    if kind == "found":
        return text
    raise NotThere(text if kind == "none" else "its search ended before it was done")


def _tell(work: Callable[[Teller], str], tell: copies.Tell) -> None:
    def line(kind: str, text: str) -> None:
        tell(f"{kind} {text}".replace("\n", " ") + "\n")

    try:
        line("found", work(Teller(lambda text: line("say", text), lambda text: line("warn", text))))
    except NotThere as e:
        line("none", str(e))
    except OSError as e:
        where = f"{e.filename}: " if e.filename else ""
        line("none", f"{where}{e.strerror}")


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


def find(wanted: Search) -> dict[str, str]:
    """The device's properties. Raises NotThere."""
    modules = Modules() if wanted.drivers else None
    deadline = time.monotonic() + wanted.patience
    looks = 0
    while True:
        loaded: list[str] = []
        if modules is not None:
            loaded, _ = modules.for_aliases(filter(is_storage, find_modaliases()))
        devices = block_devices(BLOCK)
        for device in devices:
            if matches(device, wanted.wanted):
                return device
        looks += 1
        if time.monotonic() >= deadline and (not loaded or looks >= _LOOKS):
            break
        if not loaded:
            time.sleep(_POLL)
    if not wanted.wanted:
        raise NotThere
    names = " ".join(device["DEVNAME"] for device in devices if _may_be(device)) or "no disk at all"
    raise NotThere(
        f"{wanted.wanted}: not found in {wanted.patience:g} s; there is {names}; set aurae.data="
    )
