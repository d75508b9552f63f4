"""`aer audit`: what people see, and what it finds out."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from aurae.audit.v0 import audit_pb2

from runtime.audit.log import AuditLog
from runtime.audit.model import Head
from runtime.audit.reader import Batch
from runtime.audit.service import _event
from tests.unit.runtime.test_audit import forge, read, record, segments

from .conftest import Node, Result

Aer = Callable[..., Result]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Of a log with a few decisions."""
    log = AuditLog(tmp_path / "audit", size=64 * 1024)
    for number in range(60):
        record(log, str(number))
    record(log, "acme/x", who="cell web", allowed=False, rule="", reason="is of another tenant")
    log.close()
    return tmp_path / "audit"


def answers(folder: Path) -> tuple[list[Batch], Head]:
    """What a node with that log says."""
    log = AuditLog(folder)
    batches = read(log)
    head = log.head
    log._segments.close()
    return batches, head


def serve(node: Node, batches: list[Batch], head: Head) -> None:
    def watch(*_: Any) -> Iterator[audit_pb2.WatchResponse]:
        for batch in batches:
            events = [_event(event) for event in batch.events]
            yield audit_pb2.WatchResponse(
                events=events, previous=batch.previous, lost=batch.lost, damage=batch.damage
            )

    node.answers["Watch"] = watch
    node.answers["GetHead"] = lambda *_: audit_pb2.GetHeadResponse(seq=head.seq, hash=head.hash)


def test_people_see_when_who_what_on_which_object_and_why(
    aer: Aer, node: Node, folder: Path
) -> None:
    serve(node, *answers(folder))
    done = aer("audit", "log")
    assert done.status == 0
    header, start, first, *rest = done.out.splitlines()
    assert header.split() == ["SEQ", "TIME", "DECISION", "WHO", "METHOD", "OBJECT", "RULE"]
    assert start.split()[::2] == ["1", "start"]
    assert re.split(" {2,}", first.strip())[2:] == [
        "allowed",
        "spiffe://aurae.local/person/ann",
        "CellService/Allocate",
        "cell 0",
        "role admin for spiffe://aurae.local/person/*",
    ]
    (denied,) = [line for line in rest if "DENIED" in line]
    assert denied.split()[3:5] == ["cell", "web"]
    assert denied.endswith("is of another tenant")


def test_what_is_asked_reaches_the_node(aer: Aer, node: Node) -> None:
    serve(node, [], Head())
    words = "audit log -f --since 7 --who spiffe://* --method Free --denied"
    assert aer(*words.split()).status == 0
    assert node.requests[-1] == audit_pb2.WatchRequest(
        since=7, who="spiffe://*", method="Free", denied=True
    )
    assert aer("audit", "log", "--only-new").status == 0
    assert node.requests[-1] == audit_pb2.WatchRequest(only_new=True, no_follow=True)


def test_what_is_missing_is_said_where_it_is(aer: Aer, node: Node, folder: Path) -> None:
    (batch, *_), head = answers(folder)
    serve(node, [batch._replace(lost=5), Batch(damage="x.jsonl: no event")], head)
    done = aer("audit", "log")
    assert "5 events are missing here" in done.err
    assert "x.jsonl: no event" in done.err


def test_a_program_reads_an_event_a_line(aer: Aer, node: Node, folder: Path) -> None:
    serve(node, *answers(folder))
    done = aer("audit", "log", "--output", "json")
    seen = [json.loads(line) for line in done.out.splitlines()]
    assert seen[1]["object"] == "cell 0"
    assert seen[1]["kind"] == "AUDIT_EVENT_KIND_DECISION"


def test_the_head_is_printed_as_verify_takes_it(aer: Aer, node: Node, folder: Path) -> None:
    batches, head = answers(folder)
    serve(node, batches, head)
    printed = aer("audit", "head").out.strip()
    assert printed == f"{head.seq}:{head.hash}"
    done = aer("audit", "verify", "--head", printed)
    assert done.status == 0
    assert done.out.splitlines() == [
        f"{node.address}: events 1 to {head.seq} are as they were written",
        printed,
    ]
    said = json.loads(aer("audit", "verify", "--output", "json").out)
    assert said == {"seq": str(head.seq), "hash": head.hash}


def test_a_raw_log_is_verified_without_the_node(
    aer: Aer, node: Node, folder: Path, tmp_path: Path
) -> None:
    batches, head = answers(folder)
    serve(node, batches, head)
    raw = tmp_path / "raw"
    raw.write_text(aer("audit", "log", "--raw").out)
    kept = b"".join(path.read_bytes() for path in segments(folder)).splitlines()
    assert raw.read_bytes().splitlines() == [
        line for number, line in enumerate(kept) if not number or not line.startswith(b'{"audit"')
    ]
    node.answers.clear()
    done = aer("audit", "verify", str(raw), "--head", f"{head.seq}:{head.hash}")
    assert done.status == 0, done.err
    assert done.out.startswith(f"{raw}: events 1 to {head.seq} are as they were written")
    assert aer("audit", "log", "--raw", "--denied").status == 2


def test_a_folder_is_verified_with_its_own_head(aer: Aer, folder: Path) -> None:
    assert aer("audit", "verify", str(folder)).status == 0
    last = segments(folder)[-1]
    last.write_bytes(b"".join(last.read_bytes().splitlines(True)[:-2]))
    done = aer("audit", "verify", str(folder))
    assert done.status == 1
    assert "were taken off the end" in done.err


def test_a_log_that_was_written_anew_is_found_with_the_head_that_was_kept(
    aer: Aer, node: Node, folder: Path
) -> None:
    batches, _ = answers(folder)
    fifth = batches[0].events[4]
    for path in segments(folder)[1:]:
        path.unlink()
    (path,) = segments(folder)
    forge(path)
    assert aer("audit", "verify", str(path)).status == 0
    done = aer("audit", "verify", str(path), "--head", f"{fifth.seq}:{fifth.hash}")
    assert done.status == 1
    assert "event 5: is not the one that is known; the log was written anew" in done.err


def test_a_part_is_verified_if_it_is_called_one(aer: Aer, tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "long", size=16 * 1024)
    for number in range(400):
        record(log, str(number))
    log.close()
    last = str(segments(tmp_path / "long")[-1])
    assert aer("audit", "verify", str(tmp_path / "long")).status == 0
    done = aer("audit", "verify", last)
    assert done.status == 1
    assert "the node had kept them" in done.err
    assert aer("audit", "verify", "--part", last).status == 0
    older = aer("audit", "verify", "--part", last, "--head", f"3:{'0' * 64}")
    assert older.status == 0
    assert "no longer kept" in older.err


def test_a_node_that_hides_an_event_is_found(aer: Aer, node: Node, folder: Path) -> None:
    (batch, *rest), head = answers(folder)
    hidden = batch._replace(events=batch.events[:5] + batch.events[6:])
    serve(node, [hidden, *rest], head)
    assert "lines were taken out" in aer("audit", "verify").err
    changed = batch.events[5]._replace(who="spiffe://aurae.local/person/bob")
    serve(node, [batch._replace(events=[*batch.events[:5], changed, *batch.events[6:]])], head)
    assert "event 6: was changed" in aer("audit", "verify").err
    serve(node, [batch, *rest, Batch(damage="a.jsonl: no event")], head)
    assert "a.jsonl: no event" in aer("audit", "verify").err


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        ("verify --head 5", 2, "write NUMBER:HASH"),
        ("verify nowhere", 1, "nowhere: No such file"),
        ("verify empty", 2, "has no file of an audit log"),
        ("verify text", 1, "text: line 1"),
    ],
)
def test_what_cannot_be_verified_is_said(
    aer: Aer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str, status: int, said: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").write_text("text\n")
    monkeypatch.chdir(tmp_path)
    done = aer("audit", *words.split())
    assert done.status == status
    assert said in done.err
