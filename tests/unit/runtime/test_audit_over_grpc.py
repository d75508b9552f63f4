"""AuditService as a client sees it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from aurae.audit.v0 import audit_pb2
from grpc import StatusCode

from runtime.audit.log import AuditLog
from runtime.audit.model import Kind
from runtime.audit.service import KINDS
from tests.unit.runtime import node as nodes
from tests.unit.runtime.node import DEADLINE, Node
from tests.unit.runtime.test_audit import faults, record


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """One whose log has 500 decisions of an earlier run."""
    folder = tmp_path_factory.mktemp("node")
    log = AuditLog(folder / "state" / "audit")
    for number in range(500):
        record(log, str(number), allowed=bool(number % 10))
    log.close()
    with nodes.node(folder) as there:
        yield there


def watch(node: Node, **request: Any) -> list[audit_pb2.WatchResponse]:
    asked = audit_pb2.WatchRequest(**{"no_follow": True, **request})
    return list(node.audit.Watch(asked, timeout=DEADLINE))


def events(node: Node, **request: Any) -> list[audit_pb2.AuditEvent]:
    return [event for answer in watch(node, **request) for event in answer.events]


def head(node: Node) -> audit_pb2.GetHeadResponse:
    return node.audit.GetHead(audit_pb2.GetHeadRequest(), timeout=DEADLINE)


def test_every_kind_of_event_has_a_name_on_the_wire() -> None:
    assert set(KINDS) == set(Kind)
    names = {kind: audit_pb2.AuditEventKind.Name(number) for kind, number in KINDS.items()}
    assert names == {kind: f"AUDIT_EVENT_KIND_{kind.value.upper()}" for kind in Kind}


def test_the_stream_is_what_is_kept_in_its_order(node: Node) -> None:
    got = events(node)
    last = head(node)
    assert [event.seq for event in got[:502]] == list(range(1, 503))
    assert [event.object for event in got[1:501]] == [f"cell {n}" for n in range(500)]
    assert got[1].who == "spiffe://aurae.local/person/ann"
    assert not got[1].allowed
    assert got[2].allowed
    assert got[502].kind == audit_pb2.AUDIT_EVENT_KIND_START
    assert last.seq >= 503
    assert events(node, since=last.seq)[0].hash == last.hash


def test_a_stream_begins_where_it_is_asked_to(node: Node) -> None:
    got = watch(node, since=200)
    assert got[0].events[0].seq == 200
    assert got[0].previous == events(node, since=199)[0].hash
    assert not got[0].lost


def test_a_stream_has_what_its_filter_lets_through(node: Node) -> None:
    denied = events(node, denied=True)
    assert [event.object for event in denied][:2] == ["cell 0", "cell 10"]
    assert {event.allowed for event in denied} == {False}
    assert all(not answer.previous for answer in watch(node, denied=True))
    assert len(events(node, who="spiffe://*/person/ann", method="Allocate")) >= 500
    assert events(node, who="spiffe://*/person/bob") == []


def test_a_bad_request_is_refused(node: Node) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        watch(node, since=3, only_new=True)
    assert caught.value.code() is StatusCode.INVALID_ARGUMENT
    assert (caught.value.details() or "").startswith("since, only_new")


def test_a_node_that_ends_says_so_and_goes_on_with_its_log_at_the_next_start(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "state" / "audit"
    with nodes.owner(tmp_path):
        for _ in range(2):
            with nodes.api(tmp_path), nodes.client(tmp_path) as there:
                head(there)
            assert faults(folder) == []
        with nodes.api(tmp_path), nodes.client(tmp_path) as there:
            words = [audit_pb2.AuditEventKind.Name(event.kind)[17:] for event in events(there)]
    marks = [word for word in words if word != "DECISION"]
    assert marks == ["START", "STOP", "START", "STOP", "START"]


def test_a_log_that_cannot_be_opened_is_no_reason_not_to_serve(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "audit").write_text("in the way")
    with nodes.node(tmp_path) as there:
        there.allocate("web")
        there.free("web")
        for ask in (head, watch):
            with pytest.raises(grpc.RpcError) as caught:
                ask(there)
            assert caught.value.code() is StatusCode.UNAVAILABLE
            assert "audit log" in (caught.value.details() or "")
        assert there.log.count("error: audit log") == 1
