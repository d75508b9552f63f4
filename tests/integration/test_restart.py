"""The runtime dies and comes back; PID 1 and every workload do not notice."""

import grpc
from aurae.cells.v0 import cells_pb2 as pb
from aurae.discovery.v0 import discovery_pb2

from testkit.cells import forest
from testkit.machines import Machine

RUNTIME = "/sys/fs/cgroup/auraed/runtime/cgroup.procs"
NETWORK = "/sys/fs/cgroup/auraed/network/cgroup.procs"


def kill_runtime(machine: Machine) -> int:
    """Kill it and wait until another one answers. The process ID of the one that was killed.

    Whoever is asked while it is away hears UNAVAILABLE."""
    pid = int(machine.system.read(f"cat {RUNTIME}").split()[0])
    # Its own death is what the command does: the answer may not come any more.
    try:
        machine.system.start("kill", f"sleep 1; kill -9 {pid}")
        codes = set()
        while True:
            try:
                machine.api.discovery.Discover(discovery_pb2.DiscoverRequest(), timeout=10)
            except grpc.RpcError as e:
                codes.add(e.code())
                break
        assert codes == {grpc.StatusCode.UNAVAILABLE}
    finally:
        machine.wait_until_serving()
    return pid


def test_cells_executables_and_logs_are_there_after_the_runtime_was_killed(
    machine: Machine,
) -> None:
    limits = {"cpu": pb.CpuController(weight=77), "memory": pb.MemoryController(low=0)}
    with machine.cell("kept", **limits) as kept, machine.cell("kept/child") as child:
        kept.start("ended", "echo before; exit 9")
        kept.wait("ended")
        kept.start("counts", "n=0; while :; do n=$((n+1)); echo $n; sleep 0.2; done")
        child.start("sleeps", "exec sleep 1000", "an argument", uid=5)
        # Ends while nobody is there to see it.
        child.start("meanwhile", "sleep 3; echo done; exit 6")
        before = {node.cell.name: node for node in forest(machine.api)}

        old = kill_runtime(machine)

        after = {node.cell.name: node for node in forest(machine.api)}
        assert after["kept"].cell == before["kept"].cell
        assert after["kept"].executables == before["kept"].executables
        assert after["kept/child"].executables[0] == before["kept/child"].executables[0]
        assert child.wait("meanwhile").exit_code == 6
        assert child.lines("meanwhile")["stdout"] == ["done"]
        assert kept.lines("ended")["stdout"] == ["before"]
        numbers = []
        for item in kept.follow("counts"):
            numbers.append(int(item.line))
            if len(numbers) == 30:
                break
        assert numbers == list(range(1, 31))
        assert int(machine.system.read(f"cat {RUNTIME}").split()[0]) != old
        assert f"kill -9 {old}" not in machine.console.text


def test_what_was_kept_can_be_stopped_and_freed_afterwards(machine: Machine) -> None:
    with machine.cell("kept") as kept:
        kept.start("sleeps", "exec sleep 1000")
        kill_runtime(machine)
        kept.stop("sleeps", grace=1)
        kept.start("sleeps", "echo again")
        assert kept.lines("sleeps")["stdout"] == ["again"]
        kept.free()


def test_the_console_says_that_it_ended_and_is_started_again(machine: Machine) -> None:
    kill_runtime(machine)
    assert "runtime: ended by signal 9; starting it again" in machine.console.text


def test_the_network_service_comes_back_too_and_the_address_stays(machine: Machine) -> None:
    pid = machine.system.read(f"cat {NETWORK}").split()[0]
    address = "ip -4 -o addr show eth0"
    before = machine.system.read(address).split()[3]
    machine.system.read(f"kill -9 {pid}; while grep -qx {pid} {NETWORK}; do sleep 0.1; done")
    machine.console.wait_for("network: ended by signal 9", timeout=30)
    machine.console.wait_for("network: eth0: going on with", timeout=60)
    assert machine.system.read(address).split()[3] == before


def test_pid_1_cannot_be_killed_by_a_workload_as_root(machine: Machine) -> None:
    machine.system.run("kill -9 1; kill -STOP 1; kill -SEGV 1")
    assert machine.system.read("cat /proc/1/comm; echo alive").split()[-1] == "alive"
