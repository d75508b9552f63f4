"""`aer netboot`: what it offers, to whom, and what it keeps to itself."""

import http.client
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path

import pytest

from aer import dnsmasq, payload
from aer.__main__ import main
from aer.dnsmasq import Offer, Sent, Told
from aer.errors import AerError, UsageError
from aer.netbooting import as_json, as_text
from aer.payload import Configurations, Payload
from aer.site import MOST, Fetched, Server, Site
from runtime.remote.signature import Signer, make_key, parse_key, verify

PROGRAM = "aurae_1.efi"
ROOM = 128


def unified_kernel_image(command_line: bytes = b"quiet", *, signed: bool = False) -> bytes:
    """As much of one as is looked at: headers, and a section .cmdline with room."""
    image = bytearray(1024)
    image[:2] = b"MZ"
    struct.pack_into("<I", image, 0x3C, 64)
    image[64:68] = b"PE\0\0"
    struct.pack_into("<HH", image, 64 + 4, 0x8664, 2)
    struct.pack_into("<H", image, 64 + 20, 240)
    struct.pack_into("<II", image, 64 + 24 + 112 + 32, 512 * signed, 16 * signed)
    sections = 64 + 24 + 240
    struct.pack_into("<8sIIII", image, sections, b".text", 8, 4096, 8, 504)
    struct.pack_into("<8sIIII", image, sections + 40, b".cmdline", ROOM, 8192, ROOM, 512)
    image[512 : 512 + ROOM] = command_line.ljust(ROOM)
    return bytes(image)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "pxe"
    made.mkdir()
    (made / "aurae.ipxe").write_text("#!ipxe\nboot\n")
    (made / "aurae_1.initramfs").write_bytes(b"i" * 300_000)
    (made / PROGRAM).write_bytes(unified_kernel_image())
    (tmp_path / "secret").write_text("secret")
    return made


@contextmanager
def serving(site: Site) -> Iterator[tuple[http.client.HTTPConnection, list[Fetched]]]:
    said: list[Fetched] = []
    before = threading.active_count()
    server = Server(("127.0.0.1", 0), site, said.append)
    server.start()
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    try:
        yield connection, said
    finally:
        connection.close()
        server.close()
    assert threading.active_count() <= before


def ask(
    connection: http.client.HTTPConnection, path: str, method: str = "GET"
) -> tuple[int, bytes]:
    connection.request(method, path)
    answer = connection.getresponse()
    return answer.status, answer.read()


def site_of(folder: Path, **more: object) -> Site:
    made = folder.parent / "made"
    made.mkdir(exist_ok=True)
    return Site(Payload.find(folder), made, **more)  # type: ignore[arg-type]


def test_files_are_served_whole_and_it_is_told_who_had_them(folder: Path) -> None:
    with serving(site_of(folder)) as (connection, said):
        assert ask(connection, "/aurae_1.initramfs") == (200, b"i" * 300_000)
        # One connection does for more than one file, as UEFI has it.
        connection.request("HEAD", f"/{PROGRAM}")
        answer = connection.getresponse()
        assert (answer.getheader("Content-Length"), answer.read()) == ("1024", b"")
        assert answer.getheader("Content-Type") == "application/efi"
    assert [(one.client, one.path, one.status, one.sent) for one in said] == [
        ("127.0.0.1", "/aurae_1.initramfs", 200, 300_000),
        ("127.0.0.1", f"/{PROGRAM}", 200, 0),
    ]


@pytest.mark.parametrize(
    "path",
    [
        *("/", "/..", "/../secret", "/%2e%2e/secret", "/..%2fsecret", "//etc/passwd", "/nothing"),
        *("/link", "/inner", "/inner/file", "/fifo", "/config/", "/config/52:54:00:12:34:56"),
        *("/.hidden", "/%00", "/secret%00.ipxe", "/aurae.ipxe/", "/" + "a" * 5000),
    ],
)
def test_nothing_but_files_of_the_folder_is_served(folder: Path, path: str) -> None:
    (folder / "link").symlink_to("../secret")
    (folder / "inner").mkdir()
    (folder / "inner/file").write_text("deeper")
    (folder / ".hidden").write_text("hidden")
    os.mkfifo(folder / "fifo")
    with serving(site_of(folder)) as (connection, _):
        status, body = ask(connection, path)
    assert status == 404
    assert b"secret" not in body.replace(path.encode(), b"")
    assert b"aurae_1" not in body


def test_other_methods_are_refused(folder: Path) -> None:
    with serving(site_of(folder)) as (connection, _):
        assert ask(connection, "/aurae.ipxe", "PUT")[0] == 501
        connection.close()
        assert ask(connection, "/aurae.ipxe", "DELETE")[0] == 501


def test_a_transfer_that_is_under_way_ends_with_the_server(folder: Path) -> None:
    (folder / "large").write_bytes(b"l" * 50_000_000)
    with serving(site_of(folder)) as (connection, said):
        connection.connect()
        connection.sock.sendall(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
        assert connection.sock.recv(10).startswith(b"HTTP/1.1")
    (one,) = said
    assert one.sent < one.size == 50_000_000
    assert "broken off" in as_text(one)


def test_there_is_an_end_to_how_many_ask_at_a_time(folder: Path) -> None:
    with serving(site_of(folder)) as (connection, _):
        address = (connection.host, connection.port)
        many = [socket.create_connection(address, timeout=10) for _ in range(MOST)]
        with socket.create_connection(address, timeout=10) as one_more:
            assert one_more.recv(1) == b""
        for one in many:
            one.close()


def test_configurations_are_found_by_mac_address_however_it_is_written(
    folder: Path, tmp_path: Path
) -> None:
    configurations = tmp_path / "nodes"
    configurations.mkdir()
    (configurations / "52-54-00-12-34-56.toml").write_text("one")
    (configurations / "default.toml").write_text("others")
    site = site_of(folder, configurations=Configurations(configurations))
    with serving(site) as (connection, _):
        for mac in ("52:54:00:12:34:56", "52-54-00-12-34-56", "52:54:00:12:34:56".upper()):
            assert ask(connection, f"/config/{mac}") == (200, b"one")
        assert ask(connection, "/config/52:54:00:00:00:01") == (200, b"others")
        assert ask(connection, "/config/default")[0] == 404
        assert ask(connection, "/config/..%2fsecret")[0] == 404
        # Nobody has signed it.
        assert ask(connection, "/config/52:54:00:12:34:56.sig")[0] == 404
        (configurations / "default.toml.sig").write_bytes(b"by hand")
        assert ask(connection, "/config/52:54:00:00:00:01.sig") == (200, b"by hand")


def test_with_a_key_configurations_are_signed_when_they_are_fetched(
    folder: Path, tmp_path: Path
) -> None:
    file = tmp_path / "node.toml"
    file.write_text("hostname = 'one'")
    signer = Signer(make_key())
    site = site_of(folder, configurations=Configurations(file), sign=signer.sign)
    with serving(site) as (connection, _):
        _, document = ask(connection, "/config/52:54:00:12:34:56")
        _, signature = ask(connection, "/config/52:54:00:12:34:56.sig")
    verify(document, signature, parse_key(signer.public))


def test_arguments_get_into_the_command_line_of_the_efi_program(tmp_path: Path) -> None:
    program = tmp_path / "x.efi"
    program.write_bytes(unified_kernel_image())
    image = payload.with_arguments(program, "aurae.hostname=web ip=dhcp")
    wanted = unified_kernel_image(b"quiet aurae.hostname=web ip=dhcp")
    assert image == wanted


def test_arguments_are_refused_where_they_would_break_a_signature_or_have_no_room(
    tmp_path: Path,
) -> None:
    program = tmp_path / "x.efi"
    program.write_bytes(unified_kernel_image(signed=True))
    with pytest.raises(AerError, match="is signed"):
        payload.with_arguments(program, "a")
    program.write_bytes(unified_kernel_image())
    with pytest.raises(AerError, match="no room"):
        payload.with_arguments(program, "a" * ROOM)


@pytest.mark.parametrize("size", [0, 1, 63, 68, 100, 300, 400, 600])
def test_what_is_cut_off_is_no_unified_kernel_image(tmp_path: Path, size: int) -> None:
    program = tmp_path / "x.efi"
    program.write_bytes(unified_kernel_image()[:size])
    with pytest.raises(AerError, match="is no unified kernel image"):
        payload.with_arguments(program, "a")


@pytest.mark.parametrize("words", [["a && b"], ["a", ";"], ["x # y"], ["a\x07"], ["grüß"]])
def test_arguments_that_would_end_the_scripts_command_are_refused(words: list[str]) -> None:
    with pytest.raises(UsageError):
        payload.arguments(words)


def test_a_line_break_in_arguments_is_a_blank() -> None:
    assert payload.arguments(["a\nchain evil", " b "]) == "a chain evil b"


def offer(**more: object) -> Offer:
    given: dict[str, object] = {
        "interface": "lo",
        "address": IPv4Interface("10.9.0.1/24"),
        "script": "boot.ipxe",
        "uefi": PROGRAM,
        "url": f"http://10.9.0.1:8000/{PROGRAM}",
        "bios": "undionly.kpxe",
        **more,
    }
    return Offer(**given)  # type: ignore[arg-type]


RANGE = (IPv4Address("10.9.0.10"), IPv4Address("10.9.0.20"))


@pytest.mark.parametrize("between", [None, RANGE])
def test_dnsmasq_takes_the_command_line(tmp_path: Path, between: object) -> None:
    if not shutil.which("dnsmasq", path="/usr/sbin:/usr/bin"):
        pytest.skip("no dnsmasq here")
    line = dnsmasq.command(dnsmasq.find(), offer(range=between), tmp_path)
    done = subprocess.run([*line, "--test"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_beside_another_server_no_address_is_given(tmp_path: Path) -> None:
    line = dnsmasq.command("dnsmasq", offer(), tmp_path)
    ranges = [word for word in line if word.startswith("--dhcp-range")]
    assert ranges == ["--dhcp-range=10.9.0.0,proxy,255.255.255.0"]


def test_nothing_is_offered_to_a_bios_without_ipxe_where_there_is_none(tmp_path: Path) -> None:
    line = dnsmasq.command("dnsmasq", offer(bios=""), tmp_path)
    assert not [word for word in line if word.startswith("--pxe-service=tag:!ipxe,0,")]


@pytest.mark.parametrize(
    ("line", "event"),
    [
        (
            "dnsmasq-tftp: sent /tmp/aer-netboot-x/boot.ipxe to 10.9.0.5",
            Sent("10.9.0.5", "boot.ipxe"),
        ),
        (
            "dnsmasq-tftp: file /tmp/x/evil not found for 10.9.0.5",
            Sent("10.9.0.5", "evil", "not found"),
        ),
        (
            "dnsmasq-tftp: error 8 User aborted the transfer received from 10.9.0.5",
            Sent("10.9.0.5", "", "User aborted the transfer"),
        ),
        (
            "dnsmasq-tftp: failed sending /tmp/x/boot.ipxe to 10.9.0.5",
            Sent("10.9.0.5", "boot.ipxe", "given up"),
        ),
        (
            "dnsmasq-dhcp: PXE(br0) 52:54:00:12:34:56 boot.ipxe",
            Told("52:54:00:12:34:56", "told to boot boot.ipxe"),
        ),
        ("dnsmasq-dhcp: PXE(br0) 52:54:00:12:34:56 proxy", None),
        (
            "dnsmasq-dhcp: DHCPACK(br0) 10.9.0.5 52:54:00:12:34:56 node",
            Told("52:54:00:12:34:56", "has the address 10.9.0.5"),
        ),
        ("dnsmasq: started, version 2.90 DNS disabled", None),
    ],
)
def test_what_dnsmasq_says_is_told(line: str, event: Sent | Told | None) -> None:
    assert dnsmasq.read(line) == event


def test_every_event_is_a_line_for_people_and_one_for_programs() -> None:
    event = Fetched("10.9.0.5", "GET", "/aurae\x1b.ipxe", 200, 2_000_000, 2_000_000, 0.5)
    assert "\x1b" not in as_text(event)
    assert as_text(event).endswith("2.0 MB in 0.5 s, 4.0 MB/s")
    values = json.loads(as_json(event))
    assert (values["event"], values["client"], values["seconds"]) == ("http", "10.9.0.5", 0.5)


def test_a_signature_is_openssls(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key, file = tmp_path / "key.pem", tmp_path / "node.toml"
    file.write_text("hostname = 'one'")
    assert main(["netboot", "config", "key", str(key)]) == 0
    assert key.stat().st_mode & 0o777 == 0o600
    assert main(["netboot", "config", "sign", str(file), "--key", str(key)]) == 0
    made, signed = file.with_name("node.toml.sig"), capsys.readouterr().out.splitlines()
    assert signed[0] == signed[2], "the parameter is the same"
    public = parse_key(signed[0].removeprefix("aurae.config-key="))
    verify(file.read_bytes(), made.read_bytes(), public)
    command = ["openssl", "pkeyutl", "-sign", "-rawin", "-inkey", str(key), "-in", str(file)]
    assert subprocess.run(command, check=True, capture_output=True).stdout == made.read_bytes()


def test_a_key_that_is_there_is_kept(tmp_path: Path) -> None:
    key = tmp_path / "key.pem"
    key.write_text("mine")
    assert main(["netboot", "config", "key", str(key)]) == 1
    assert key.read_text() == "mine"


def test_configurations_without_a_key_are_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "node.toml"
    file.touch()
    words = ["netboot", "serve", str(folder), "--interface", "lo", "--http-only", "--port", "0"]
    assert main([*words, "--node-config", str(file)]) == 2
    assert "--key FILE" in capsys.readouterr().err


def test_a_folder_without_a_payload_names_what_makes_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["netboot", "serve", str(tmp_path), "--interface", "lo"]) == 1
    assert "make pxe" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_well_and_nothing_is_left(
    folder: Path, tmp_path: Path, number: signal.Signals
) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    command = [sys.executable, "-m", "aer", "netboot", "serve", str(folder), "--http-only"]
    command += ["--interface", "lo", "--port", "0", "--append", "a=b", "--output", "json"]
    environment = {**os.environ, "TMPDIR": str(temporary)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        first = json.loads(process.stdout.readline())
        assert (first["event"], first["append"]) == ("serving", "a=b")
        with urllib.request.urlopen(f"{first['url']}/boot.ipxe", timeout=10) as answer:
            script = answer.read().decode()
        assert script == f"#!ipxe\nset append a=b\nchain {first['url']}/aurae.ipxe\n"
        assert json.loads(process.stdout.readline())["path"] == "/boot.ipxe"
        process.send_signal(number)
        assert process.wait(10) == 0
    assert not list(temporary.iterdir())
