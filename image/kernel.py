"""Which kernel modules the image carries, and which of them the initramfs."""

import lzma
import shutil
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

# What the root needs to be found and mounted: the initramfs has these and what they depend on.
INITRAMFS: Final = (
    *("erofs", "crc32c_generic", "virtio_blk", "virtio_scsi", "virtio_mmio", "sd_mod"),
    *("nvme", "ahci", "ata_piix", "usb-storage", "uas", "xhci-pci", "ehci-pci", "mmc_block"),
    *("sdhci-pci", "sdhci-acpi", "vmw_pvscsi", "hv_storvsc", "xen-blkfront", "megaraid_sas"),
    *("mpt3sas", "smartpqi", "sr_mod"),
)

# What the initramfs loads without looking at the hardware, in this order. libcrc32c asks for crc32c
# by name when it is loaded, so no list of dependencies has it.
FIRST: Final = ("crc32c_generic", "erofs")

# Loaded at nearly every boot of a virtual machine, so kept as plain files, which load faster.
PLAIN: Final = (
    *("erofs", "crc32c_generic", "crc32c-intel", "virtio_blk", "virtio_net", "qemu_fw_cfg"),
    *("button", "evdev"),
)

# The node's hardware and what its workloads ask of the kernel. Names as in modules.dep, with `*`.
ROOT: Final = (
    *INITRAMFS,
    # file systems and block devices
    *(
        "ext4",
        "xfs",
        "btrfs",
        "vfat",
        "nls_ascii",
        "nls_cp437",
        "isofs",
        "udf",
        "overlay",
        "squashfs",
        "fuse",
        "virtiofs",
        "nfs",
    ),
    *("nfsv4", "9p", "9pnet_virtio", "loop", "nbd", "zram", "dm-mod", "dm-verity", "dm-crypt"),
    *("dm-snapshot", "dm-thin-pool", "raid0", "raid1", "raid10", "nvme-tcp", "iscsi_tcp"),
    *("nls_utf8", "nls_iso8859-1", "autofs4", "quota_v2", "configfs"),
    # virtual machines: as one, and as their host
    *("virtio_net", "virtio_console", "virtio_balloon", "virtio-rng", "virtio_input", "virtio_mem"),
    *(
        "virtio_pmem",
        "vmw_vsock_virtio_transport",
        "vhost",
        "vhost_net",
        "vhost_vsock",
        "vhost_scsi",
    ),
    *("kvm", "kvm-intel", "kvm-amd", "tun", "tap", "vfio-pci", "vfio_iommu_type1", "qemu_fw_cfg"),
    *("hv_netvsc", "hv_utils", "hv_balloon", "xen-netfront", "vmxnet3", "gve", "ena", "vmgenid"),
    # network hardware
    *("8139cp", "8139too", "e1000", "e1000e", "igb", "igbvf", "igc", "ixgbe", "ixgbevf", "i40e"),
    *("iavf", "ice", "r8169", "realtek", "tg3", "bnx2", "bnx2x", "bnxt_en", "mlx4_core", "mlx4_en"),
    *("mlx5_core", "sfc", "atlantic", "be2net", "cxgb4", "qede", "ionic", "alx", "atl1c", "sky2"),
    *("forcedeth", "r8152", "ax88179_178a", "asix", "cdc_ether", "cdc_ncm", "smsc95xx", "broadcom"),
    *("marvell", "mdio", "mii"),
    # what a network is made of
    *(
        "veth",
        "bridge",
        "br_netfilter",
        "macvlan",
        "macvtap",
        "ipvlan",
        "vxlan",
        "geneve",
        "bonding",
    ),
    *(
        "8021q",
        "dummy",
        "ifb",
        "vrf",
        "wireguard",
        "vcan",
        "nlmon",
        "team*",
        "ip_gre",
        "ipip",
        "sit",
    ),
    *("nf_tables", "nft_*", "nf_conntrack*", "nf_nat*", "nf_log*", "nf_flow_table*", "nf_defrag*"),
    *(
        "nf_reject*",
        "nf_tproxy*",
        "nf_socket*",
        "nf_dup*",
        "x_tables",
        "xt_*",
        "ip_tables",
        "ip6_tables",
    ),
    *("iptable_*", "ip6table_*", "ipt_*", "ip6t_*", "ip_set*", "ip_vs*", "nfnetlink*", "sch_*"),
    *("cls_*", "act_*", "em_*", "tcp_bbr", "tcp_diag", "udp_diag", "inet_diag", "unix_diag", "tls"),
    *("af_packet_diag", "netlink_diag", "sctp"),
    # the board: buttons, clocks, watchdogs, sensors, keyboards, random numbers
    *("button", "evdev", "atkbd", "i8042", "psmouse", "ac", "battery", "fan", "thermal", "video"),
    *("rtc-cmos", "iTCO_wdt", "i6300esb", "sp5100_tco", "softdog", "wdat_wdt", "ipmi_si"),
    *("ipmi_devintf", "ipmi_watchdog", "tpm_tis", "tpm_crb", "coretemp", "k10temp", "intel_rapl*"),
    *("acpi_power_meter", "efivarfs", "efi-pstore", "pstore*", "ehci-hcd", "ohci-pci", "uhci-hcd"),
    *("usbserial", "ftdi_sio", "pl2303", "cp210x", "i2c-i801", "i2c-piix4", "lpc_ich", "bochs"),
    *(
        "hid-generic",
        "usbhid",
        "virtio-gpu",
        "msr",
        "cpuid",
        "intel-rng",
        "amd-rng",
        "dmi-sysfs",
        "acpi-cpufreq",
    ),
    # cryptography that file systems, dm-crypt, WireGuard and IPsec ask for by name
    *("aesni-intel", "ghash-clmulni-intel", "sha256-ssse3", "sha512-ssse3", "sha1-ssse3", "xts"),
    *("crc32c_generic", "crc32-pclmul", "crct10dif-pclmul", "crc32c-intel"),
    *(
        "algif_hash",
        "algif_skcipher",
        "algif_aead",
        "af_alg",
        "authenc",
        "essiv",
        "ccm",
        "gcm",
        "cmac",
    ),
    *("esp4", "esp6", "xfrm_user", "xfrm_algo", "af_key"),
)

# depmod's text files; the binary ones beside them are for libkmod, which the image has not.
_TEXTS: Final = ("modules.alias", "modules.builtin", "modules.builtin.modinfo", "modules.dep")


def version(base: Path) -> str:
    """The kernel's release, as `uname -r` gives it."""
    [folder] = (path for path in (base / "usr/lib/modules").iterdir() if path.is_dir())
    return folder.name


def dependencies(text: str) -> dict[str, tuple[str, ...]]:
    """modules.dep: what each module file needs, by path below the modules' folder."""
    table = {}
    for line in text.splitlines():
        path, _, needs = line.partition(":")
        table[path] = tuple(needs.split())
    return table


def name_of(path: str) -> str:
    """`kernel/fs/erofs/erofs.ko.xz` is `erofs`; in names, `-` and `_` are one."""
    return path.rpartition("/")[2].partition(".ko")[0].replace("-", "_")


def select(table: Mapping[str, tuple[str, ...]], patterns: Iterable[str]) -> list[str]:
    """The files of the modules that match, and of all they need, sorted.

    A pattern that matches nothing is not an error: the next kernel may have it built in.
    """
    wanted = [pattern.replace("-", "_") for pattern in patterns]
    exact = {pattern for pattern in wanted if "*" not in pattern}
    globs = [pattern for pattern in wanted if "*" in pattern]
    chosen: set[str] = set()
    for path, needs in table.items():
        name = name_of(path)
        if name in exact or any(fnmatchcase(name, pattern) for pattern in globs):
            chosen.update((path, *needs))
    return sorted(chosen)


def copy(modules: Path, target: Path, patterns: Iterable[str]) -> None:
    """Copy a selection of modules. `depmod` must be run on the result."""
    table = dependencies((modules / "modules.dep").read_text())
    plain = set(select(table, PLAIN))
    for path in select(table, patterns):
        destination = target / path
        destination.parent.mkdir(parents=True, exist_ok=True)
        if path in plain and path.endswith(".xz"):
            destination.with_suffix("").write_bytes(lzma.decompress((modules / path).read_bytes()))
        else:
            shutil.copyfile(modules / path, destination)
    for name in ("modules.order", "modules.builtin", "modules.builtin.modinfo"):
        shutil.copyfile(modules / name, target / name)


def write_root_list(folder: Path) -> None:
    """After depmod: write `modules.root`, the files of `FIRST` and their needs, in load order."""
    table = dependencies((folder / "modules.dep").read_text())
    files: dict[str, None] = {}
    for name in FIRST:
        for path in (path for path in table if name_of(path) == name):
            # modules.dep names first what is needed last.
            files.update(dict.fromkeys((*reversed(table[path]), path)))
    (folder / "modules.root").write_text("".join(f"{path}\n" for path in files))


def keep_text_lists(target: Path) -> None:
    """After depmod: drop what only libkmod reads."""
    for path in target.glob("modules.*"):
        if path.name not in (*_TEXTS, "modules.softdep", "modules.devname"):
            path.unlink()
