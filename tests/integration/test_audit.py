"""What the node decides is in its audit log, and a change of that log is found."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import grpc
from aurae.audit.v0 import audit_pb2
from aurae.cells.v0 import cells_pb2 as pb
from aurae.observe.v0 import observe_pb2

from testkit.machines import Machine
from testkit.refusals import refused
from tests.integration.test_restart import RUNTIME, kill_runtime

CELL_SERVICE = "/aurae.cells.v0.CellService/"
# As many decisions as 64 KiB of log hold, and more.
MANY = 400

# Sets FOLDER to that of the log.
FIND = "for state in /var/lib/aurae /run/aurae/state; do [ -d $state/audit ] && break; done\n"


def aer(machine: Machine, *arguments: str, code: int = 0) -> str:
    line = [sys.executable, "-m", "aer", "--config", str(machine.config_file), "audit", *arguments]
    done = subprocess.run(line, check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == code, done
    return done.stdout if code == 0 else done.stderr


def head(machine: Machine) -> audit_pb2.GetHeadResponse:
    return machine.api.audit.GetHead(audit_pb2.GetHeadRequest())


def restart(machine: Machine, meanwhile: str) -> None:
    """Kill the runtime once that was done, which it must not see, and wait for the next."""
    pid = int(machine.system.read(f"cat {RUNTIME}").split()[0])
    commands = f"sleep 1; kill -STOP {pid}; {FIND} {meanwhile}; kill -9 {pid}"
    machine.system.start("restart", commands)
    with suppress(grpc.RpcError):
        while True:
            machine.api.audit.GetHead(audit_pb2.GetHeadRequest(), timeout=10)
    machine.wait_until_serving()
    assert int(machine.system.read(f"cat {RUNTIME}").split()[0]) != pid


def wait_for_log(machine: Machine, text: str) -> None:
    """Read auraed's own log until it says so."""
    request = observe_pb2.GetAuraeDaemonLogStreamRequest()
    said = machine.api.observe.GetAuraeDaemonLogStream(request)
    assert any(text in message.item.line for message in said)
    said.cancel()


def events(machine: Machine, since: int, **asked: str | bool) -> list[audit_pb2.AuditEvent]:
    """What was recorded since then."""
    request = audit_pb2.WatchRequest(since=since, no_follow=True, **asked)  # type: ignore[arg-type]
    return [event for answer in machine.api.audit.Watch(request) for event in answer.events]


def test_what_a_person_does_is_told_by_the_stream_as_it_happens(machine: Machine) -> None:
    stream = machine.api.audit.Watch(
        audit_pb2.WatchRequest(since=head(machine).seq + 1, method="CellService/*")
    )
    heard: Iterator[audit_pb2.AuditEvent] = (e for answer in stream for e in answer.events)
    with machine.cell("watched"):
        allocated = next(heard)
        assert allocated.method == f"{CELL_SERVICE}Allocate"
        assert allocated.allowed
        assert allocated.who == "spiffe://test.aurae.test/person/tester"
        assert "watched" in allocated.object
        assert allocated.rule
        assert allocated.peer
    freed = next(heard)
    assert freed.method == f"{CELL_SERVICE}Free"
    assert freed.seq > allocated.seq
    stream.cancel()
    text = aer(machine, "log", "--since", str(allocated.seq), "--method", "CellService/*")
    assert "allowed   spiffe://test.aurae.test/person/tester  CellService/Allocate" in text


def test_what_was_denied_is_told_with_who_asked(machine: Machine) -> None:
    since = head(machine).seq + 1
    with machine.cell("tenant") as tenant:
        assert tenant.run("python3 -m aer node poweroff").exit_code == 1
    (denied,) = events(machine, since, denied=True)
    assert denied.method == "/aurae.node.v0.NodeService/Shutdown"
    assert not denied.allowed
    assert "tenant" in denied.who
    assert denied.rule or denied.reason


def test_the_log_is_not_for_callers_in_cells(machine: Machine) -> None:
    with machine.cell("curious") as curious:
        for command in ("head", "log", "verify"):
            done = curious.run(f"python3 -m aer audit {command}")
            assert done.exit_code == 1
            assert "audit" in done.stderr.lower()


def test_a_killed_runtime_has_lost_nothing_of_what_it_answered(machine: Machine) -> None:
    machine.api.cells.Allocate(pb.CellServiceAllocateRequest(cell=pb.Cell(name="kept")))
    before = head(machine)
    kill_runtime(machine)
    machine.api.cells.Free(pb.CellServiceFreeRequest(cell_name="kept"))
    assert "are as they were written" in aer(
        machine, "verify", "--head", f"{before.seq}:{before.hash}"
    )
    since = events(machine, before.seq)
    assert since[0].hash == before.hash
    marks = [event.kind for event in since if event.kind != audit_pb2.AUDIT_EVENT_KIND_DECISION]
    assert marks == [audit_pb2.AUDIT_EVENT_KIND_START]


def test_a_node_whose_audit_log_is_full_serves_and_tells_later_what_it_lost(
    machine: Machine,
) -> None:
    restart(machine, "mount -t tmpfs -o size=64k tmpfs $state/audit")
    try:
        before = head(machine)
        for _ in range(MANY):
            with refused(grpc.StatusCode.NOT_FOUND, "cell nothing"):
                machine.api.cells.Free(pb.CellServiceFreeRequest(cell_name="nothing"))
        # Those that wait for the disk are in the stream with the others.
        freed = [e for e in events(machine, before.seq) if e.method == f"{CELL_SERVICE}Free"]
        assert len(freed) == MANY
        assert "audit: No space left on device" in machine.daemon_log()
        machine.system.read(f"{FIND} mount -o remount,size=8m $state/audit")
        after = head(machine)
        assert "are as they were written" in aer(
            machine, "verify", "--head", f"{after.seq}:{after.hash}"
        )
        wait_for_log(machine, "audit: is written again")
    finally:
        restart(machine, "umount -l $state/audit")
    assert "are as they were written" in aer(machine, "verify")


def test_the_raw_log_is_verified_far_from_the_node(machine: Machine, tmp_path: Path) -> None:
    raw = tmp_path / "raw.jsonl"
    raw.write_text(aer(machine, "log", "--raw"))
    line = [sys.executable, "-m", "aer", "audit", "verify", str(raw)]
    done = subprocess.run(line, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done
    raw.write_text(raw.read_text().replace("tester", "nobody", 1))
    assert subprocess.run(line, check=False, capture_output=True, timeout=60).returncode == 1


def test_a_log_that_somebody_changed_is_found_out_and_begins_anew(machine: Machine) -> None:
    known = head(machine)
    assert "are as they were written" in aer(machine, "verify")
    machine.system.read(f"{FIND} sed -i s/tester/nobody/ $(ls $state/audit/*.jsonl | head -1)")
    said = aer(machine, "verify", "--head", f"{known.seq}:{known.hash}", code=1)
    assert "is not as it was written" in said
    assert "was changed, or does not belong" in said
    kill_runtime(machine)
    kinds = [event.kind for event in events(machine, known.seq + 1)]
    assert audit_pb2.AUDIT_EVENT_KIND_BROKEN in kinds
    assert "is not as it was written" in aer(machine, "verify", code=1)
