import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from initd.linux import inotify
from initd.linux.splice import make_pipe
from initd.logs.budget import Budget
from initd.logs.model import entry_at, entry_count, index_path, read_entries, read_header
from initd.logs.stream import Stream

MIB = 1024 * 1024


class Log:
    """A stream, and its files as a reader opens them."""

    def __init__(self, path: Path) -> None:
        self.stream = Stream(path)
        self.data = os.open(path, os.O_RDONLY)
        self.index = os.open(index_path(path), os.O_RDONLY)

    def close(self) -> None:
        os.close(self.data)
        os.close(self.index)
        self.stream.release()


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    log = Log(tmp_path / "stdout")
    yield log
    log.close()


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    read, write = make_pipe()
    yield read, write
    os.close(read)
    os.close(write)


def test_a_new_stream_is_empty_and_open(log: Log) -> None:
    assert read_header(log.index) == (0, 0, False)
    assert entry_count(log.index) == 0


def test_bytes_come_from_the_pipe_as_they_were_written(log: Log, pipe: tuple[int, int]) -> None:
    read, write = pipe
    os.write(write, b"one\ntwo\n\xff\x00")
    assert log.stream.take(read, MIB) == 10
    os.write(write, b"three")
    assert log.stream.take(read, MIB) == 5
    assert os.pread(log.data, 100, 0) == b"one\ntwo\n\xff\x00three"
    assert [entry.offset for entry in read_entries(log.index, 0, 9)] == [0, 10]


def test_an_empty_pipe_is_not_waited_for(log: Log, pipe: tuple[int, int]) -> None:
    with pytest.raises(BlockingIOError):
        log.stream.take(pipe[0], MIB)


def test_times_of_entries_never_fall(log: Log) -> None:
    for _ in range(5):
        log.stream.write(b"line\n")
    times = [entry.time for entry in read_entries(log.index, 0, 5)]
    assert times == sorted(times)
    assert times[0] > 0


def test_a_reader_finds_the_entry_of_an_offset(log: Log) -> None:
    for _ in range(100):
        log.stream.write(b"0123456789")
    assert [entry_at(log.index, offset) for offset in (0, 9, 10, 555, 999)] == [0, 0, 1, 55, 99]


def test_a_reader_is_woken_by_the_index(log: Log, tmp_path: Path) -> None:
    watcher = inotify.init()
    try:
        inotify.watch(watcher, str(tmp_path / "stdout.index"), inotify.MODIFY)
        assert inotify.read(watcher) == []
        log.stream.write(b"line\n")
        assert inotify.read(watcher)[0].mask & inotify.MODIFY
        log.stream.finish()
        assert inotify.read(watcher)[0].mask & inotify.MODIFY
    finally:
        os.close(watcher)


def test_what_is_dropped_is_counted_in_lines_and_ends_with_one(log: Log) -> None:
    lines = [b"line %d\n" % number for number in range(10_000)]
    log.stream.write(b"".join(lines))
    dropped = log.stream.drop(50_000)
    header = read_header(log.index)
    assert header.start == dropped >= 50_000
    assert b"".join(lines[: header.lost_lines]) == b"".join(lines)[: header.start]
    rest = os.pread(log.data, 200_000, header.start)
    assert rest == b"".join(lines[header.lost_lines :])


def test_what_is_dropped_gives_its_memory_back(log: Log) -> None:
    log.stream.write(b"x" * 99 + b"\n")
    for _ in range(80):
        log.stream.write((b"x" * 99 + b"\n") * 1000)
    before = os.fstat(log.data).st_blocks * 512
    log.stream.drop(4 * MIB)
    after = os.fstat(log.data).st_blocks * 512
    assert before - after >= 4 * MIB - 8192


def test_data_without_a_newline_is_dropped_too(log: Log) -> None:
    log.stream.write(b"x" * MIB)
    assert log.stream.drop(MIB // 2) >= MIB // 2


def test_no_more_is_dropped_than_there_is(log: Log) -> None:
    log.stream.write(b"line\n")
    assert log.stream.drop(MIB) == 5
    assert log.stream.drop(MIB) == 0


def test_the_index_too_is_given_back(log: Log) -> None:
    for _ in range(5000):
        log.stream.write(b"line\n")
    kept = log.stream.kept
    log.stream.drop(20_000)
    assert kept - log.stream.kept > 20_000 + 4000 * 16 - 8192
    position = entry_at(log.index, log.stream.start)
    entry, after = read_entries(log.index, position, 2)
    assert entry.offset <= log.stream.start < after.offset


def test_a_stream_keeps_no_more_than_its_limit(log: Log) -> None:
    budget = Budget(total=100 * MIB, each=MIB)
    for _ in range(40):
        log.stream.write(b"x" * 99_999 + b"\n")
        budget.enforce(log.stream)
        assert log.stream.kept <= MIB
    assert log.stream.kept > MIB // 2


def test_beyond_the_total_the_longest_gives_way(tmp_path: Path) -> None:
    budget = Budget(total=MIB, each=16 * MIB)
    long, short = Log(tmp_path / "long"), Log(tmp_path / "short")
    for _ in range(9):
        long.stream.write(b"x" * 99_999 + b"\n")
        budget.enforce(long.stream)
    for _ in range(4):
        short.stream.write(b"y" * 99_999 + b"\n")
        budget.enforce(short.stream)
    assert short.stream.start == 0
    assert long.stream.start > 0
    assert long.stream.kept + short.stream.kept <= MIB
    long.close()
    short.close()


def test_what_is_forgotten_counts_no_more(tmp_path: Path) -> None:
    budget = Budget(total=MIB, each=16 * MIB)
    gone, log = Log(tmp_path / "gone"), Log(tmp_path / "log")
    gone.stream.write(b"x" * 900_000)
    budget.enforce(gone.stream)
    budget.forget(gone.stream)
    gone.close()
    log.stream.write(b"y" * 900_000)
    budget.enforce(log.stream)
    assert log.stream.start == 0
    log.close()


def test_an_index_that_is_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "index"
    path.write_bytes(b"x" * 31)
    index = os.open(path, os.O_RDONLY)
    with pytest.raises(ValueError, match="cut short"):
        read_header(index)
    path.write_bytes(b"x" * 64)
    with pytest.raises(ValueError, match="magic"):
        read_header(index)
    os.close(index)
