"""Cells with namespaces of their own: what is theirs, what they cannot reach, and what is left."""

import itertools
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Final

import grpc
import pytest
from aurae.cells.v0 import cells_pb2 as pb
from aurae.node.v0 import node_pb2

from testkit.cells import Cell, forest
from testkit.machines import Machine
from testkit.refusals import refused
from tests.integration.test_restart import kill_runtime

SOAK: Final = bool(os.environ.get("AURAE_SOAK"))
# What they share is shared by so many.
MANY: Final = 500 if SOAK else 40
MANY_MEMORY: Final = 2048 if SOAK else 1024

# Seconds that a List of all of them may take; under emulation it is more, and measured by bench.
LIST_SECONDS: Final = 1.0
# What an init may add in memory, KiB.
INIT_KIB: Final = 2048

KINDS: Final = frozenset(("pid", "mnt", "ipc", "uts", "cgroup"))
SLEEP: Final = "exec sleep 1000"
RESTRICTED: Final = pb.Security(profile=pb.SECURITY_PROFILE_RESTRICTED)


def namespaces(cell: Cell) -> dict[str, str]:
    """Those that an executable of the cell lives in, by kind."""
    lines = cell.read("ls -l /proc/self/ns").splitlines()
    links = [line.split()[-1] for line in lines if " -> " in line]
    return dict(link.split(":") for link in links if ":" in link)


def own(cell: Cell, outer: Cell) -> set[str]:
    """The kinds of namespaces that the cell does not share with the other."""
    ours, theirs = namespaces(cell), namespaces(outer)
    return {kind for kind in ours if ours[kind] != theirs[kind]}


def init_of(machine: Machine, name: str) -> pb.CellInit:
    (found,) = (node.init for node in forest(machine.api) if node.cell.name == name)
    return found


@contextmanager
def cells(machine: Machine, **asked: dict[str, Any]) -> Iterator[list[Cell]]:
    """Cells by name; `__` stands for the slash."""
    with ExitStack() as all_:
        yield [
            all_.enter_context(machine.cell(name.replace("__", "/"), **fields))
            for name, fields in asked.items()
        ]


TALK: Final = """
import socket
listener = socket.create_server(("127.0.0.1", 80))
client = socket.create_connection(("127.0.0.1", 80), timeout=30)
listener.accept()[0].send(b"hello")
print(client.recv(9).decode())
"""

ISOLATED: Final = {"isolate_process": True}
NETWORK: Final = {"isolate_network": True}


def test_an_isolated_cell_sees_itself_alone(machine: Machine) -> None:
    with machine.cell("alone", isolate_process=True) as cell:
        assert own(cell, machine.system) == KINDS
        assert cell.read("hostname").strip() == "alone"
        assert machine.system.read("hostname").strip() != "alone"
        names = set(cell.read("cat /proc/[0-9]*/comm").split("\n")) - {""}
        assert names == {"cell-init", "cat"}
        assert cell.read("cat /proc/self/cgroup").strip().startswith("0::/_run-")
        assert "__init" in cell.read("ls /sys/fs/cgroup").split()


def test_the_pid_that_is_told_is_the_nodes_and_the_one_inside_beside_it(machine: Machine) -> None:
    with machine.cell("numbers", isolate_process=True) as cell:
        started = cell.start("shell", "echo $$; exec sleep 1000")
        inside = int(next(iter(cell.follow("shell"))).line)
        assert started.ns_pid == inside
        assert started.pid != inside
        assert cell.status("shell").ns_pid == inside
        status = machine.system.read(f"grep -E '^(NSpid|PPid)' /proc/{started.pid}/status")
        assert f"{started.pid}\t{inside}" in status
        assert "PPid:\t1\n" in status
        with machine.cell("plain") as plain:
            answer = plain.start("shell", SLEEP)
            assert answer.ns_pid == answer.pid


def test_nothing_of_the_node_but_its_sockets_and_name_servers_is_in_run(machine: Machine) -> None:
    with machine.cell("run", isolate_process=True) as cell:
        found = set(cell.read("find /run -mindepth 1").split())
        assert found == {"/run/lock", "/run/aurae", *(f"/run/aurae/{n}" for n in NODE_FILES)}
        resolver = "cat /run/aurae/resolv.conf"
        assert cell.read(resolver) == machine.system.read(resolver)


NODE_FILES: Final = ("aurae.sock", "aurae-tls.sock", "notify", "resolv.conf", "spiffe.sock")


def test_what_a_cell_mounts_unmounts_and_remounts_the_node_does_not_see(machine: Machine) -> None:
    look = "cat /proc/1/mountinfo; ls /tmp /run /sys/fs/cgroup /proc/sys"
    before = machine.system.read(look)
    with machine.cell("mounts", isolate_process=True) as cell:
        done = cell.run(
            "mount -t tmpfs x /mnt; touch /mnt/x; mount --make-rshared /; mount -t tmpfs x /srv;"
            "mount -o remount,ro /tmp; mount -o remount,ro /sys; mount -o remount,ro /dev;"
            "mount -o remount,size=1k /run; mount --bind /mnt /etc;"
            "umount -l /sys /dev /run /tmp /var /proc; umount -l /; mount -t tmpfs x /; :"
        )
        assert done.exit_code == 0
        assert machine.system.read(look) == before
    assert machine.system.read(look) == before


def test_what_is_under_the_mounts_of_a_cell_cannot_be_laid_bare(machine: Machine) -> None:
    with machine.cell("bare", isolate_process=True) as cell:
        cell.run("umount -l /run; umount -l /proc; umount -l /sys; true")
        assert cell.read("ls -A /run /proc") == "/proc:\n\n/run:\n"


def test_a_full_file_system_of_a_cell_is_the_cells_own_trouble(machine: Machine) -> None:
    memory = pb.MemoryController(max=64 << 20)
    with machine.cell("full", isolate_process=True, memory=memory) as cell:
        full = cell.run("dd if=/dev/zero of=/run/x bs=1M count=99")
        assert (full.exit_code, "No space left" in full.stderr) == (1, True)
        assert cell.run("exec dd if=/dev/zero of=/dev/shm/x bs=1M count=99").signal == 9
        used = machine.system.read("df -k /run | tail -1").split()[2]
        assert int(used) < 8 << 10
        assert not init_of(machine, "full").ended
        assert cell.run("rm /run/x /dev/shm/x; echo goes on").stdout == "goes on\n"


def test_the_init_cannot_be_harmed_from_inside(machine: Machine) -> None:
    with machine.cell("harm", isolate_process=True) as cell:
        victim = cell.start("bystander", "trap 'echo caught' TERM; while :; do sleep 0.1; done")
        signals = "for s in 1 2 3 6 9 11 15 19 34 64; do kill -$s 1; done; kill -9 -1; true"
        cell.run(f"exec setpriv --reuid=7 --clear-groups sh -c '{signals}'")
        cell.run(signals.replace("kill -9 -1; ", ""))
        assert cell.read("echo alive") == "alive\n"
        assert not init_of(machine, "harm").ended
        assert cell.status("bystander").pid == victim.pid
        assert cell.status("bystander").state == pb.EXECUTABLE_STATE_RUNNING


def test_orphans_are_reaped_by_the_cells_init(machine: Machine) -> None:
    with machine.cell("orphans", isolate_process=True) as cell:
        cell.start(
            "parent", "for i in $(seq 40); do (sleep 0.01 &); done; echo done; exec sleep 99"
        )
        assert next(iter(cell.follow("parent"))).line == "done"
        look = (
            "for i in $(seq 200); do z=$(cat /proc/[0-9]*/stat 2>/dev/null | grep -c ') Z '); "
            "n=$(cat /proc/[0-9]*/comm 2>/dev/null | grep -c sleep); "
            "[ $z = 0 ] && [ $n = 1 ] && echo clean && exit; sleep 0.05; done; ps"
        )
        assert cell.read(look) == "clean\n"


def test_the_init_passes_a_signal_on_to_all_inside(machine: Machine) -> None:
    trap = "trap 'echo got it; exit 3' USR1; echo up; while :; do sleep 0.1; done"
    with machine.cell("signal", isolate_process=True) as cell, machine.cell("signal/in") as inner:
        for one in (cell, inner):
            one.start("trap", trap)
            assert next(iter(one.follow("trap"))).line == "up"
        machine.system.read(f"kill -USR1 {init_of(machine, 'signal').pid}")
        for one in (cell, inner):
            assert one.wait("trap").exit_code == 3
            assert one.lines("trap")["stdout"] == ["up", "got it"]


def test_with_its_init_a_cell_ends_and_says_so(machine: Machine) -> None:
    with cells(machine, dies=ISOLATED, dies__in={}, dies__deep=ISOLATED) as (top, inner, deep):
        for cell in (top, inner, deep):
            cell.start("sleeps", SLEEP)
        machine.system.read(f"kill -9 {init_of(machine, 'dies').pid}")
        for cell in (top, inner, deep):
            assert cell.wait("sleeps").signal == 9
        # It ends after all that was inside.
        deadline = time.monotonic() + 60
        while not init_of(machine, "dies").ended:
            assert time.monotonic() < deadline
        for cell in (top, inner):
            with refused(grpc.StatusCode.FAILED_PRECONDITION, "cell dies", "init", "free"):
                cell.start("again", "true")
        with refused(grpc.StatusCode.FAILED_PRECONDITION, "cell dies", "init"):
            request = pb.CellServiceAllocateRequest(
                cell=pb.Cell(name="dies/x", isolate_process=True)
            )
            machine.api.cells.Allocate(request)


def test_an_isolated_network_has_a_loopback_that_is_up_and_nothing_else(machine: Machine) -> None:
    with machine.cell("net", isolate_network=True) as cell:
        assert own(cell, machine.system) == {"net"}
        links = [line.split(": ")[1] for line in cell.read("ip -o link").splitlines()]
        assert links == ["lo"]
        assert cell.read('exec python3 -IS -c "$1"', TALK) == "hello\n"
    with machine.cell("both", isolate_process=True, isolate_network=True) as cell:
        assert own(cell, machine.system) == KINDS | {"net"}
        assert cell.read("ls /sys/class/net") == "lo\n"


def test_cells_within_live_in_the_namespaces_of_the_nearest_that_has_them(
    machine: Machine,
) -> None:
    tree: dict[str, Any] = {"a": ISOLATED, "a__b": NETWORK, "a__b__c": {}, "a__b__c__d": ISOLATED}
    with cells(machine, **tree, a__p={}) as (a, b, c, d, plain):
        assert own(a, machine.system) == KINDS
        assert own(b, a) == {"net"}
        assert own(c, b) == set()
        assert own(d, c) == KINDS
        assert own(plain, a) == set()
        assert [cell.read("hostname").strip() for cell in (a, b, c, d)] == ["a", "a", "a", "d"]
        assert d.read("ls /sys/class/net") == "lo\n"
        deep = d.start("sleeps", SLEEP)
        # Seen from above, not from beside.
        a.read("until cat /proc/[0-9]*/comm 2>/dev/null | grep -qx sleep; do :; done")
        numbers = machine.system.read(f"grep NSpid /proc/{deep.pid}/status").split()[1:]
        assert len(numbers) == 3
        assert int(numbers[-1]) == deep.ns_pid


def test_an_isolated_cell_is_found_again_by_the_next_runtime(machine: Machine) -> None:
    with cells(machine, kept=ISOLATED | NETWORK, kept__in={}) as (kept, inner):
        kept.start("sleeps", SLEEP)
        before = {node.cell.name: node for node in forest(machine.api)}
        kill_runtime(machine)
        after = {node.cell.name: node for node in forest(machine.api)}
        assert after["kept"] == before["kept"]
        assert own(kept, machine.system) == KINDS | {"net"}
        assert own(inner, kept) == set()
        kept.free()


def test_an_isolated_cell_lives_on_when_pid_1_is_replaced(machine: Machine) -> None:
    with cells(machine, kept=ISOLATED, kept__in=ISOLATED) as (kept, inner):
        counts = "n=0; while :; do n=$((n+1)); echo $n; sleep 0.2; done"
        inner.start("counts", counts)
        before = {node.cell.name: node for node in forest(machine.api)}
        machine.api.node.ReloadDaemon(node_pb2.ReloadDaemonRequest())
        after = {node.cell.name: node for node in forest(machine.api)}
        for name in ("kept", "kept/in"):
            assert after[name].init == before[name].init
        assert own(inner, kept) == KINDS
        numbers = [int(item.line) for item in itertools.islice(inner.follow("counts"), 20)]
        assert numbers == list(range(1, 21))
        with machine.cell("kept/new", isolate_process=True) as new:
            assert own(new, kept) == KINDS


def test_a_command_that_is_not_there_is_told_by_the_process_itself(machine: Machine) -> None:
    with machine.cell("missing", isolate_process=True) as cell:
        cell.start("cwd", "true", working_directory="/nowhere")
        assert cell.wait("cwd").exit_code == 127
        (line,) = cell.lines("cwd")["stderr"]
        assert "/nowhere: No such file or directory" in line
        cell.start("here", "pwd; mkdir -p /run/work", working_directory="/run")
        assert cell.lines("here")["stdout"] == ["/run"]


def test_a_cell_that_forks_for_ever_is_freed(machine: Machine) -> None:
    limits = pb.PidsController(max=100)
    with machine.cell("forks", isolate_process=True, pids=limits) as cell:
        cell.start("forks", "echo up; while :; do (sleep 1000 &) ; done 2>/dev/null")
        assert next(iter(cell.follow("forks"))).line == "up"
        cell.free(grace=1)


def test_a_fork_bomb_is_held_by_pids_max(machine: Machine) -> None:
    with machine.cell("bomb", isolate_process=True, pids=pb.PidsController(max=64)) as cell:
        cgroup = "/sys/fs/cgroup/aurae/bomb"
        assert machine.system.read(f"cat {cgroup}/pids.max").strip() == "64"
        cell.start("bomb", "b() { b | b & b; }; b 2>/dev/null")
        held = f"until grep -q 'max [1-9]' {cgroup}/pids.events; do sleep 0.2; done; echo held"
        assert machine.system.read(held) == "held\n"
        assert int(machine.system.read(f"cat {cgroup}/pids.current")) <= 64
        assert forest(machine.api)


def test_the_limits_of_devices_stand_in_io_max(machine: Machine) -> None:
    devices = machine.system.read("cat /sys/class/block/*/dev; true").split()
    limits = [pb.IoMax(device=device, rbps=1 << 20, wiops=100) for device in devices[:1]]
    with machine.cell("io", io=pb.IoController(weight=50, max=limits)):
        cgroup = "/sys/fs/cgroup/aurae/io"
        assert machine.system.read(f"cat {cgroup}/io.weight").split() == ["default", "50"]
        lines = machine.system.read(f"cat {cgroup}/io.max").splitlines()
        assert lines == [f"{d} rbps=1048576 wbps=max riops=max wiops=100" for d in devices[:1]]


STATUS: Final = "grep -E '^(NoNewPrivs|CapBnd|CapEff|Seccomp):' /proc/self/status"


def status(cell: Cell) -> dict[str, str]:
    lines = cell.read(STATUS).splitlines()
    return {key: value for key, _, value in (line.partition(":\t") for line in lines)}


OWN_DEVICES: Final = [
    *("fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout"),
    *("tty", "urandom", "zero"),
]
NOT_PERMITTED: Final = """
mount -t tmpfs x /mnt; umount /run; umount /proc; unshare -r true; chroot / true
mknod /tmp/d b 1 1; hostname x; dmesg; kill -9 1
"""


def test_the_restricted_profile_sets_everything_to_safe_values(machine: Machine) -> None:
    with machine.cell("tenant", security=RESTRICTED) as cell:
        assert own(cell, machine.system) == KINDS | {"user"}
        none = "0" * 16
        assert status(cell) == {
            "NoNewPrivs": "1",
            "CapBnd": none,
            "CapEff": none,
            "Seccomp": "2",
        }
        first, base, count = cell.read("cat /proc/self/uid_map").split()
        assert (first, count) == ("0", "65536")
        assert int(base) >= 65536
        started = cell.start("sleeps", f"echo up; {SLEEP}")
        assert next(iter(cell.follow("sleeps"))).line == "up"
        uid = machine.system.read(f"grep Uid /proc/{started.pid}/status").split()[1]
        assert uid == base
        assert cell.read("id -u; id -g").split() == ["0", "0"]
        assert machine.system.read("cat /sys/fs/cgroup/aurae/tenant/pids.max").strip() == "1024"
        writable = (
            "for d in / /var /etc /run /tmp /var/tmp /dev/shm; do touch $d/x && echo $d; done"
        )
        assert cell.run(writable).stdout.split() == ["/run", "/tmp", "/var/tmp", "/dev/shm"]
        assert machine.system.run("ls /tmp/x /run/x").stdout == ""
        devices = {
            "fd",
            "full",
            "mqueue",
            "null",
            "ptmx",
            "pts",
            "random",
            "shm",
            "stderr",
            "stdin",
        }
        devices |= {"stdout", "tty", "urandom", "zero"}
        assert set(cell.read("ls /dev").split()) == devices
        assert cell.read("head -c 3 /dev/urandom | wc -c; echo x > /dev/null").strip() == "3"
        denied = "mount -t tmpfs x /mnt; unshare -r true; umount /run; umount /proc; chroot / true;"
        done = cell.run(
            f"{denied} mknod /tmp/d b 1 1; kill -9 1; hostname x; dmesg; nice -n -5 true"
        )
        assert done.stdout == ""
        assert done.stderr.count("not permitted") >= 6
        assert cell.read("hostname").strip() == "tenant"


def test_two_tenants_have_no_user_id_in_common(machine: Machine) -> None:
    with cells(machine, one={"security": RESTRICTED}, two={"security": RESTRICTED}) as both:
        bases = {cell.read("cat /proc/self/uid_map").split()[1] for cell in both}
        assert len(bases) == 2


def test_a_cell_within_a_restricted_one_gets_nothing_back(machine: Machine) -> None:
    tree: dict[str, Any] = {"t": {"security": RESTRICTED}, "t__in": {}, "t__iso": ISOLATED}
    with cells(machine, **tree, t__net=NETWORK) as (top, inner, isolated, network):
        for cell in (inner, isolated, network):
            assert status(cell) == status(top)
            assert namespaces(cell)["user"] == namespaces(top)["user"]
            assert cell.run("touch /var/x; umount /run; mount -t tmpfs x /mnt").stdout == ""
        assert own(isolated, top) == KINDS
        assert own(network, top) == {"net"}
        assert set(isolated.read("ls /run/aurae").split()) == set(NODE_FILES)


# Says whom the API takes it for, and has a cell made and an executable run by it.
CALL: Final = """
import sys, grpc
from aurae.cells.v0 import cells_pb2 as pb, cells_pb2_grpc

cells = cells_pb2_grpc.CellServiceStub(grpc.insecure_channel("unix:/run/aurae/aurae.sock"))
print([node.cell.name for node in cells.List(pb.CellServiceListRequest()).cells])
cells.Allocate(pb.CellServiceAllocateRequest(cell=pb.Cell(name="in", isolate_process=True)))
command = "id -u; grep -E NoNew /proc/self/status"
wanted = pb.Executable(name="look", command=command)
answer = cells.Start(pb.CellServiceStartRequest(cell_name="in", executable=wanted))
wait = pb.CellServiceWaitRequest(cell_name="in", executable_name="look")
print(answer.uid, cells.Wait(wait).status.exit_code)
"""


@pytest.mark.parametrize("uid", [0, 7])
def test_a_restricted_tenant_has_the_api_of_its_cell(machine: Machine, uid: int) -> None:
    with machine.cell("tenant", security=RESTRICTED) as tenant:
        said = tenant.run('exec python3 -c "$1"', CALL, uid=uid, gid=uid)
        assert (said.stdout.splitlines(), said.stderr) == (["['_self']", f"{uid} 0"], "")
        inner = Cell(machine.api, "tenant/in")
        assert inner.lines("look")["stdout"] == [f"{uid}", "NoNewPrivs:\t1"]
        assert own(inner, tenant) == KINDS


def test_a_port_below_1024_can_be_had_in_a_user_and_network_namespace(machine: Machine) -> None:
    with machine.cell("port", security=RESTRICTED, isolate_network=True) as cell:
        said = cell.run('exec python3 -IS -c "$1"', TALK, uid=7, gid=7)
        assert (said.stdout, said.stderr) == ("hello\n", "")


@pytest.mark.parametrize(
    ("security", "expected"),
    [
        (pb.Security(no_new_privileges=True), {"NoNewPrivs": "1"}),
        (pb.Security(seccomp=pb.SECCOMP_PROFILE_DEFAULT), {"Seccomp": "2"}),
        (pb.Security(drop_capabilities=True), {"CapBnd": "0" * 16, "CapEff": "0" * 16}),
        (
            pb.Security(keep_capabilities=["CAP_KILL", "CAP_CHOWN"]),
            {"CapBnd": "0000000000000021", "CapEff": "0000000000000021"},
        ),
    ],
)
def test_what_is_about_privileges_needs_no_namespace(
    machine: Machine, security: pb.Security, expected: dict[str, str]
) -> None:
    with machine.cell("only", security=security) as cell:
        assert own(cell, machine.system) == set()
        assert status(cell) == status(machine.system) | expected
        as_user = cell.run("id -u; grep CapEff /proc/self/status", uid=7, gid=7).stdout.split()
        assert as_user == ["7", "CapEff:", "0" * 16]


DENIED: Final = """
import ctypes, os, sys
sys.path.append("/usr/lib/python3/dist-packages")
from initd.linux import seccomp
column = seccomp.MACHINES[os.uname().machine].column
libc = ctypes.CDLL(None, use_errno=True)
for name, row in sorted(seccomp.DENIED.items()):
    if row[column] is not None:
        result = libc.syscall(ctypes.c_long(row[column]), *[ctypes.c_long(-1)] * 6)
        print(name, result, ctypes.get_errno())
print("clone", libc.syscall(ctypes.c_long(seccomp.CLONE[column]), 0x10000011), ctypes.get_errno())
print("clone3", libc.syscall(ctypes.c_long(seccomp.CLONE3), 0, 0), ctypes.get_errno())
print("getpid", libc.syscall(ctypes.c_long(172 if column else 39)) > 0)
"""


def test_each_call_of_the_seccomp_profile_fails_for_root_with_all_capabilities(
    machine: Machine,
) -> None:
    profile = pb.Security(seccomp=pb.SECCOMP_PROFILE_DEFAULT)
    with machine.cell("calls", security=profile) as cell:
        *calls, clone3, getpid = cell.read('exec python3 -IS -c "$1"', DENIED).splitlines()
        assert len(calls) > 40
        assert [line for line in calls if not line.endswith(" -1 1")] == []
        assert clone3 == "clone3 -1 38"
        assert getpid == "getpid True"


def test_many_isolated_cells_with_an_executable_each(boot: Any) -> None:
    machine = boot(memory=MANY_MEMORY)
    names = [f"many-{number}" for number in range(MANY)]
    for name in names:
        machine.api.cells.Allocate(
            pb.CellServiceAllocateRequest(cell=pb.Cell(name=name, isolate_process=True))
        )
        Cell(machine.api, name).start("sleeps", SLEEP)
    began = time.monotonic()
    nodes = {node.cell.name: node for node in forest(machine.api)}
    listed = time.monotonic() - began
    running = [name for name in names if nodes[name].executables[0].state == RUNNING]
    assert running == names
    inits = [nodes[name].init.pid for name in names]
    files = " ".join(f"/proc/{pid}/smaps_rollup" for pid in inits)
    lines = machine.system.read(f"grep -h ^Pss: {files}").splitlines()
    each = sorted(int(line.split()[1]) for line in lines)
    assert len(each) == MANY
    assert each[-1] <= INIT_KIB
    assert listed < LIST_SECONDS
    for name in names:
        Cell(machine.api, name).free(grace=1)
    assert machine.system.read("ls /sys/fs/cgroup/aurae | grep -c many; true").strip() == "0"
    assert machine.system.read("cat /proc/[0-9]*/comm | grep -c cell-init; true").strip() == "0"
    machine.poweroff()


RUNNING: Final = pb.EXECUTABLE_STATE_RUNNING
