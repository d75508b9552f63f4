"""The audit log on a plain folder: what is kept, what shows a change, what a disk may do."""

import asyncio
import errno
import json
import logging
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from initd.errors import Unavailable
from runtime.audit import chain
from runtime.audit import log as audit
from runtime.audit.log import AuditLog
from runtime.audit.model import MOST, Event, Filter, Head, Kind
from runtime.audit.reader import Batch
from runtime.audit.segments import Snapshot

SMALL = 64 * 1024


@pytest.fixture(autouse=True)
def _no_write_is_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow the disk is: what is recorded is written at once."""
    monkeypatch.setattr(audit, "SLOW", 60.0)


def record(log: AuditLog, name: str = "web", **more: Any) -> None:
    asked = {
        "who": "spiffe://aurae.local/person/ann",
        "method": "/aurae.cells.v0.CellService/Allocate",
        "object": f"cell {name}",
        "allowed": True,
        "rule": "role admin for spiffe://aurae.local/person/*",
    }
    log.record(**{**asked, **more})


def written(folder: Path, count: int, **options: Any) -> Head:
    """A log of so many decisions, closed. Its head."""
    log = AuditLog(folder, **options)
    for number in range(count):
        record(log, str(number))
    log.close()
    return log._head


def segments(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.jsonl"))


def lines(folder: Path) -> list[bytes]:
    return [line for path in segments(folder) for line in path.read_bytes().splitlines(True)[1:]]


def faults(folder: Path, *known: Head) -> list[str]:
    """As `aer audit verify FOLDER` does, without what the folder says of its own end."""
    verifier = chain.Verifier([(head.seq, head.hash) for head in known])
    for path in segments(folder):
        if not (data := path.read_bytes()):
            continue
        header, *rest = data.splitlines(True)
        verifier.begin(*chain.parse_header(header))
        for line in rest:
            verifier.event(line)
    verifier.finish()
    return verifier.faults


def read(log: AuditLog, **options: Any) -> list[Batch]:
    async def all_of_it() -> list[Batch]:
        return [batch async for batch in log.watch(follow=False, **options)]

    return asyncio.run(all_of_it())


def events(log: AuditLog, **options: Any) -> list[Event]:
    return [event for batch in read(log, **options) for event in batch.events]


def objects(log: AuditLog, **options: Any) -> list[str]:
    return [e.object for e in events(log, **options) if e.kind is Kind.DECISION]


def rewrite(path: Path, change: Callable[[list[bytes]], list[bytes]]) -> None:
    path.write_bytes(b"".join(change(path.read_bytes().splitlines(True))))


def forge(path: Path) -> None:
    """Change an event and make all hashes after it anew, as somebody who knows how would."""
    header, *rest = path.read_bytes().splitlines(True)
    previous = chain.parse_header(header)[1]
    forged = [header]
    for line in rest:
        fields, _, _ = chain.parse(line)
        fields["who"] = fields["who"].replace("ann", "bob")
        text = chain.body(fields)
        previous = chain.seal(previous, text)
        forged.append(chain.line(text, previous))
    path.write_bytes(b"".join(forged))


@contextmanager
def no_room(folder: Path) -> Iterator[None]:
    """No file of this process may grow beyond what the newest segment has now, and 100 bytes."""
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = segments(folder)[-1].stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, limit[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)


def try_again(log: AuditLog) -> None:
    """As if the time until then had passed."""
    log._resume = 0.0
    log._flush()


def test_a_decision_is_an_event_with_all_that_was_said_of_it(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit")
    log.record(
        who="cell web",
        method="/aurae.node.v0.NodeService/Shutdown",
        object='a "quoted" näme\ud800\n',
        allowed=False,
        rule="nothing allows it",
        reason="is for the node",
        peer="unix:@x",
    )
    start, event = events(log)
    assert (start.kind, start.seq, event.kind, event.seq) == (Kind.START, 1, Kind.DECISION, 2)
    assert event.who == "cell web"
    assert event.method == "/aurae.node.v0.NodeService/Shutdown"
    assert event.object == 'a "quoted" näme\ud800\n'
    assert not event.allowed
    assert (event.rule, event.reason, event.peer) == (
        "nothing allows it",
        "is for the node",
        "unix:@x",
    )
    assert abs(event.time - time.time_ns()) < 60e9
    assert event.boot == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert log.head == Head(2, event.hash)
    log.close()


def test_only_its_owner_may_look_at_the_files(tmp_path: Path) -> None:
    written(tmp_path / "state" / "audit", 3)
    assert (tmp_path / "state" / "audit").stat().st_mode & 0o777 == 0o700
    files = list((tmp_path / "state" / "audit").iterdir())
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
    assert {path.name for path in files} == {"head.json", f"{1:020}.jsonl"}


def test_an_event_is_written_before_record_returns(tmp_path: Path) -> None:
    log = AuditLog(tmp_path)
    record(log, "here")
    assert b"cell here" in lines(tmp_path)[-1]
    log.close()


def test_a_text_that_a_caller_chose_is_cut(tmp_path: Path) -> None:
    log = AuditLog(tmp_path)
    record(log, "\U0001f600" * 5_000_000)
    assert len(events(log)[-1].object) == MOST
    assert len(lines(tmp_path)[-1]) < 64 * 1024
    log.close()


def test_the_hash_is_what_anybody_can_compute(tmp_path: Path) -> None:
    written(tmp_path, 3)
    previous = "0" * 64
    for line in lines(tmp_path):
        body, _, tail = line.decode().rstrip("\n").rpartition(',"hash":"')
        done = subprocess.run(
            ["sha256sum"], input=f"{previous}{body}}}", text=True, capture_output=True, check=True
        )
        previous = done.stdout.split()[0]
        assert tail == f'{previous}"}}'
        assert json.loads(line)["hash"] == previous


def test_a_log_that_nobody_touched_verifies(tmp_path: Path) -> None:
    head = written(tmp_path, 200, size=SMALL)
    assert faults(tmp_path, head) == []
    again = written(tmp_path, 200, size=SMALL)
    assert faults(tmp_path, head, again) == []
    assert again.seq > head.seq + 200


def test_a_changed_byte_is_found_wherever_it_is(tmp_path: Path) -> None:
    written(tmp_path / "whole", 4)
    (path,) = segments(tmp_path / "whole")
    data = path.read_bytes()
    for place in range(len(data)):
        changed = bytearray(data)
        changed[place] ^= 0x01
        try:
            verifier = chain.Verifier()
            header, *rest = bytes(changed).split(b"\n")[:-1]
            verifier.begin(*chain.parse_header(header))
            for line in rest:
                verifier.event(line)
            verifier.finish()
        except ValueError:
            continue
        if place == len(data) - 1:
            # The last newline: the event before is not complete, and the head knows of it.
            assert verifier.seq == 5
            continue
        assert verifier.faults, f"byte {place}: {data[place : place + 10]!r}"


def test_a_line_that_was_taken_out_is_found(tmp_path: Path) -> None:
    written(tmp_path, 9)
    rewrite(segments(tmp_path)[0], lambda lines: lines[:4] + lines[5:])
    assert faults(tmp_path) == ["event 5: follows event 3; lines were taken out, or put elsewhere"]


def test_swapped_lines_are_found(tmp_path: Path) -> None:
    written(tmp_path, 9)
    rewrite(segments(tmp_path)[0], lambda lines: [*lines[:4], lines[5], lines[4], *lines[6:]])
    assert "event 5: follows event 3; lines were taken out, or put elsewhere" in faults(tmp_path)


def test_an_inserted_line_is_found(tmp_path: Path) -> None:
    written(tmp_path, 9)
    rewrite(segments(tmp_path)[0], lambda lines: [*lines[:4], lines[3], *lines[4:]])
    assert faults(tmp_path)


def test_what_was_taken_off_the_end_is_found_with_the_head(tmp_path: Path) -> None:
    head = written(tmp_path, 9)
    rewrite(segments(tmp_path)[0], lambda lines: lines[:-3])
    assert faults(tmp_path) == []
    assert faults(tmp_path, head) == [
        f"events {head.seq - 2} to {head.seq}: were taken off the end"
    ]


def test_a_segment_of_another_log_is_found(tmp_path: Path) -> None:
    written(tmp_path / "one", 200, size=SMALL)
    written(tmp_path / "two", 200, size=SMALL)
    ours, theirs = segments(tmp_path / "one"), segments(tmp_path / "two")
    assert ours[2].name == theirs[2].name
    shutil.copy(theirs[2], ours[2])
    assert faults(tmp_path / "one")


def test_a_segment_that_was_taken_out_is_found(tmp_path: Path) -> None:
    written(tmp_path, 100, size=SMALL)
    segments(tmp_path)[2].unlink()
    (fault,) = faults(tmp_path)
    assert fault.endswith("are missing, and no event says why")


def test_what_was_taken_off_the_front_is_not_taken_for_rotation(tmp_path: Path) -> None:
    written(tmp_path, 1000, size=SMALL)
    first = segments(tmp_path)[0]
    assert int(first.stem) > 1
    assert faults(tmp_path) == []
    first.unlink()
    (fault,) = faults(tmp_path)
    assert fault.endswith("are missing; the node had kept them")


def test_a_log_that_was_written_anew_is_found_with_a_head_from_outside(tmp_path: Path) -> None:
    head = written(tmp_path, 5)
    written(tmp_path, 5)
    forge(segments(tmp_path)[0])
    assert faults(tmp_path) == []
    assert faults(tmp_path, head) == [
        f"event {head.seq}: is not the one that is known; the log was written anew"
    ]


def test_a_forged_gap_does_not_explain_what_is_missing(tmp_path: Path) -> None:
    """Only an event of the chain counts, and that was there when the hole was."""
    head = written(tmp_path, 100, size=SMALL)
    segments(tmp_path)[2].unlink()
    log = AuditLog(tmp_path, size=SMALL)
    log.open()
    log._note(Kind.GAP, first=1, last=2, previous="0" * 64)
    log.close()
    assert [fault for fault in faults(tmp_path, head) if "no event says why" in fault]


def test_the_size_is_bounded_and_the_oldest_goes(tmp_path: Path) -> None:
    log = AuditLog(tmp_path, size=SMALL)
    most = 0
    for number in range(2000):
        record(log, str(number))
        if number % 50 == 0:
            most = max(most, sum(path.stat().st_size for path in tmp_path.iterdir()))
    assert SMALL // 2 < most <= SMALL + 1024
    kept = objects(log)
    assert kept == [f"cell {number}" for number in range(2000 - len(kept), 2000)]
    assert len(kept) > 50
    log.close()
    assert faults(tmp_path) == []


def test_a_log_goes_on_where_it_ended(tmp_path: Path) -> None:
    for run in range(3):
        log = AuditLog(tmp_path)
        record(log, str(run))
        log.close()
    log = AuditLog(tmp_path)
    kinds = [event.kind.value for event in events(log)]
    assert kinds == ["start", "decision", "stop"] * 3 + ["start"]
    assert [event.seq for event in events(log)] == list(range(1, 11))
    log.close()
    assert faults(tmp_path) == []


def test_a_run_that_was_killed_loses_nothing_that_it_had_recorded(tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    script = Path(__file__).with_name("audit_writer.py")
    told = 0
    for run in range(6):
        with subprocess.Popen(
            [sys.executable, script, tmp_path], stdout=subprocess.PIPE, env=env
        ) as writer:
            assert writer.stdout is not None
            for _ in range(100 + 377 * run):
                told = int(writer.stdout.readline())
            writer.send_signal(signal.SIGKILL)
            rest = writer.stdout.read().split(b"\n")[:-1]
            told = int(rest[-1]) if rest else told
        if run % 2:
            # What a crash in the middle of write(2) leaves, which is rare.
            with segments(tmp_path)[-1].open("ab") as file:
                file.write(b'{"seq":' + b"9" * run)
    log = AuditLog(tmp_path, size=256 * 1024)
    numbers = [event.seq for event in events(log)]
    assert numbers == list(range(numbers[0], numbers[-1] + 1))
    assert numbers[-1] > told
    assert Kind.BROKEN not in {event.kind for event in events(log)}
    log.close()
    assert faults(tmp_path) == []


def test_a_segment_whose_header_is_not_whole_is_begun_again(tmp_path: Path) -> None:
    head = written(tmp_path, 3)
    (tmp_path / f"{head.seq + 1:020}.jsonl").write_bytes(b'{"audit":1,"af')
    written(tmp_path, 3)
    assert faults(tmp_path, head) == []
    assert len(segments(tmp_path)) == 1


def drop_tail(folder: Path) -> None:
    rewrite(segments(folder)[-1], lambda lines: lines[:-1])


def drop_head(folder: Path) -> None:
    (folder / "head.json").unlink()


def spoil_head(folder: Path) -> None:
    (folder / "head.json").write_text("{}")


def drop_all(folder: Path) -> None:
    for path in segments(folder):
        path.unlink()


def change_last(folder: Path) -> None:
    rewrite(segments(folder)[-1], lambda lines: [*lines[:-1], lines[-1][:-5] + b'00"}\n'])


def add_one(folder: Path) -> None:
    rewrite(segments(folder)[-1], lambda lines: [*lines, lines[-1]])


def wild_head(folder: Path) -> None:
    (folder / "head.json").write_text('{"seq":-7,"hash":"","segment":-1,"size":-5}')


def wild_line(folder: Path) -> None:
    rewrite(segments(folder)[-1], lambda lines: [*lines, b"[" * 60_000 + b"\n"])


def wild_number(folder: Path) -> None:
    rewrite(segments(folder)[-1], lambda lines: [*lines, b'{"seq":' + b"9" * 9000 + b",\n"])


def empty_last(folder: Path) -> None:
    segments(folder)[-1].write_bytes(b"")


@pytest.mark.parametrize(
    "harm",
    [
        drop_tail,
        drop_head,
        spoil_head,
        wild_head,
        drop_all,
        change_last,
        add_one,
        empty_last,
        wild_line,
        wild_number,
    ],
)
def test_a_log_that_was_changed_while_nobody_wrote_is_not_mended_but_begins_anew(
    tmp_path: Path, harm: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    head = written(tmp_path, 20)
    harm(tmp_path)
    left = {path: path.read_bytes() for path in segments(tmp_path)}
    log = AuditLog(tmp_path)
    log.open()
    assert "it begins anew" in caplog.text
    record(log, "later")
    seen = [event for event in events(log) if event.seq > head.seq]
    assert [event for event in seen if event.kind is Kind.BROKEN]
    log.close()
    assert {path: path.read_bytes() for path in left} == left
    assert any("was found broken" in fault for fault in faults(tmp_path))
    # And the new chain is one: the next run has nothing to complain of.
    caplog.clear()
    written(tmp_path, 3)
    assert caplog.text == ""


def test_a_full_disk_holds_nobody_up_and_loses_nothing_while_there_is_memory(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = AuditLog(tmp_path)
    record(log, "before")
    with no_room(tmp_path):
        for number in range(50):
            record(log, str(number))
        assert objects(log) == ["cell before", *(f"cell {number}" for number in range(50))]
    errors = [r for r in caplog.records if r.levelno == logging.ERROR]
    assert len(errors) == 1
    assert "File too large" in errors[0].getMessage()
    try_again(log)
    record(log, "after")
    assert objects(log)[-2:] == ["cell 49", "cell after"]
    log.close()
    assert faults(tmp_path) == []
    assert b"cell 49" in b"".join(lines(tmp_path))


def test_what_a_full_disk_lost_is_told_by_an_event(tmp_path: Path) -> None:
    log = AuditLog(tmp_path, waiting=4096)
    record(log, "before")
    with no_room(tmp_path):
        for number in range(50):
            record(log, str(number))
    try_again(log)
    log.close()
    (gap,) = [e for e in map(Event.parse, lines(tmp_path)) if e.kind is Kind.GAP]
    lost = gap.last - gap.first + 1
    assert gap.first == 3
    assert 35 < lost < 45
    assert gap.reason == f"{lost} events could not be kept"
    assert faults(tmp_path) == []
    again = AuditLog(tmp_path)
    assert objects(again) == ["cell before", *(f"cell {number}" for number in range(lost, 50))]
    assert sum(batch.lost for batch in read(again)) == lost
    again.close()
    # The same hole, and nobody tells of it.
    rewrite(
        segments(tmp_path)[-1],
        lambda lines: [line for line in lines if b'"gap"' not in line],
    )
    assert len(faults(tmp_path)) > 1


def test_what_waits_in_memory_is_bounded_whatever_callers_write(tmp_path: Path) -> None:
    log = AuditLog(tmp_path)
    record(log)
    with no_room(tmp_path):
        for _ in range(300):
            record(log, "\U0001f600" * MOST)
        assert log._size == sum(len(event.line) for event in log._waiting) <= audit.WAITING
        waiting = len(log._waiting)
        assert 100 < waiting < 300
        batches = read(log, since=3)
        assert max(len(batch.events) for batch in batches) <= audit.AT_ONCE
        assert sum(len(batch.events) for batch in batches) == waiting
        assert batches[0].lost == 300 - waiting
    try_again(log)
    assert log._size == 0
    log.close()
    assert faults(tmp_path) == []


def test_a_disk_that_fails_over_and_over_is_told_of_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(audit, "SYNC", 0.0)

    async def scenario() -> None:
        log = AuditLog(tmp_path)
        enough, loop, tries = asyncio.Event(), asyncio.get_running_loop(), iter(range(5))

        def fail(snapshot: Snapshot) -> None:
            for fd in snapshot.fds:
                os.close(fd)
            if next(tries, None) is None:
                loop.call_soon_threadsafe(enough.set)
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        monkeypatch.setattr(log._segments, "sync", fail)
        async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
            run = tasks.create_task(log.run())
            await enough.wait()
            record(log, "later")
            run.cancel()
        log.close()

    asyncio.run(scenario())
    assert b"cell later" in b"".join(lines(tmp_path))
    assert len(caplog.records) == 1
    assert "is not safe on the disk: [Errno 5]" in caplog.text


def test_a_folder_that_cannot_be_made_is_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "state").write_text("in the way")
    log = AuditLog(tmp_path / "state" / "audit")
    record(log, "early")
    record(log, "too")
    assert len(caplog.records) == 1
    with pytest.raises(Unavailable, match="Not a directory; mend it"):
        read(log)
    (tmp_path / "state").unlink()
    log._resume = 0.0
    record(log, "late")
    assert objects(log) == ["cell early", "cell too", "cell late"]
    log.close()
    assert faults(tmp_path / "state" / "audit") == []


def test_a_write_that_was_slow_has_the_next_events_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = AuditLog(tmp_path)
    record(log, "quick")
    monkeypatch.setattr(audit, "SLOW", 0.0)
    record(log, "slow")
    log._resume = time.monotonic() + 60
    record(log, "waits")
    assert b"cell slow" in lines(tmp_path)[-1]
    assert objects(log) == ["cell quick", "cell slow", "cell waits"]
    log.close()
    assert faults(tmp_path) == []


def test_nothing_is_recorded_after_the_end(tmp_path: Path) -> None:
    log = AuditLog(tmp_path)
    record(log)
    log.close()
    record(log)
    assert len(lines(tmp_path)) == 3


def test_a_reader_begins_where_it_wants(tmp_path: Path) -> None:
    log = AuditLog(tmp_path, size=SMALL)
    for number in range(1000):
        record(log, str(number))
    first = events(log)[0].seq
    assert first > 1
    assert log.head.seq > first + 100
    assert events(log, since=log.head.seq - 9)[0].seq == log.head.seq - 9
    assert events(log, since=log.head.seq + 1) == []
    assert events(log, only_new=True) == []
    late = read(log, since=1)
    assert late[0].lost == first - 1
    assert late[0].events[0].seq == first
    previous = read(log, since=first + 10)[0].previous
    assert previous == events(log)[9].hash
    log.close()


def test_a_slow_reader_is_told_how_many_it_lost(tmp_path: Path) -> None:
    async def scenario() -> tuple[int, int, int]:
        log = AuditLog(tmp_path, size=SMALL)
        record(log, "first")
        stream = log.watch()
        got = [await anext(stream)]
        for number in range(3000):
            record(log, str(number))
        last = log.head.seq
        while not got[-1].events or got[-1].events[-1].seq < last:
            got.append(await anext(stream))
        await stream.aclose()  # type: ignore[attr-defined]
        log.close()
        seen = sum(len(batch.events) for batch in got)
        return seen, sum(batch.lost for batch in got), last

    seen, lost, last = asyncio.run(scenario())
    assert lost > 1000
    assert seen + lost == last


def test_followers_hear_of_an_event_at_once(tmp_path: Path) -> None:
    names = ["cell a", "cell b", "cell c"]

    async def follow(log: AuditLog) -> list[str]:
        heard: list[str] = []
        async for batch in log.watch(only_new=True):
            heard += [event.object for event in batch.events]
            if len(heard) == len(names):
                break
        return heard

    async def scenario() -> list[list[str]]:
        log = AuditLog(tmp_path)
        record(log, "old")
        async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
            followers = [tasks.create_task(follow(log)) for _ in range(3)]
            await asyncio.sleep(0)
            for name in ("a", "b", "c"):
                record(log, name)
                await asyncio.sleep(0)
        log.close()
        return [follower.result() for follower in followers]

    assert asyncio.run(scenario()) == [names] * 3


def test_what_was_changed_while_the_node_runs_is_read_as_it_is(tmp_path: Path) -> None:
    log = AuditLog(tmp_path)
    for number in range(9):
        record(log, str(number))
    path = segments(tmp_path)[0]
    data = path.read_bytes().splitlines(True)
    path.write_bytes(b"".join([*data[:4], b"nonsense\r\n", *data[5:]]))
    got = read(log)
    assert [batch.damage for batch in got if batch.damage]
    verifier = chain.Verifier()
    for batch in got:
        if batch.events:
            verifier.begin(batch.events[0].seq - 1, batch.previous)
        for event in batch.events:
            verifier.events += 1
            verifier.seq, verifier.hash = event.seq, event.hash
    verifier.finish()
    assert verifier.faults == ["events 4 to 4: are missing, and no event says why"]
    log.close()


def test_what_is_written_is_safe_soon_and_the_head_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "SYNC", 0.01)

    async def scenario() -> None:
        log = AuditLog(tmp_path)
        safe, loop, sync = asyncio.Event(), asyncio.get_running_loop(), log._segments.sync

        def synced(snapshot: Snapshot) -> None:
            sync(snapshot)
            if snapshot.place.head.seq == 2:
                loop.call_soon_threadsafe(safe.set)

        monkeypatch.setattr(log._segments, "sync", synced)
        async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
            run = tasks.create_task(log.run())
            await asyncio.sleep(0)
            record(log)
            await safe.wait()
            run.cancel()
            assert json.loads((tmp_path / "head.json").read_text())["seq"] == 2
        log.close()

    asyncio.run(scenario())
    assert json.loads((tmp_path / "head.json").read_text())["seq"] == 3


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (Filter(), 4),
        (Filter(who="spiffe://*/person/ann"), 1),
        (Filter(who="spiffe://*"), 2),
        (Filter(method="Allocate"), 2),
        (Filter(method="CellService/*"), 3),
        (Filter(method="/aurae.cells.v0.CellService/Free"), 1),
        (Filter(method="llocate"), 0),
        (Filter(denied=True), 1),
        (Filter(who="cell *", denied=True), 1),
    ],
)
def test_filters(tmp_path: Path, asked: Filter, expected: int) -> None:
    log = AuditLog(tmp_path)
    record(log)
    record(log, who="spiffe://aurae.local/person/bob")
    record(log, who="cell web", method="/aurae.cells.v0.CellService/Free", allowed=False)
    assert sum(map(asked.matches(), events(log))) == expected
    log.close()


def test_a_decision_costs_little(tmp_path: Path) -> None:
    """9 us on an idle machine; a call costs some 500."""
    log = AuditLog(tmp_path)
    log.open()
    best = 1.0
    for _ in range(20):
        began = time.perf_counter()
        for _ in range(100):
            record(log)
        best = min(best, (time.perf_counter() - began) / 100)
    log.close()
    assert best < 50e-6
