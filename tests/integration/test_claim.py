"""A node that nobody has claimed: who may give it an identity, and how long it keeps that."""

import socket
import ssl
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from aurae.claim.v0 import claim_pb2, claim_pb2_grpc
from aurae.discovery.v0 import discovery_pb2, discovery_pb2_grpc
from aurae.node.v0 import node_pb2

from aer.claim import certificate_of
from image.machine import Drive
from runtime.claim import qr
from runtime.identity import fingerprint
from runtime.identity.fingerprint import Fingerprint
from testkit import claims
from testkit.machines import BOOT_SECONDS, Machine
from testkit.trust import NAME, NODE, PERSON, TrustDomain
from tests.integration.disks import ext4_disk

Boot = Callable[..., Machine]
DISK = "aurae.data=LABEL=aurae-data"
IDENTITY = f"spiffe://{NAME}/node/{NODE}"


@pytest.fixture
def owner(tmp_path: Path) -> TrustDomain:
    """A trust domain with a person and no node."""
    made = TrustDomain(tmp_path / "pki")
    made.pki("init", "--trust-domain", NAME)
    made.pki("issue", "person", PERSON)
    return made


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    return ext4_disk(tmp_path / "data.img")


def channel(machine: Machine) -> grpc.Channel:
    certificate = ssl.DER_cert_to_PEM_cert(certificate_of(machine.address, 30)).encode()
    options = [
        ("grpc.ssl_target_name_override", fingerprint.NAME),
        ("grpc.use_local_subchannel_pool", 1),
    ]
    return grpc.secure_channel(machine.address, grpc.ssl_channel_credentials(certificate), options)


def begin(machine: Machine, secret: bytes) -> grpc.StatusCode:
    with channel(machine) as open_channel:
        stub = claim_pb2_grpc.ClaimServiceStub(open_channel)
        try:
            stub.Begin(claim_pb2.BeginRequest(secret=secret), timeout=30)
        except grpc.RpcError as e:
            code: Any = e
            return code.code()  # type: ignore[no-any-return]
    return grpc.StatusCode.OK


def serves(machine: Machine, owner: TrustDomain) -> None:
    claims.owned(machine, owner)
    machine.wait_until_serving()
    answer = machine.api.discovery.Discover(discovery_pb2.DiscoverRequest())
    assert answer.healthy


def test_who_reads_the_console_claims_a_node_and_nobody_else(
    boot: Boot, owner: TrustDomain
) -> None:
    machine = boot(credentials=(), wait=False, reboots=True)
    shown = claims.shown(machine)
    assert claims.code(machine.console.text) == list(qr.draw(shown.base32()))

    # Nothing but the claim is served.
    with channel(machine) as stranger:
        discovery = discovery_pb2_grpc.DiscoveryServiceStub(stranger)
        with pytest.raises(grpc.RpcError) as caught:
            discovery.Discover(discovery_pb2.DiscoverRequest(), timeout=30)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED

    # Another node's fingerprint: the client finds out by itself.
    other = Fingerprint(fingerprint.of_key(b"another"), shown.secret)
    refused = claims.claim(machine, owner, other)
    assert refused.returncode == 1
    assert "is not the node with this fingerprint; nothing was sent to it" in refused.stderr
    misread = claims.claim(machine, owner, shown, "--fingerprint", "able acid")
    assert misread.returncode == 2

    # A wrong secret: so often, and then nobody may try for a while.
    for guess in range(3):
        last = time.monotonic()
        assert begin(machine, bytes([guess]) * 5) is grpc.StatusCode.PERMISSION_DENIED
    pause = 2.0
    began = time.monotonic()
    while (code := begin(machine, bytes(5))) is grpc.StatusCode.PERMISSION_DENIED:
        # A slow machine asks after the pause; the next one is twice as long.
        assert time.monotonic() - last > pause
        last, began, pause = began, time.monotonic(), 2 * pause
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    deadline = time.monotonic() + 60
    while begin(machine, shown.secret) is not grpc.StatusCode.OK:
        assert time.monotonic() < deadline
        time.sleep(0.5)

    # Claims that are cut off: in TLS, in a message, between the two calls.
    host, _, port = machine.address.partition(":")
    for said in (b"", b"\x16\x03\x01\x02\x00\x01", bytes(200)):
        with socket.create_connection((host, int(port)), 30) as connection:
            connection.sendall(said)
    assert begin(machine, shown.secret) is grpc.StatusCode.OK
    with channel(machine) as open_channel:
        stub = claim_pb2_grpc.ClaimServiceStub(open_channel)
        asked = claim_pb2.ClaimRequest(secret=shown.secret, policy=bytes(200_000))
        stub.Claim.future(asked).cancel()
    with channel(machine) as open_channel:
        stub = claim_pb2_grpc.ClaimServiceStub(open_channel)
        with pytest.raises(grpc.RpcError) as caught:
            stub.Claim(claim_pb2.ClaimRequest(secret=shown.secret), timeout=30)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert (caught.value.details() or "").startswith("certificate_chain: ")

    # Two claims at once: one of them wins.
    names = (NODE, "other")
    running = [
        subprocess.Popen(
            claims.line(machine, owner, shown, name=name), stdout=-1, stderr=-1, text=True
        )
        for name in names
    ]
    done = [process.communicate(timeout=claims.CLAIM_SECONDS) for process in running]
    codes = [process.returncode for process in running]
    assert sorted(codes) == [0, 1], done
    won = names[codes.index(0)]
    assert not (owner.folder / "node" / f"{names[codes.index(1)]}.crt").exists()
    assert f"spiffe://{NAME}/node/{won}: claimed" in done[codes.index(0)][0]

    # The API serves as who it is now, and the node was not booted again.
    machine.config_file.write_text(owner.pki("config", PERSON, won, machine.address))
    machine.wait_until_serving()
    answer = machine.api.discovery.Discover(discovery_pb2.DiscoverRequest())
    assert answer.healthy
    assert machine.console.text.count("Aurae ") == 1
    again = claims.claim(machine, owner, shown, name="third")
    assert again.returncode == 1
    assert f"has an identity already, spiffe://{NAME}/node/{won}" in again.stderr

    # Without a data disk it forgets that with the next boot.
    machine.console.wait_for(f"serving on .* as spiffe://{NAME}/node/{won}", 60)
    machine.api.node.Shutdown(node_pb2.ShutdownRequest(mode=node_pb2.SHUTDOWN_MODE_REBOOT))
    later = claims.shown(machine)
    assert later.key != shown.key
    assert later.secret != shown.secret


def test_with_a_data_disk_a_node_stays_claimed_after_a_power_cut(
    boot: Boot, owner: TrustDomain, disk: Path
) -> None:
    drives = (Drive(file=disk, kept=True),)
    machine = boot(credentials=(), drives=drives, wait=False)
    machine.console.wait_for("data disk +[0-9]+ ms +/dev/vd", BOOT_SECONDS)
    done = claims.claim(machine, owner, claims.shown(machine))
    assert (done.returncode, done.stderr) == (0, "")
    machine.kill()

    machine = boot(credentials=(), drives=drives, wait=False)
    machine.console.wait_for(f"runtime ready: serving on .* as {IDENTITY}", BOOT_SECONDS)
    serves(machine, owner)
    look = "stat -c '%a %u %n' /var/lib/aurae /var/lib/aurae/identity/*; grep ' /var ' /proc/mounts"
    # The disk lies over what there was before.
    *files, under, mount = machine.system.read(look).splitlines()
    assert files[0] == "700 0 /var/lib/aurae"
    assert {line.split()[0] for line in files[1:]} == {"600"}
    assert [line.split()[2] for line in (under, mount)] == ["tmpfs", "ext4"]
    assert {"rw", "nosuid", "nodev"} <= set(mount.split()[3].split(","))
    machine.poweroff()

    # Somebody with access to the machine itself takes its identity away.
    machine = boot(credentials=(), drives=drives, cmdline=("aurae.unclaim",), wait=False)
    shown = claims.shown(machine)
    taken = claims.claim(machine, owner, shown)
    assert taken.returncode == 1
    assert "exists already" in taken.stderr
    done = claims.claim(machine, owner, shown, "--again")
    assert (done.returncode, done.stderr) == (0, "")
    serves(machine, owner)
    assert "identity" in machine.system.read("ls /var/lib/aurae/unclaimed.1")
    machine.poweroff()


def test_a_disk_that_cannot_be_used_is_told_and_the_node_goes_on(boot: Boot, disk: Path) -> None:
    machine = boot(drives=(Drive(file=disk, read_only=True),), cmdline=(DISK,))
    text = machine.console.text
    assert "data disk: /dev/vda: cannot be mounted" in text
    assert "The node keeps nothing across boots" in text
    assert "ext4" not in machine.system.read("cat /proc/mounts")
    machine.poweroff()


def test_a_node_with_credentials_has_its_data_disk_too(boot: Boot, disk: Path) -> None:
    machine = boot(drives=(Drive(file=disk),), cmdline=(DISK,))
    assert "ext4" in machine.system.read("grep ' /var ' /proc/mounts")
    machine.poweroff()
