"""The node's configuration: which channel goes before which, apply, and trials that end."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Final

import grpc
import pytest
from aurae.node.v0 import config_pb2 as pb
from aurae.node.v0 import node_pb2
from google.protobuf.duration_pb2 import Duration

from image.console import LostError
from image.cpio import Archive
from image.machine import Channel, Credential, Drive
from testkit.machines import Machine, Machines
from testkit.refusals import refused
from tests.integration import fat
from tests.integration.broken_networks import CUT_OFF, REFUSED
from tests.integration.disks import ext4_disk

Boot = Callable[..., Machine]

# With AURAE_SOAK=1 all of them.
SOAK: Final = bool(os.environ.get("AURAE_SOAK"))
SAMPLE: Final = 20 if SOAK else 3
TRIAL: Final = 5
ANSWER: Final = 20.0
# Seconds until a machine that went back must answer: its links come up anew.
BACK: Final = 120.0
DISK: Final = "aurae.data=LABEL=aurae-data"
NAME: Final = "aurae.config.toml"

# In the order in which they count. Each gives the sysctl in its own place, and those of all before
# it, which counts for nothing.
ORDER: Final = ("cmdline", "smbios", "fw_cfg", "initramfs", "esp", "disk", "stored")
SYSCTLS: Final = (
    "vm.swappiness",
    "vm.dirty_expire_centisecs",
    "vm.vfs_cache_pressure",
    "vm.stat_interval",
    "vm.dirty_writeback_centisecs",
    "kernel.sem_next_id",
    "kernel.msg_next_id",
)


def value(channel: str) -> int:
    return 60 + ORDER.index(channel)


def document(channel: str) -> str:
    names = SYSCTLS[: ORDER.index(channel) + 1]
    return "[sysctls]\n" + "".join(f'"{name}" = {value(channel)}\n' for name in names)


def identity(machines: Machines) -> str:
    """Who the node is, in the place of credentials."""
    given = {one.name: one.content.decode() for one in machines.trust.credentials()}
    names = {"aurae.node.crt": "certificate", "aurae.node.key": "key", "aurae.ca.crt": "bundle"}
    texts = (f'{key} = """{given[name]}"""\n' for name, key in names.items())
    return "[identity]\n" + "".join(texts)


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    return data_disk(tmp_path)


def data_disk(folder: Path, stored: str = "") -> Path:
    """A data disk, on which a document may be stored already."""
    source = folder / "data"
    (source / "lib/aurae").mkdir(parents=True)
    if stored:
        (source / "lib/aurae/config.toml").write_text(stored)
    return ext4_disk(folder / "data.img", source)


def aer(machine: Machine, *words: str, text: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "aer", "--config", str(machine.config_file), *words]
    return subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=120, input=text
    )


def get(machine: Machine) -> pb.ConfigServiceGetResponse:
    return machine.api.config.Get(pb.ConfigServiceGetRequest())


def apply(machine: Machine, text: str, seconds: int = 0) -> pb.ConfigServiceApplyResponse:
    request = pb.ConfigServiceApplyRequest(document=text)
    if seconds:
        request.trial.CopyFrom(Duration(seconds=seconds))
    return machine.api.config.Apply(request, timeout=max(ANSWER, seconds))


def settings(machine: Machine) -> dict[str, tuple[str, str]]:
    return {one.key: (one.value, one.origin) for one in get(machine).settings}


def sysctl(machine: Machine, name: str) -> int:
    return int(machine.system.read(f"cat /proc/sys/{name.replace('.', '/')}"))


def back(machine: Machine) -> pb.ConfigServiceGetResponse:
    """What it answers once nothing is on trial any more, on the address that it had."""
    deadline = time.monotonic() + BACK
    while True:
        machine.check()
        machine.reconnect()
        try:
            answer = machine.api.config.Get(pb.ConfigServiceGetRequest(), timeout=5)
        except grpc.RpcError as e:
            if time.monotonic() > deadline:
                raise LostError(f"does not answer after {BACK:g} s: {e}") from e
            continue
        if not answer.trial_revision:
            return answer
        assert time.monotonic() < deadline, f"is on trial after {BACK:g} s still"
        # Its answer says how long it takes.
        machine.qemu.wait_end(answer.remaining.ToMilliseconds() / 1000 + 0.5)


@pytest.fixture
def all_channels(machines: Machines, tmp_path: Path) -> Iterator[Machine]:
    """A machine that is configured by each channel that a direct boot has."""
    extra = tmp_path / "extra.cpio"
    with extra.open("wb") as file:
        archive = Archive(file)
        # As systemd-stub lays it down.
        for folder, text in (
            ("credentials", document("esp")),
            ("global_credentials", "hostname = 5"),
        ):
            archive.data(PurePosixPath(f"/.extra/{folder}/{NAME}.cred"), text.encode())
        encrypted = b"Whxqht+dQJax1aZeCGLxmgAAAAABAAAADAAAABAAAAA="
        archive.data(PurePosixPath("/.extra/global_credentials/aurae.crl.cred"), encrypted)
        archive.close()
    by_disk = fat.write(
        tmp_path / "config.img", "AURAECONFIG", "aurae.toml", document("disk").encode()
    )
    cidata = fat.write(
        tmp_path / "cidata.img", "CIDATA", "user-data", b"#aurae-config\nwatchdog = 9"
    )
    words = [f"aurae.sysctl.{SYSCTLS[0]}={value('cmdline')}"]
    with_extra = replace(machines, overlays=(*machines.overlays, extra))
    machine = with_extra.start(
        cmdline=(DISK, *words),
        credentials=(
            Credential(NAME, (document("smbios") + identity(machines)).encode(), Channel.SMBIOS),
            Credential(NAME, document("fw_cfg").encode(), Channel.FW_CFG),
            Credential(NAME, document("initramfs").encode(), Channel.INITRAMFS),
        ),
        drives=(
            Drive(file=data_disk(tmp_path, document("stored"))),
            Drive(file=cidata),
            Drive(file=by_disk),
        ),
    )
    yield machine
    machine.poweroff()
    with_extra.close(machine)


def test_each_channel_goes_before_the_next(all_channels: Machine) -> None:
    shown = settings(all_channels)
    assert {name: shown[f'sysctls."{name}"'] for name in SYSCTLS} == {
        name: (f'"{value(channel)}"' if channel == "cmdline" else str(value(channel)), channel)
        for name, channel in zip(SYSCTLS, ORDER, strict=True)
    }
    for name, channel in zip(SYSCTLS, ORDER, strict=True):
        assert sysctl(all_channels, name) == value(channel), name
    assert shown["watchdog"] == ("60", "default")
    said = aer(all_channels, "node", "config", "show", "--origin").stdout
    for name, origin in zip(
        SYSCTLS,
        (
            "kernel command line",
            "SMBIOS",
            "fw_cfg",
            "initramfs",
            "ESP",
            "configuration disk",
            "stored",
        ),
        strict=True,
    ):
        assert re.search(rf'^sysctls\."{re.escape(name)}"  +\S+  +{origin}$', said, re.MULTILINE)
    assert re.search(r"^identity\.key  +\(secret\)  +SMBIOS$", said, re.MULTILINE)
    log = all_channels.daemon_log()
    assert "ESP credential aurae.crl: is encrypted, and the node has no key for it" in log
    assert re.search(
        r"stored +\d+ ms  smbios fw_cfg initramfs esp disk stored /dev/vd\w aurae\.toml", log
    )


def test_a_document_is_applied_and_holds_after_a_reboot(boot: Boot, disk: Path) -> None:
    machine = boot(cmdline=(DISK, "aurae.log=info"), drives=(Drive(file=disk, kept=True),))
    text = (
        'hostname = "web7"\nlog-level = "debug"\n[sysctls]\n"vm.swappiness" = 7\n'
        '[[cells.cells]]\nname = "web"\n[[cells.executables]]\ncell_name = "web"\n'
        'executable = { name = "main", command = "exec sleep 1000" }\n'
    )
    checked = aer(machine, "node", "config", "validate", "-", text="hostnme = 'a'")
    assert (checked.returncode, checked.stdout) == (
        1,
        "hostnme: is not known; did you mean hostname?\n",
    )
    differs = aer(machine, "node", "config", "diff", "-", text=text)
    assert '+ hostname = "web7" (stored)' in differs.stdout
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "hostnme: is not known; did you mean hostname?"):
        apply(machine, "hostnme = 'a'")
    applied = aer(machine, "node", "config", "apply", "-", text=text)
    assert applied.returncode == 0, applied.stderr
    assert (
        "note: log-level: is hidden: cmdline has another value, which goes before" in applied.stdout
    )
    assert "note: cells: takes effect at the next boot" in applied.stdout
    assert machine.system.read("hostname") == "web7\n"
    assert sysctl(machine, "vm.swappiness") == 7
    machine.kill()

    again = boot(cmdline=(DISK,), drives=(Drive(file=disk, kept=True),))
    shown = settings(again)
    assert shown["hostname"] == ('"web7"', "stored")
    assert shown["log-level"] == ('"debug"', "stored")
    assert again.system.read("hostname") == "web7\n"
    assert sysctl(again, "vm.swappiness") == 7
    assert re.search(r"stored +\d+ ms  stored", again.daemon_log())
    again.console.wait_for(r"config\.boot\.json: 2 of 2 entries made", BACK)

    # In the middle of a trial the machine loses its power, or boots: it is what it was.
    apply(again, 'hostname = "other"', seconds=600)
    assert again.system.read("hostname") == "other\n"
    again.kill()
    last = boot(cmdline=(DISK,), drives=(Drive(file=disk, kept=True),))
    assert last.system.read("hostname") == "web7\n"
    assert not get(last).trial_revision
    assert settings(last)["hostname"] == ('"web7"', "stored")


@pytest.fixture(scope="module")
def lasting(machines: Machines, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A machine with a data disk, whose network is as QEMU's DHCP says."""
    disk = data_disk(tmp_path_factory.mktemp("lasting"))
    machine = machines.start(cmdline=(DISK,), drives=(Drive(file=disk, kept=True),))
    yield machine
    machine.check()
    machine.poweroff()
    machines.close(machine)


def test_a_trial_ends_though_the_runtime_and_pid_1_are_replaced(lasting: Machine) -> None:
    apply(lasting, 'hostname = "before"\n[sysctls]\n"vm.swappiness" = 33')
    # Time for both to start again.
    apply(lasting, 'hostname = "tried"\n[sysctls]\n"vm.swappiness" = 34', seconds=40)
    with suppress(grpc.RpcError):
        lasting.system.read("kill -9 $(cat /sys/fs/cgroup/auraed/runtime/cgroup.procs)")
    lasting.reconnect()
    lasting.wait_until_serving()
    assert get(lasting).remaining.seconds < 40
    lasting.api.node.ReloadDaemon(node_pb2.ReloadDaemonRequest())
    assert back(lasting).trial_revision == ""
    assert lasting.system.read("hostname") == "before\n"
    assert sysctl(lasting, "vm.swappiness") == 33


def test_a_trial_that_is_confirmed_stays(lasting: Machine) -> None:
    text = '[network.links.eth0]\naddresses = ["10.0.2.15/24"]\ngateway = "10.0.2.2"\n'
    tried = aer(lasting, "node", "config", "apply", "-", "--try", "60s", text=text)
    revision = re.search(r"revision (\w{16}) is on trial for 60 s", tried.stdout)
    assert revision, tried
    done = aer(lasting, "node", "config", "confirm", revision[1])
    assert done.returncode == 0, done.stderr
    assert get(lasting).document == text
    apply(lasting, "")


@pytest.mark.parametrize("what", list(CUT_OFF)[:SAMPLE])
def test_a_network_that_is_wrong_is_gone_after_its_trial(lasting: Machine, what: str) -> None:
    before = get(lasting)
    over = "was not confirmed in time; going back"
    trials = lasting.console.text.count(over)
    # The answer may be lost with the network.
    with suppress(grpc.RpcError):
        apply(lasting, CUT_OFF[what], seconds=TRIAL)
    after = back(lasting)
    deadline = time.monotonic() + ANSWER
    while lasting.console.text.count(over) == trials:
        assert time.monotonic() < deadline
    assert list(after.settings) == list(before.settings)
    assert after.revision == before.revision


@pytest.mark.parametrize("what", list(REFUSED)[:SAMPLE])
def test_a_network_that_cannot_be_is_refused(lasting: Machine, what: str) -> None:
    text, message = REFUSED[what]
    with refused(grpc.StatusCode.INVALID_ARGUMENT, message):
        apply(lasting, text, seconds=TRIAL)
    assert not get(lasting).trial_revision


def test_without_a_data_disk_it_says_so(machine: Machine) -> None:
    with refused(grpc.StatusCode.FAILED_PRECONDITION, "the node has no data disk"):
        apply(machine, 'hostname = "a"')
    # Nobody has configured it: nothing was made of it.
    assert machine.system.read("ls /run/aurae | grep config || true") == ""


# An NTP server on the node itself (RFC 5905), whose clock is 1000 s ahead of what the node's was.
# A real one has the time of its host, and the node's clock is that already.
TIME_SERVER: Final = """
import socket, struct, time
ahead = time.time() + 1000 - time.monotonic() + 2208988800
def stamp():
    seconds = ahead + time.monotonic()
    return struct.pack("!II", int(seconds), int(seconds % 1 * 2**32))
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("0.0.0.0", 123))
print("listens", flush=True)
while True:
    asked, client = server.recvfrom(1024)
    head = struct.pack("!BBbbII4s", 0x24, 1, 6, -20, 0, 0, b"TEST")
    server.sendto(head + stamp() + asked[40:48] + stamp() + stamp(), client)
"""
IS_AHEAD: Final = """
for _ in $(seq 300); do
    now=$(date +%s)
    [ $((now - $1)) -ge 990 ] && exit 0
    sleep 0.2
done
date; exit 1
"""
# Who runs it, and with which capabilities: CAP_SYS_TIME is the 25th.
KEEPER: Final = """
for pid in $(cat /sys/fs/cgroup/auraed/network/cgroup.procs); do
    grep -q '^/usr/bin/systemd-timesyncd' /proc/$pid/cmdline || continue
    grep -E '^(Uid|CapEff|CapBnd|NoNewPrivs)' /proc/$pid/status && exit 0
done
exit 1
"""


def test_the_time_comes_from_the_servers_of_the_document(boot: Boot, disk: Path) -> None:
    machine = boot(cmdline=(DISK,), drives=(Drive(file=disk),))
    before = machine.system.read("date +%s").strip()
    machine.system.start("ntp", 'exec python3 -ISc "$1"', TIME_SERVER)
    machine.system.read("until grep -q ':007B ' /proc/net/udp; do sleep 0.1; done")
    apply(machine, '[time]\nservers = ["10.0.2.15"]')
    machine.system.read(IS_AHEAD, before)
    said = dict(line.split(":", 1) for line in machine.system.read(KEEPER).splitlines())
    assert said["Uid"].split() == ["998"] * 4
    assert int(said["CapEff"], 16) == int(said["CapBnd"], 16) == 1 << 25
    assert said["NoNewPrivs"].strip() == "1"
    machine.console.wait_for("Contacted time server 10.0.2.15:123", ANSWER)
    apply(machine, "")
    machine.console.wait_for("time from nobody any more", ANSWER)
    assert machine.system.run(KEEPER).exit_code != 0
    machine.poweroff()
