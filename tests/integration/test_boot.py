"""Machines of every kind boot, and serve; what is wrong with them is said on the console."""

from collections.abc import Callable, Sequence

import pytest
from aurae.cells.v0 import cells_pb2 as pb

from image.machine import API_PORT, Channel, Credential, Nic
from testkit.machines import Machine
from testkit.trust import TrustDomain

Boot = Callable[..., Machine]
CREDENTIALS = "/run/credentials/@system"
BOOT_SECONDS = 180


def without(credentials: Sequence[Credential], name: str) -> list[Credential]:
    return [credential for credential in credentials if credential.name != name]


@pytest.mark.parametrize("channel", list(Channel))
def test_credentials_arrive_by_each_channel(
    boot: Boot, trust_domain: TrustDomain, channel: Channel
) -> None:
    machine = boot(credentials=trust_domain.credentials(channel))
    modes = machine.system.read(f"stat -c '%a %u %n' {CREDENTIALS} {CREDENTIALS}/*").splitlines()
    names = ("ca.crt", "node-ca.crt", "node-ca.key", "node.crt", "node.key")
    assert modes == [f"700 0 {CREDENTIALS}", *(f"400 0 {CREDENTIALS}/aurae.{n}" for n in names)]
    machine.poweroff()


def test_credentials_arrive_as_text_too_and_smbios_goes_before_the_others(
    boot: Boot, trust_domain: TrustDomain
) -> None:
    machine = boot(
        smbios=("io.systemd.credential:greeting=from smbios",),
        credentials=(
            *trust_domain.credentials(),
            Credential("greeting", b"from fw_cfg", Channel.FW_CFG),
            Credential("second", b"from fw_cfg", Channel.FW_CFG),
            Credential("second", b"from a file", Channel.INITRAMFS),
            Credential("third", b"\0\1 from a file", Channel.INITRAMFS),
        ),
    )
    assert machine.system.read(f"cat {CREDENTIALS}/greeting").strip() == "from smbios"
    assert machine.system.read(f"cat {CREDENTIALS}/second").strip() == "from fw_cfg"
    assert machine.system.read(f"cat {CREDENTIALS}/third").strip() == "\0\1 from a file"


@pytest.mark.parametrize("name", ["aurae.ca.crt", "aurae.node.crt", "aurae.node.key"])
def test_a_truncated_credential_keeps_the_api_off_tcp_and_is_named(
    boot: Boot, trust_domain: TrustDomain, name: str
) -> None:
    whole = trust_domain.credentials()
    (cut,) = (c for c in whole if c.name == name)
    half = Credential(name, cut.content[: len(cut.content) // 2])
    machine = boot(credentials=[*without(whole, name), half], wait=False)
    machine.console.wait_for(rf"credential {name}: .*\n", BOOT_SECONDS)
    said = machine.console.wait_for("runtime ready: .*\n", BOOT_SECONDS)
    assert "8080" not in said[0]
    machine.poweroff()


def test_without_credentials_the_api_stays_off_tcp(boot: Boot) -> None:
    machine = boot(credentials=(), wait=False)
    said = machine.console.wait_for("runtime ready: .*\n", BOOT_SECONDS)
    assert "8080" not in said[0]
    assert "aurae.sock" in said[0]
    machine.poweroff()


def test_without_any_network_card_the_api_is_on_its_socket(boot: Boot) -> None:
    machine = boot(nics=(), wait=False)
    said = machine.console.wait_for("runtime ready: .*\n", BOOT_SECONDS)
    assert "aurae.sock" in said[0]
    machine.poweroff()


# From the network the root is in memory, too, and for a moment twice: as it came, and unpacked.
@pytest.mark.parametrize(("memory", "netboot"), [(256, False), (320, True)])
def test_little_memory_is_enough(boot: Boot, memory: int, netboot: bool) -> None:
    machine = boot(memory=memory, netboot=netboot)
    with machine.cell("small", memory=pb.MemoryController(max=32 << 20)) as cell:
        assert cell.read("echo fine") == "fine\n"
        available = machine.system.read("grep MemAvailable /proc/meminfo").split()[1]
    assert int(available) > 32 * 1024
    machine.poweroff()


def test_one_processor_is_enough(boot: Boot) -> None:
    machine = boot(cpus=1)
    assert machine.system.read("nproc").strip() == "1"
    machine.poweroff()


def test_pid_1_is_the_interpreter_of_the_initramfs_and_all_import_from_packs(
    machine: Machine,
) -> None:
    # A second start of Python would be the root's.
    devices = machine.system.read("stat -L -c %d /proc/1/exe /usr/bin/python3").split()
    assert devices[0] != devices[1]
    for package in ("", "initd/", "runtime/", "aurae/"):
        machine.system.read(f"test -s /usr/lib/python3/dist-packages/{package}modules.pack")
    told = machine.system.read(
        'python3 -ISc "$1"',
        "import sys; sys.path.append('/usr/lib/python3/dist-packages')\n"
        "from initd import pack; pack.install()\n"
        "import asyncio, grpc, runtime.scope, initd.loop\n"
        "for name in ('asyncio', 'grpc', 'runtime.scope', 'initd.loop'):\n"
        "    print(type(sys.modules[name].__spec__.loader).__name__)",
    )
    assert told.split() == ["Packs"] * 4


def test_ps_names_what_is_of_auraed(machine: Machine) -> None:
    with machine.cell("named", isolate_process=True) as cell:
        cell.start("sleeps", "exec sleep 1000")
        shown = machine.system.read("ps -o args").splitlines()
    for name in ("auraed", "auraed-runtime", "auraed-network", "cell-init"):
        assert name in shown
    assert not [line for line in shown if "python3" in line]
    policies = machine.system.read(
        "for p in 1 $(cat /sys/fs/cgroup/auraed/*/cgroup.procs);"
        " do grep ^policy /proc/$p/sched; done"
    ).split()
    assert set(policies) == {"policy", ":", "0"}, "nothing of ours stays in a hurry"


def test_there_is_no_shell_on_the_console(machine: Machine) -> None:
    assert "DEBUG IMAGE" not in machine.console.text
    assert machine.system.run("test -e /etc/aurae/debug").exit_code != 0


def test_the_root_is_read_only_and_holds_no_secret(machine: Machine) -> None:
    assert machine.system.run("touch /etc/x || touch /usr/x").exit_code != 0
    small = "find / -xdev -type f -size -16k ! -name '*.pyc'"
    found = machine.system.read(f"{small} -exec grep -lF 'PRIVATE KEY-----' {{}} +; true")
    assert found == ""
    for program in ("systemd", "dpkg", "perl", "gcc", "apt"):
        assert machine.system.run(f"which {program}").exit_code != 0
    for program in ("sh", "sleep", "echo", "ls", "cat", "ip", "ps", "hostname"):
        assert machine.system.run(f"which {program}").exit_code == 0


class TestNetwork:
    """What the kernel command line says of the network, with QEMU's networks."""

    def test_dhcp_and_router_advertisements_are_the_default(self, boot: Boot) -> None:
        machine = boot(nics=(Nic(forwarded=API_PORT), Nic()))
        for link in ("eth0", "eth1"):
            # The API answers once it is reached by one of them.
            look = f"ip -4 -o addr show {link} | grep -q ' 10.0.2.15/24 '"
            machine.system.read(f"until {look}; do sleep 0.2; done")
        six = "while ! ip -6 -o addr show eth0 | grep -q fec0; do sleep 0.2; done"
        machine.system.read(six)
        assert "default via 10.0.2.2" in machine.system.read("ip route")
        assert "10.0.2.3" in machine.system.read("cat /etc/resolv.conf")
        assert "127.0.0.1/8" in machine.system.read("ip -4 -o addr show lo")

    def test_a_static_address(self, boot: Boot) -> None:
        ip = "ip=10.0.2.77::10.0.2.2:255.255.255.0:fixed:eth0:off:10.0.2.3"
        machine = boot(cmdline=(ip,), nics=(Nic(forwarded=API_PORT, address="10.0.2.77"),))
        addresses = machine.system.read("ip -4 -o addr show eth0")
        assert " 10.0.2.77/24 " in addresses
        assert "10.0.2.15" not in addresses
        assert "default via 10.0.2.2" in machine.system.read("ip route")
        assert "10.0.2.3" in machine.system.read("cat /etc/resolv.conf")
        assert machine.system.read("hostname").strip() == "fixed"

    def test_the_kernel_command_line_sets_host_name_sysctls_and_port(self, boot: Boot) -> None:
        machine = boot(
            cmdline=(
                "aurae.hostname=named",
                "aurae.sysctl.vm.swappiness=7",
                "aurae.listen=0.0.0.0:9090",
                "aurae.log=debug",
            ),
            nics=(Nic(forwarded=9090),),
        )
        assert machine.system.read("hostname").strip() == "named"
        assert machine.system.read("cat /proc/sys/vm/swappiness").strip() == "7"
