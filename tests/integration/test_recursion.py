"""Inside of a cell `/run/aurae/aurae.sock` is the same API, cut to that cell's subtree."""

from aurae.cells.v0 import cells_pb2 as pb
from aurae.discovery.v0 import discovery_pb2

from testkit.cells import forest
from testkit.machines import Machine
from tests.integration.test_restart import kill_runtime

DEPTH = 5

# Calls the API of its cell, and has itself run in a new cell inside of that, until deep enough.
RECURSE = """
import sys, grpc
from aurae.cells.v0 import cells_pb2 as pb, cells_pb2_grpc
from aurae.observe.v0 import observe_pb2 as ob, observe_pb2_grpc

level, source = int(sys.argv[1]), sys.argv[2]
channel = grpc.insecure_channel("unix:/run/aurae/aurae.sock")
cells = cells_pb2_grpc.CellServiceStub(channel)
seen = [(n.cell.name, len(n.executables)) for n in cells.List(pb.CellServiceListRequest()).cells]
print(level, seen, flush=True)
if not level:
    sys.exit(7)
cells.Allocate(pb.CellServiceAllocateRequest(cell=pb.Cell(name="down")))
command = 'exec python3 -c "$2" "$1" "$2"'
again = pb.Executable(name="recurse", command=command, args=[str(level - 1), source])
cells.Start(pb.CellServiceStartRequest(cell_name="down", executable=again))
wait = pb.CellServiceWaitRequest(cell_name="down", executable_name="recurse")
ended = cells.Wait(wait).status
logs = ob.GetSubProcessStreamRequest(cell_name="down", executable_name="recurse")
for message in observe_pb2_grpc.ObserveServiceStub(channel).GetSubProcessStream(logs):
    print(message.item.line)
cells.Free(pb.CellServiceFreeRequest(cell_name="down"))
sys.exit(ended.exit_code)
"""


def test_a_program_in_a_cell_makes_cells_in_it_to_any_depth(machine: Machine) -> None:
    with machine.cell("deep") as deep:
        command = 'exec python3 -c "$2" "$1" "$2"'
        deep.start("recurse", command, str(DEPTH), RECURSE)
        said = deep.lines("recurse")
        assert said["stderr"] == []
        # Each saw its own cell with its own executable, and nothing beside or above it.
        levels = reversed(range(DEPTH + 1))
        assert said["stdout"] == [f"{level} [('_self', 1)]" for level in levels]
        assert deep.wait("recurse").exit_code == 7
        assert not [n for n in forest(machine.api) if n.cell.name.startswith("deep/")]


def test_an_isolated_cell_has_the_api_and_what_it_makes_lives_inside(machine: Machine) -> None:
    restricted = pb.Security(profile=pb.SECURITY_PROFILE_RESTRICTED)
    script = """
aer() { python3 -m aer "$@"; }
aer cell allocate in && aer cell start in who 'cat /proc/sys/kernel/hostname; id -u'
aer cell wait in who && aer logs in/who
aer cell allocate own --isolate-process && aer cell start own who 'cat /proc/sys/kernel/hostname'
aer cell wait own who && aer logs own/who
"""
    with machine.cell(
        "boxed", isolate_process=True, isolate_network=True, security=restricted
    ) as boxed:
        said = boxed.run(script, timeout=300)
        assert said.stderr == "", said
        lines = said.stdout.splitlines()
        # Root of the box, and no more: the node knows it by another number.
        assert [line for line in lines if ": " not in line] == ["boxed", "0", "own"], said
        (inside,) = [n for n in forest(machine.api) if n.cell.name == "boxed/in"]
        assert inside.executables[0].uid == 0
        # The folder was given to the cell, not the file: a new runtime is heard there.
        kill_runtime(machine)
        listed = boxed.read("python3 -m aer cell list -o json")
        assert '"_self"' in listed
        assert "boxed" not in listed


def test_a_cell_sees_and_touches_nothing_outside(machine: Machine) -> None:
    with machine.cell("tenant") as tenant, machine.cell("other") as other:
        victim = other.start("victim", "exec sleep 1000")
        for line, answer in (
            ("cell free other", "cell other: does not exist"),
            (f"observe subprocess --pid {victim.pid}", "is no executable's first process"),
            ("node poweroff", "is not for callers in a cell"),
            ("observe daemon-log", "is not for callers in a cell"),
        ):
            done = tenant.run(f"python3 -m aer {line}")
            assert done.exit_code == 1, done
            assert answer in done.stderr, done
        assert other.status("victim").state == pb.EXECUTABLE_STATE_RUNNING
        machine.api.discovery.Discover(discovery_pb2.DiscoverRequest())


def test_a_cell_may_use_the_api_as_any_user_and_give_no_more_than_that_user_has(
    machine: Machine,
) -> None:
    with machine.cell("tenant") as tenant:
        done = tenant.run("python3 -m aer cell start _self as-root id --uid 0", uid=1000, gid=1000)
        assert done.exit_code == 1
        assert "not the caller's own 1000, 1000" in done.stderr
        started = tenant.run("python3 -m aer cell start _self as-me 'id -u; id -g'", uid=5, gid=6)
        assert started.exit_code == 0, started
        assert tenant.lines("as-me")["stdout"] == ["5", "6"]


def test_outside_of_cells_the_socket_is_for_root(machine: Machine) -> None:
    done = machine.system.run("python3 -m aer cell list", uid=1000, gid=1000)
    assert done.exit_code == 1
    assert "neither root nor in a cell" in done.stderr
    with machine.cell("seen"):
        assert "seen" in machine.system.read("python3 -m aer cell list")


def test_limits_of_the_cell_hold_for_cells_inside_whatever_theirs_are(machine: Machine) -> None:
    hog = "x=$(head -c 64000000 /dev/zero | tr '\\0' x); echo ${#x}"
    with machine.cell("tight", memory=pb.MemoryController(max=96 << 20)) as tight:
        # A cell inside may ask for more than there is: it has what is above it.
        tight.read("python3 -m aer cell allocate wide --memory-max 1G --cpuset-cpus 0")
        inside = tight.run('python3 -m aer cell start wide hog "$1"', hog)
        assert inside.exit_code == 0, inside
        read = "/sys/fs/cgroup/aurae/tight"
        with machine.cell("free") as unlimited:
            assert unlimited.read(hog) == "64000000\n"
        assert machine.system.read(f"cat {read}/wide/memory.max") == f"{1 << 30}\n"
        killed = "grep -q '^oom_kill [1-9]' $1/memory.events"
        status = machine.api.cells.Wait(
            pb.CellServiceWaitRequest(cell_name="tight/wide", executable_name="hog"), timeout=60
        ).status
        assert status.signal == 9 or status.exit_code, status
        assert machine.system.run(killed, f"{read}/wide").exit_code == 0
        done = tight.run("python3 -m aer cell allocate wide/more --cpuset-cpus 1")
        assert done.exit_code == 1
        assert "is not in the cell above" in done.stderr


def test_a_cell_that_opens_more_than_its_share_is_held_and_others_go_on(machine: Machine) -> None:
    flood = """
import socket, time
held, refused = [], 0
while refused < 100:
    s = socket.socket(socket.AF_UNIX)
    s.connect("/run/aurae/aurae.sock")
    s.settimeout(30)
    if s.recv(1):
        held.append(s)
    else:
        refused += 1
print(len(held), flush=True)
time.sleep(1000)
"""
    with machine.cell("flood") as cell:
        cell.start("flood", 'exec python3 -c "$1"', flood)
        lines = cell.follow("flood")
        assert next(iter(lines)).line == "128"
        for _ in range(10):
            machine.api.discovery.Discover(discovery_pb2.DiscoverRequest(), timeout=10)
        assert "flood" in machine.system.read("python3 -m aer cell list")


def test_a_connection_made_in_a_cell_ends_with_the_cell(machine: Machine) -> None:
    """Handed on to a process outside, it is of no use once the cell has been freed."""
    hand_on = """
import socket, array
there = socket.socket(socket.AF_UNIX)
there.bind("/run/handed-on")
there.listen()
one, _ = there.accept()
_, ancillary, _, _ = one.recvmsg(1, 64)
fd = array.array("i", ancillary[0][2])[0]
print("got it", flush=True)
api = socket.socket(fileno=fd)
api.settimeout(60)
one.recv(1)
data = b"x"
while data:
    data = api.recv(1000)
print("ended", flush=True)
"""
    give = """
import socket, array, time
api = socket.socket(socket.AF_UNIX)
api.connect("/run/aurae/aurae.sock")
to = socket.socket(socket.AF_UNIX)
to.connect("/run/handed-on")
to.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [api.fileno()]))])
time.sleep(1000)
"""
    machine.system.start("taker", 'rm -f /run/handed-on; exec python3 -c "$1"', hand_on)
    machine.system.read("until [ -S /run/handed-on ]; do sleep 0.1; done")
    with machine.cell("giver") as giver:
        giver.start("giver", 'exec python3 -c "$1"', give)
        said = machine.system.follow("taker")
        assert next(said).line == "got it"
    assert next(said).line == "ended"
    machine.system.stop("taker", grace=0)
    machine.system.read("rm -f /run/handed-on")


def test_the_socket_answers_again_after_the_runtime_was_killed(machine: Machine) -> None:
    command = "until python3 -m aer discovery discover; do sleep 0.2; done"
    with machine.cell("tenant") as tenant:
        kill_runtime(machine)
        assert tenant.run(command).exit_code == 0
        assert "tenant" in machine.system.read("python3 -m aer cell list")
