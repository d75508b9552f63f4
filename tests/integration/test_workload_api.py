"""The SPIFFE Workload API at the socket of each cell, for clients that are not ours."""

import importlib.util
import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from aurae.cells.v0 import cells_pb2 as pb

from image.machine import Channel, Credential
from testkit.cells import Cell
from testkit.machines import Machine, Machines
from testkit.trust import NAME, NODE
from tests.integration.test_restart import kill_runtime

PEER: Final = (Path(__file__).parents[1] / "unit/runtime/workload_peer.py").read_text()
# What the client needs beside what the image has anyway; all of it is plain Python.
PACKAGES: Final = ("spiffe", "jwt", "pem", "pyasn1", "pyasn1_modules")
ZIP: Final = "test.spiffe.zip"
FOLDER: Final = "/tmp/spiffe"

# Seconds of an SVID's life: another comes after 0.3 to 0.4 of it.
LIFE: Final = 40
# Seconds for a program that imports and compiles much, under emulation.
SECONDS: Final = 180.0


def packed() -> bytes:
    """The client and what it needs, as a zip file."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for package in PACKAGES:
            found = importlib.util.find_spec(package)
            assert found is not None
            assert found.origin is not None
            root = Path(found.origin).parent
            for file in sorted(root.rglob("*.py")):
                name = file.relative_to(root.parent)
                if package != "pyasn1_modules" or file.stem in ("__init__", "rfc5280"):
                    archive.write(file, name)
    return content.getvalue()


@pytest.fixture(scope="module")
def machine(machines: Machines) -> Iterator[Machine]:
    """With the client in a folder that all cells see."""
    booted = machines.start(
        credentials=(
            *machines.trust.credentials(),
            Credential(ZIP, packed(), Channel.FW_CFG),
        ),
        cmdline=(f"aurae.svid-life={LIFE}",),
    )
    try:
        booted.system.read(
            f"python3 -m zipfile -e /run/credentials/@system/{ZIP} {FOLDER} && "
            f"python3 -m compileall -q {FOLDER} && chmod -R a+rX {FOLDER}"
        )
        yield booted
        booted.check()
        booted.poweroff()
    finally:
        machines.close(booted)


def identity(cell: str) -> str:
    return f"spiffe://{NAME}/node/{NODE}/cell/{cell}"


def start(cell: Cell, what: str, **options: Any) -> None:
    """The client as an executable of that name. It is told of the socket by nobody but the node."""
    command = f'PYTHONPATH={FOLDER} exec python3 -c "$1" "$2"'
    cell.start(what, command, PEER, what, **options)


def answer(cell: Cell, what: str) -> dict[str, Any]:
    ended = cell.wait(what, SECONDS)
    said = cell.lines(what)
    assert ended.exit_code == 0, said
    found: dict[str, Any] = json.loads(said["stdout"][-1])
    return found


def peer(cell: Cell, what: str, **options: Any) -> dict[str, Any]:
    start(cell, what, **options)
    return answer(cell, what)


def all_of(cell: str) -> dict[str, Any]:
    own = identity(cell)
    return {"id": own, "chain": 2, "bundles": [NAME], "token": [own, own, ["db"]]}


def test_a_published_client_has_the_identity_of_its_cell_and_no_others(machine: Machine) -> None:
    with machine.cell("acme") as acme, machine.cell("acme/web") as web, machine.cell("acm"):
        # Programs of different cells, at the same time.
        start(acme, "fetch")
        start(web, "fetch", uid=1000, gid=1000)
        assert answer(acme, "fetch") == all_of("acme")
        assert answer(web, "fetch") == all_of("acme/web")
        assert (
            f"is not the caller's own, which is {identity('acme')}"
            in (peer(acme, "refused")["error"])
        )


def test_an_isolated_cell_and_one_within_have_theirs(machine: Machine) -> None:
    with machine.cell(
        "boxed",
        isolate_process=True,
        isolate_network=True,
        security=pb.Security(user_namespace=True),
    ) as boxed:
        assert peer(boxed, "fetch") == all_of("boxed")
        with machine.cell("boxed/in", isolate_process=True) as within:
            # The folder was given to the cell, not the file: a new runtime is heard there.
            kill_runtime(machine)
            assert peer(within, "fetch") == all_of("boxed/in")


def test_svids_are_pushed_to_the_client_before_half_of_their_life(machine: Machine) -> None:
    with machine.cell("turning") as cell:
        left = peer(cell, "rotated")["left"]
        assert len(left) == 2
        assert min(left) > LIFE / 2, left


def test_two_workloads_know_each_other_by_mutual_tls(machine: Machine) -> None:
    with machine.cell("server") as server, machine.cell("client") as client:
        start(server, "serve")
        lines = server.follow("serve")
        assert next(iter(lines)).line == "listening"
        assert peer(client, "call") == {"peer": identity("server"), "said": "hello"}
        assert answer(server, "serve") == {"peer": identity("client")}


# What the node says of two calls: with the security header and without.
CALLS: Final = """
import grpc
from aurae.spiffe import workload_pb2 as w, workload_pb2_grpc
api = workload_pb2_grpc.SpiffeWorkloadAPIStub(grpc.insecure_channel("unix:/run/aurae/spiffe.sock"))
for metadata in ((), [("workload.spiffe.io", "true")]):
    try:
        first = next(api.FetchX509SVID(w.X509SVIDRequest(), metadata=metadata, timeout=60))
        print("ok", first.svids[0].spiffe_id)
    except grpc.RpcError as e:
        print(e.code().name)
"""


def test_the_header_is_needed_and_outside_of_cells_there_is_no_identity(machine: Machine) -> None:
    run = 'exec python3 -c "$1"'
    for uid in (0, 1000):
        said = machine.system.run(run, CALLS, uid=uid, gid=uid).stdout.split("\n")
        assert said[:2] == ["INVALID_ARGUMENT", "PERMISSION_DENIED"], said
    with machine.cell("in") as cell:
        said = cell.run(run, CALLS).stdout.split("\n")
        assert said[:2] == ["INVALID_ARGUMENT", f"ok {identity('in')}"], said


# Connects as a process of a cell, which then ends; the connection is here and stays.
HELD: Final = """
import os, socket, sys
held = socket.socket(socket.AF_UNIX)
leaf = "/sys/fs/cgroup/aurae/{}/_keeper/cgroup.procs".format

def inside(cell, then):
    pid = os.fork()
    if not pid:
        open(leaf(cell), "w").write(str(os.getpid()))
        then()
        os._exit(0)
    return pid

def connect():
    held.connect("/run/aurae/spiffe.sock")
    held.settimeout(60)
"""

# While the runtime stands still: a process connects and dies, and one of another cell gets its
# number. Then the runtime goes on, and accepts.
REUSED: Final = (
    HELD
    + """
import signal, time
runtime = int(open("/sys/fs/cgroup/auraed/runtime/cgroup.procs").read().split()[0])
os.kill(runtime, signal.SIGSTOP)
try:
    pid = inside("first", connect)
    os.waitpid(pid, 0)
    other = 0
    while other != pid:
        if other:
            os.kill(other, 9)
            os.waitpid(other, 0)
        open("/proc/sys/kernel/ns_last_pid", "w").write(str(pid - 1))
        other = inside("second", lambda: time.sleep(1000))
    while "second" not in open(f"/proc/{pid}/cgroup").read():
        time.sleep(0.01)
finally:
    os.kill(runtime, signal.SIGCONT)
held.settimeout(60)
print("closed" if held.recv(1) == b"" else "open", flush=True)
os.kill(pid, 9)
os.waitpid(pid, 0)
"""
)

FREED: Final = (
    HELD
    + """
import signal
ready, told = os.pipe()
def stay():
    connect()
    os.write(told, b"x")
    signal.pause()
pid = inside("short", stay)
os.read(ready, 1)
held.settimeout(120)
print("open" if held.recv(1) else "closed", flush=True)
data = b"x"
while data:
    data = held.recv(1000)
print("closed", flush=True)
"""
)


def test_a_number_that_another_process_has_now_gives_it_no_identity(machine: Machine) -> None:
    with machine.cell("first") as first, machine.cell("second") as second:
        for cell in (first, second):
            cell.start("keeper", "exec sleep 1000")
        done = machine.system.run('exec python3 -c "$1"', REUSED)
        assert done.stdout == "closed\n", done
        # And the runtime goes on.
        assert first.run('exec python3 -c "$1"', CALLS).stdout.split("\n")[1] == (
            f"ok {identity('first')}"
        )


def test_a_connection_made_in_a_cell_ends_with_it(machine: Machine) -> None:
    with machine.cell("short") as short:
        short.start("keeper", "exec sleep 1000")
        machine.system.start("freed", 'exec python3 -c "$1"', FREED)
        said = machine.system.follow("freed")
        assert next(said).line == "open"
    assert next(said).line == "closed"
    assert machine.system.wait("freed").exit_code == 0


def test_a_restricted_cell_has_its_identity(machine: Machine) -> None:
    restricted = pb.Security(profile=pb.SECURITY_PROFILE_RESTRICTED)
    with machine.cell("strict", security=restricted) as cell:
        said = cell.run('exec python3 -c "$1"', CALLS).stdout.split("\n")
        assert said[1] == f"ok {identity('strict')}", said
