"""What a virtual machine is made of, and the QEMU command line that says so.

Values only: `image.qemu` starts what is described here.
"""

import base64
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from image.acceleration import Acceleration

API_PORT: Final = 8080
QEMU: Final = "qemu-system-x86_64"

# Where Debian, Fedora, Arch and SUSE keep OVMF: firmware and the template of its variables.
OVMF: Final = (
    (Path("/usr/share/OVMF/OVMF_CODE_4M.fd"), Path("/usr/share/OVMF/OVMF_VARS_4M.fd")),
    (Path("/usr/share/edk2/ovmf/OVMF_CODE.fd"), Path("/usr/share/edk2/ovmf/OVMF_VARS.fd")),
    (Path("/usr/share/edk2/x64/OVMF_CODE.4m.fd"), Path("/usr/share/edk2/x64/OVMF_VARS.4m.fd")),
    (Path("/usr/share/qemu/ovmf-x86_64-code.bin"), Path("/usr/share/qemu/ovmf-x86_64-vars.bin")),
)


class NoFirmwareError(Exception):
    """This host has no OVMF."""


class Channel(StrEnum):
    """How a credential reaches the node."""

    SMBIOS = "smbios"
    FW_CFG = "fw_cfg"
    INITRAMFS = "initramfs"


@dataclass(frozen=True, slots=True)
class Credential:
    """A named secret for the node. It goes through a file of mode 0600, never by an argument."""

    name: str
    content: bytes
    channel: Channel = Channel.SMBIOS

    def smbios_string(self) -> bytes:
        """The type 11 string that systemd's credential documentation defines."""
        name = f"io.systemd.credential.binary:{self.name}="
        return name.encode() + base64.b64encode(self.content)


@dataclass(frozen=True, slots=True, kw_only=True)
class Nic:
    """A network card on a user mode network of its own (DHCP, DNS, router advertisements).

    `forwarded` is a TCP port of the guest that a free port of 127.0.0.1 leads to; `address` is
    the guest's address there if it is not the one DHCP gives. Cards with the same `hub` are on one
    cable instead, and nobody else is.
    """

    forwarded: int | None = None
    address: str = ""
    mac: str = ""
    model: str = "virtio-net-pci"
    tap: int | None = None
    """Descriptor of an open tap device, whose network it is on instead."""
    hub: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Drive:
    """A virtio disk. What the guest writes is dropped at the end unless it is `kept`, and refused
    if it is `read_only`."""

    file: Path
    kept: bool = False
    read_only: bool = False
    sector: int = 512
    """Bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelBoot:
    """QEMU loads the kernel. The archives are laid one over the other in this order.

    `root` is an erofs image that the guest finds as persistent memory, so that nothing is unpacked
    and no memory of the guest holds it; None where an archive has it, or a drive.
    """

    kernel: Path
    initrds: tuple[Path, ...] = ()
    root: Path | None = None


# The kernel tries out its ciphers at each boot: a fifth of its start where it is emulated. A disk
# of ours has the first too. The other two do nothing else, and one waits until the initramfs is
# unpacked; what a real machine would miss of them is not known.
NO_SELF_TESTS: Final = (
    "cryptomgr.notests",
    "initcall_blacklist=jent_mod_init,crypto_kdf108_init",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class FirmwareBoot:
    """OVMF boots the disk, from variables of its own."""

    disk: Drive


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkBoot:
    """The first network card boots: by the iPXE in its ROM, or with `uefi` by OVMF's HTTP boot.

    OVMF is slow at that where QEMU emulates more than one processor: 0.1 MB/s instead of 10."""

    uefi: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """A machine that is not yet running."""

    boot: KernelBoot | FirmwareBoot | NetworkBoot
    cmdline: tuple[str, ...] = ()
    memory: int = 1024
    """MiB"""
    cpus: int = 2
    credentials: tuple[Credential, ...] = ()
    smbios: tuple[str, ...] = ()
    """Further SMBIOS type 11 strings, as they are."""
    nics: tuple[Nic, ...] = (Nic(forwarded=API_PORT),)
    drives: tuple[Drive, ...] = ()
    devices: tuple[str, ...] = ()
    """Further devices, as QEMU's -device names them."""
    tpm: Path | None = None
    """The control socket of an emulated TPM 2.0 (swtpm)."""
    console: str = "ttyS0"
    """The kernel's console: `null` is none."""
    reboots: bool = False
    """A reset boots it again, instead of ending QEMU."""
    date: str = ""
    """Of its battery-backed clock at first, such as 2020-01-01; the host's time by default."""

    def kernel_cmdline(self) -> str:
        # The kernel's own lines take it a tenth of its start where they are shown.
        # panic=-1 resets at once, so that a panic ends QEMU and is not waited for. A tmpfs, which
        # the kernel takes otherwise, holds half of the memory only: too little for the root.
        root = ("root=/dev/pmem0",) if _root(self) else ()
        console = f"console={self.console}"
        words = (console, "panic=-1", "loglevel=4", "rootfstype=ramfs", *NO_SELF_TESTS, *root)
        return " ".join((*words, *self.cmdline))


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """The files of one running machine; the sockets are made by who starts it."""

    folder: Path

    @property
    def console(self) -> Path:
        return self.folder / "console.log"

    @property
    def log(self) -> Path:
        return self.folder / "qemu.log"

    @property
    def command(self) -> Path:
        return self.folder / "qemu.command"

    @property
    def pid(self) -> Path:
        return self.folder / "qemu.pid"

    @property
    def initrd(self) -> Path:
        return self.folder / "initrd"

    @property
    def variables(self) -> Path:
        return self.folder / "ovmf-variables.fd"

    def smbios(self, number: int) -> Path:
        return self.folder / f"smbios-{number}"

    def fw_cfg(self, name: str) -> Path:
        return self.folder / f"fw_cfg-{name}"


def smbios_strings(machine: Machine) -> tuple[bytes, ...]:
    """All type 11 strings of the machine, in their order."""
    strings = [text.encode() for text in machine.smbios]
    if has_firmware(machine) and machine.cmdline:
        # systemd-stub adds this to the command line of the unified kernel image.
        extra = " ".join(("panic=-1", *machine.cmdline))
        strings.append(f"io.systemd.stub.kernel-cmdline-extra={extra}".encode())
    strings += [c.smbios_string() for c in machine.credentials if c.channel is Channel.SMBIOS]
    return tuple(strings)


def command(
    machine: Machine, files: Files, acceleration: Acceleration, *, monitor: int, console: int
) -> list[str]:
    """The command line. `monitor` and `console` are descriptors of listening Unix sockets.

    The machine is paused at first, so that its console misses no byte and nothing is decided
    before the caller is there.
    """
    return [
        QEMU,
        *("-nodefaults", "-no-user-config", "-display", "none", "-S"),
        *_memory(machine),
        *acceleration.arguments(),
        *("-smp", str(machine.cpus)),
        *("-chardev", f"socket,id=monitor,fd={monitor},server=on,wait=off"),
        *("-mon", "chardev=monitor,mode=control"),
        *("-chardev", _console(console, files)),
        *("-serial", "chardev:console"),
        *("-device", "virtio-rng-pci"),
        *_boot(machine, files),
        *_joined(
            _network(number, nic, options=_boot_options(machine, number))
            for number, nic in enumerate(machine.nics)
        ),
        *_joined(_drive(number, drive) for number, drive in enumerate(machine.drives, 1)),
        *_joined(
            ["-smbios", f"type=11,path={_escaped(files.smbios(number))}"]
            for number in range(len(smbios_strings(machine)))
        ),
        *_joined(
            ["-fw_cfg", _fw_cfg(credential.name, files)]
            for credential in machine.credentials
            if credential.channel is Channel.FW_CFG
        ),
        *_tpm(machine.tpm),
        *_joined(["-device", device] for device in machine.devices),
        *([] if machine.reboots else ["-no-reboot"]),
        *(["-rtc", f"base={machine.date}"] if machine.date else []),
    ]


def find_firmware() -> tuple[Path, Path]:
    """OVMF's code and the template of its variables. Raises `NoFirmwareError`."""
    for code, variables in OVMF:
        if code.exists() and variables.exists():
            return code, variables
    raise NoFirmwareError("OVMF: not on this host; install ovmf (Debian) or edk2-ovmf")


def _root(machine: Machine) -> Path | None:
    return machine.boot.root if isinstance(machine.boot, KernelBoot) else None


def _memory(machine: Machine) -> list[str]:
    size = f"{machine.memory}M"
    if (root := _root(machine)) is None:
        return ["-machine", "q35", "-m", size]
    length = root.stat().st_size
    most = machine.memory + -(-length // (1 << 30)) * 1024
    backend = f"memory-backend-file,id=root,share=off,readonly=on,size={length}"
    return [
        *("-machine", "q35", "-m", f"{size},slots=1,maxmem={most}M"),
        *("-object", f"{backend},mem-path={_escaped(root)}"),
        *("-device", "virtio-pmem-pci,memdev=root"),
    ]


def _console(descriptor: int, files: Files) -> str:
    log = _escaped(files.console)
    return f"socket,id=console,fd={descriptor},server=on,wait=off,logfile={log}"


def _fw_cfg(name: str, files: Files) -> str:
    return f"name=opt/io.systemd.credentials/{name},file={_escaped(files.fw_cfg(name))}"


def has_firmware(machine: Machine) -> bool:
    """Whether OVMF is at work."""
    match machine.boot:
        case FirmwareBoot():
            return True
        case NetworkBoot(uefi=uefi):
            return uefi
        case KernelBoot():
            return False


# Else OVMF's PXE, by TFTP, goes before its HTTP boot.
_NO_PXE: Final = tuple(
    argument
    for version in (4, 6)
    for argument in ("-fw_cfg", f"name=opt/org.tianocore/IPv{version}PXESupport,string=n")
)


def _boot(machine: Machine, files: Files) -> list[str]:
    if has_firmware(machine):
        code, _ = find_firmware()
        firmware = f"if=pflash,format=raw,readonly=on,file={_escaped(code)}"
        variables = f"if=pflash,format=raw,file={_escaped(files.variables)}"
        pflash = ["-drive", firmware, "-drive", variables]
        if isinstance(machine.boot, FirmwareBoot):
            return [*pflash, *_drive(0, machine.boot.disk)]
        return [*pflash, *_NO_PXE]
    if not isinstance(machine.boot, KernelBoot):
        return []
    initrd = ["-initrd", str(files.initrd)] if _has_initrd(machine) else []
    return ["-kernel", str(machine.boot.kernel), *initrd, "-append", machine.kernel_cmdline()]


def _has_initrd(machine: Machine) -> bool:
    by_file = any(c.channel is Channel.INITRAMFS for c in machine.credentials)
    return isinstance(machine.boot, KernelBoot) and (bool(machine.boot.initrds) or by_file)


def _boot_options(machine: Machine, number: int) -> str:
    """Of a card where the network boots. OVMF would leave that to an iPXE in any card's ROM."""
    if not isinstance(machine.boot, NetworkBoot):
        return ""
    order = ",bootindex=0" if number == 0 else ""
    return f"{order},romfile=" if machine.boot.uefi else order


def _network(number: int, nic: Nic, *, options: str) -> list[str]:
    mac = f",mac={nic.mac}" if nic.mac else ""
    device = f"{nic.model},netdev=nic{number}{mac}{options}"
    if nic.tap is not None:
        return ["-netdev", f"tap,id=nic{number},fd={nic.tap}", "-device", device]
    netdev = f"user,id=nic{number}"
    if nic.hub is not None:
        netdev = f"hubport,id=nic{number},hubid={nic.hub}"
    if nic.forwarded is not None:
        # Port 0: the kernel chooses a free one, and the monitor tells which.
        netdev += f",hostfwd=tcp:127.0.0.1:0-{nic.address}:{nic.forwarded}"
    return ["-netdev", netdev, "-device", device]


def _drive(number: int, drive: Drive) -> list[str]:
    kept = ",readonly=on" if drive.read_only else "" if drive.kept else ",snapshot=on"
    backend = f"if=none,id=drive{number},format=raw,file={_escaped(drive.file)}{kept}"
    sectors = f"logical_block_size={drive.sector},physical_block_size={drive.sector}"
    return ["-drive", backend, "-device", f"virtio-blk-pci,drive=drive{number},{sectors}"]


def _tpm(socket: Path | None) -> list[str]:
    if socket is None:
        return []
    return [
        *("-chardev", f"socket,id=tpm,path={_escaped(socket)}"),
        *("-tpmdev", "emulator,id=tpm,chardev=tpm", "-device", "tpm-crb,tpmdev=tpm"),
    ]


def _escaped(path: Path) -> str:
    """In QEMU's option lists a comma is written twice."""
    return str(path).replace(",", ",,")


def _joined(groups: Iterable[list[str]]) -> list[str]:
    return [argument for group in groups for argument in group]
