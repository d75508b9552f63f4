import base64
import os
import stat
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from initd.boot import credentials, modules, sysctls
from initd.boot.cmdline import parse, words
from initd.boot.drivers import urgency
from initd.boot.plan import Done, Step, run_plan
from initd.console import Console
from initd.log import Level, Log


def test_the_command_line_has_its_defaults() -> None:
    parsed = parse("console=ttyS0 quiet root=/dev/vda2\n")
    assert (parsed.hostname, parsed.level) == ("aurae", Level.INFO)
    assert (parsed.sysctls, parsed.problems) == ({}, ())


def test_the_command_line_is_taken_word_by_word() -> None:
    parsed = parse(
        "aurae.hostname=one aurae.hostname=node-7.lab aurae.log=debug "
        'aurae.sysctl.vm.swappiness=1 aurae.sysctl.net.ipv4.tcp_rmem="4096 1 2"'
    )
    assert (parsed.hostname, parsed.level) == ("node-7.lab", Level.DEBUG)
    assert parsed.sysctls == {"vm.swappiness": "1", "net.ipv4.tcp_rmem": "4096 1 2"}


@pytest.mark.parametrize(
    "word",
    [
        "aurae.hostname=",
        "aurae.hostname=-a",
        "aurae.hostname=a_b",
        "aurae.hostname=" + "a" * 65,
        "aurae.log=loud",
        "aurae.sysctl.=1",
        "aurae.sysctl.a..b=1",
        "aurae.sysctl.../x=1",
    ],
)
def test_a_mistake_on_the_command_line_is_told_and_the_default_taken(word: str) -> None:
    parsed = parse(word)
    assert len(parsed.problems) == 1
    assert parsed.problems[0].startswith(word)
    assert (parsed.hostname, parsed.level, parsed.sysctls) == ("aurae", Level.INFO, {})


def test_quotes_hold_words_together_as_in_the_kernel() -> None:
    assert words(' a="b c"  "d e" f ') == ["a=b c", "d e", "f"]


@pytest.mark.parametrize(
    "pattern",
    [
        "pci:v00001AF4d00001000sv*sd*bc*sc*i*",
        "acpi*:PNP0C0C:*",
        "virtio:d00000001v*",
        "input:b*v*p*e*-e*1,*k*74,*",
        "usb:v*p*d*dc*dsc*dp*ic03isc*ip*in*",
        "usb:v0[0-9]3*",
        "cpu:type:x86,ven*fam*mod*:feature:*00C?*",
        "*",
        "a",
        "*b",
        "a*",
        "a*a",
    ],
)
@pytest.mark.parametrize(
    "alias",
    [
        "pci:v00001AF4d00001000sv00001AF4sd00000001bc02sc00i00",
        "acpi:PNP0C0C:",
        "virtio:d00000001v00001AF4",
        "input:b0019v0000p0001e0000-e0,1,k74,ramlsfw",
        "usb:v0A3Bp0001d0100dc00dsc00dp00ic03isc01ip01in00",
        "cpu:type:x86,ven0000fam0006mod0055:feature:,0000,00C7,00CA",
        "",
        "a",
        "ab",
        "aba",
    ],
)
def test_patterns_match_as_fnmatch_does(pattern: str, alias: str) -> None:
    assert modules.matches(alias, pattern) == fnmatchcase(alias, pattern)


def test_the_modules_of_a_device_are_found() -> None:
    text = "\n".join(
        [
            "# comment",
            "alias pci:v00001AF4d*sv*sd*bc*sc*i* virtio_pci",
            "alias pci:v00008086d00001000sv*sd*bc*sc*i* e1000",
            "alias acpi*:PNP0C0C:* button",
            "alias virtio:d00000001v* virtio_net",
            "alias fs-ext4 ext4",
        ]
    )
    aliases = modules.Aliases(text, ["pci", "acpi"])
    assert list(aliases.names("pci:v00001AF4d00001000sv00001AF4sd0")) == []
    assert list(aliases.names("pci:v00001AF4d00001000sv1sd2bc02sc00i00")) == ["virtio_pci"]
    assert list(aliases.names("acpi:PNP0C0C:")) == ["button"]
    assert list(aliases.names("virtio:d00000001v00001AF4")) == []


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that the kernel was given, in order."""
    names: list[str] = []

    def load(path: str, _parameters: str = "") -> None:
        if "absent" in path:
            raise OSError(19, "No such device", path)
        if "broken" in path:
            raise OSError(8, "Exec format error", path)
        names.append(Path(path).name)

    monkeypatch.setattr("initd.boot.modules.module.load", load)
    return names


def tree(tmp_path: Path) -> modules.Modules:
    (tmp_path / "modules.dep").write_text(
        "kernel/net/virtio_net.ko.xz: kernel/net/net-failover.ko.xz kernel/net/failover.ko\n"
        "kernel/net/net-failover.ko.xz: kernel/net/failover.ko\n"
        "kernel/net/failover.ko:\n"
        "kernel/r8169.ko:\n"
        "kernel/realtek.ko:\n"
        "kernel/absent.ko:\n"
        "kernel/broken.ko:\n"
    )
    (tmp_path / "modules.softdep").write_text("# x\nsoftdep r8169 pre: realtek post: other\n")
    (tmp_path / "modules.alias").write_text("alias virtio:d00000001v* virtio_net\n")
    return modules.Modules(str(tmp_path), str(tmp_path / "sys"))


def test_what_a_module_needs_is_loaded_first_and_once(tmp_path: Path, loaded: list[str]) -> None:
    found = tree(tmp_path)
    names, problems = found.for_aliases(["virtio:d00000001v00001AF4"])
    assert loaded == ["failover.ko", "net-failover.ko.xz", "virtio_net.ko.xz"]
    assert names == ["failover", "net_failover", "virtio_net"]
    assert problems == []
    assert found.for_aliases(["virtio:d00000001v00001AF4"]) == ([], [])
    assert found.load("net-failover") == ([], [])


def test_what_the_kernel_has_loaded_is_not_given_to_it_again(
    tmp_path: Path, loaded: list[str]
) -> None:
    (tmp_path / "sys/module/failover").mkdir(parents=True)
    (tmp_path / "sys/module/failover/initstate").touch()
    tree(tmp_path).load("net_failover")
    assert loaded == ["net-failover.ko.xz"]


def test_network_devices_come_before_disks() -> None:
    disk, board = "pci:v00008086d00002922sv1sd1bc01sc06i01", "acpi:PNP0103:"
    network = "pci:v00008086d00001000sv1sd1bc02sc00i00"
    assert sorted([disk, board, network], key=urgency) == [network, board, disk]
    assert urgency("acpi:PNP0C0C:") == urgency("virtio:d00000001v00001AF4") == 0


def test_soft_dependencies_go_before(tmp_path: Path, loaded: list[str]) -> None:
    tree(tmp_path).load("r8169")
    assert loaded == ["realtek.ko", "r8169.ko"]


def test_a_driver_without_its_device_is_no_problem_but_a_broken_one_is(
    tmp_path: Path, loaded: list[str]
) -> None:
    names, problems = tree(tmp_path).load("absent", "broken", "unknown")
    assert (names, problems) == ([], ["broken: Exec format error"])


def test_a_kernel_without_modules_loads_none(tmp_path: Path) -> None:
    assert modules.Modules(str(tmp_path)).load("virtio_net") == ([], [])


def test_the_modaliases_of_all_devices_are_found(tmp_path: Path) -> None:
    for name, text in (("bus/pci/devices/0", "pci:x\n"), ("class/input/input0", "input:y\n")):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "modalias").write_text(text)
    (tmp_path / "bus/acpi/devices/plain").mkdir(parents=True)
    assert sorted(modules.find_modaliases(str(tmp_path))) == ["input:y", "pci:x"]


class Firmware:
    """A sysfs with SMBIOS structures and fw_cfg files, and a folder for credentials."""

    def __init__(self, root: Path) -> None:
        self.folder, self.smbios, self.fw_cfg = root / "out", root / "dmi", root / "fw_cfg"
        self.folder.mkdir()
        self.smbios.mkdir()

    def strings(self, number: int, *strings: bytes) -> None:
        entry = self.smbios / f"11-{number}"
        entry.mkdir()
        header = bytes((11, 5, 0, 0x0E, len(strings)))
        (entry / "raw").write_bytes(header + b"\0".join(strings) + b"\0\0")

    def file(self, name: str, content: bytes) -> None:
        (self.fw_cfg / name).mkdir(parents=True)
        (self.fw_cfg / name / "raw").write_bytes(content)

    def collect(self) -> tuple[list[str], list[str]]:
        return credentials.collect(str(self.folder), str(self.smbios), str(self.fw_cfg))

    def content(self, name: str) -> bytes:
        return (self.folder / name).read_bytes()


@pytest.fixture
def firmware(tmp_path: Path) -> Firmware:
    return Firmware(tmp_path)


def test_credentials_come_from_smbios_as_text_and_base64(firmware: Firmware) -> None:
    key = os.urandom(300)
    firmware.strings(0, b"some vendor's own", b"io.systemd.credential:a=x=y")
    firmware.strings(1, b"io.systemd.credential.binary:key=" + base64.b64encode(key))
    assert firmware.collect() == (["a", "key"], [])
    assert (firmware.content("a"), firmware.content("key")) == (b"x=y", key)
    assert stat.S_IMODE((firmware.folder / "key").stat().st_mode) == 0o400


def test_smbios_goes_before_fw_cfg_and_both_before_the_file(firmware: Firmware) -> None:
    for name in ("a", "b", "c"):
        (firmware.folder / name).write_bytes(b"file")
    firmware.file("a", b"fw_cfg")
    firmware.file("b", b"fw_cfg")
    firmware.strings(0, b"io.systemd.credential:a=smbios")
    assert firmware.collect() == (["a", "b"], [])
    assert [firmware.content(name) for name in "abc"] == [b"smbios", b"fw_cfg", b"file"]


def test_without_firmware_there_are_none(firmware: Firmware, tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"
    assert credentials.collect(str(firmware.folder), str(nowhere), str(nowhere)) == ([], [])


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (b"io.systemd.credential.binary:key=AAA", "SMBIOS credential key: not base64"),
        (b"io.systemd.credential.binary:key=????", "SMBIOS credential key: not base64"),
        (b"io.systemd.credential:key", "SMBIOS credential key: has no '='"),
        (b"io.systemd.credential:../key=x", "SMBIOS credential '../key': a name is 1 to 255"),
        (b"io.systemd.credential:.key=x", "SMBIOS credential '.key': a name is 1 to 255"),
        (b"io.systemd.credential:=x", "SMBIOS credential '': a name is 1 to 255"),
        (b"io.systemd.credential:\xff=x", "SMBIOS credential '\N{REPLACEMENT CHARACTER}': a name"),
    ],
)
def test_a_bad_credential_is_told_and_left_out(
    firmware: Firmware, text: bytes, problem: str
) -> None:
    firmware.strings(0, text, b"io.systemd.credential:good=1")
    found, problems = firmware.collect()
    assert found == ["good"]
    assert [entry.name for entry in firmware.folder.iterdir()] == ["good"]
    assert len(problems) == 1
    assert problems[0].startswith(problem)


def test_a_structure_that_is_cut_short_gives_nothing(firmware: Firmware) -> None:
    firmware.strings(0, b"io.systemd.credential:a=1")
    raw = firmware.smbios / "11-0" / "raw"
    raw.write_bytes(raw.read_bytes()[:4])
    assert firmware.collect() == ([], [])


def test_sysctls_are_written_by_their_dotted_names(tmp_path: Path) -> None:
    for name in ("vm", "net/ipv4/conf/eth0.5"):
        (tmp_path / name).mkdir(parents=True)
    problems = sysctls.apply(
        {"vm.swappiness": "1", "net.ipv4.conf.eth0/5.forwarding": "1"}, tmp_path
    )
    assert problems == []
    assert (tmp_path / "vm/swappiness").read_text() == "1"
    assert (tmp_path / "net/ipv4/conf/eth0.5/forwarding").read_text() == "1"


def test_a_sysctl_that_does_not_exist_is_told(tmp_path: Path) -> None:
    assert sysctls.apply({"no.such": "1"}, tmp_path) == ["no.such=1: No such file or directory"]


class Screen:
    """A console on a pipe that can be full."""

    def __init__(self) -> None:
        self.read, self.write = os.pipe2(os.O_NONBLOCK)
        self.console = Console(self.write)

    def text(self) -> str:
        try:
            return os.read(self.read, 1 << 20).decode()
        except BlockingIOError:
            return ""


def test_every_step_is_logged_and_what_fails_does_not_end_the_plan() -> None:
    screen = Screen()
    log = Log(screen.console)

    def fail() -> Done:
        raise OSError(16, "Device or resource busy", "/sys/fs/cgroup")

    reports = run_plan(
        (
            Step("mounts", lambda: Done("12 of them", ("/dev/mqueue: No such device",))),
            Step("cgroups", fail),
            Step("clock", fail, optional=True),
            Step("hostname", lambda: Done("aurae")),
        ),
        log,
    )
    assert [report.name for report in reports] == ["mounts", "cgroups", "clock", "hostname"]
    assert reports[1].error == "/sys/fs/cgroup: Device or resource busy"
    lines = [line.partition("] ")[2] for line in screen.text().splitlines()]
    assert [line.split(" ms")[0].split()[:2] for line in lines] == [
        ["auraed:", "mounts"],
        ["auraed:", "warning:"],
        ["auraed:", "cgroups"],
        ["auraed:", "error:"],
        ["auraed:", "clock"],
        ["auraed:", "warning:"],
        ["auraed:", "hostname"],
    ]


def test_a_console_that_is_full_is_not_waited_for_and_tells_what_it_lost() -> None:
    screen = Screen()
    for _ in range(5000):
        screen.console.write("x" * 98)
    assert screen.console.pending
    shown = screen.text()
    while screen.console.pending:
        screen.console.flush()
        shown += screen.text()
    screen.console.write("end")
    last = (shown + screen.text()).splitlines()
    lost = 5000 - (len(last) - 2)
    assert last[-2:] == [f"({lost} lines were not shown)", "end"]


def test_a_line_cannot_steer_the_terminal() -> None:
    screen = Screen()
    screen.console.write("a\x1b[2Jb\rc")
    assert screen.text() == "a\N{REPLACEMENT CHARACTER}[2Jb\N{REPLACEMENT CHARACTER}c\r\n"


def test_records_below_the_level_are_not_kept() -> None:
    screen = Screen()
    log = Log(screen.console, Level.WARNING)
    log.info("no")
    log.warning("yes")
    assert [line.partition("] ")[2] for line in screen.text().splitlines()] == [
        "auraed: warning: yes"
    ]
