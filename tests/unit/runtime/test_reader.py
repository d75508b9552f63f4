"""Reading log streams that the real writer writes."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from initd.logs.stream import Stream
from runtime.observe.model import CHUNK, MAX_LINE, Lines, Lost, Reader


@pytest.fixture
def written(tmp_path: Path) -> Iterator[Stream]:
    writer = Stream(tmp_path / "stdout")
    yield writer
    writer.release()


@pytest.fixture
def reader(tmp_path: Path, written: Stream) -> Iterator[Reader]:
    with Reader(tmp_path / "stdout", "stdout") as reader:
        yield reader


def everything(reader: Reader) -> list[Lines | Lost]:
    """Until there is nothing more for now."""
    items: list[Lines | Lost] = []
    while (read := reader.read()).items:
        items += read.items
    return items


def texts(items: list[Lines | Lost]) -> list[str]:
    return [text for item in items if isinstance(item, Lines) for text in item.texts]


def lost(items: list[Lines | Lost]) -> int:
    return sum(item.lines for item in items if isinstance(item, Lost))


def test_lines_come_whole_however_they_were_written(written: Stream, reader: Reader) -> None:
    written.write(b"one\ntw")
    assert texts(everything(reader)) == ["one"]
    written.write(b"o\n\nthree")
    assert texts(everything(reader)) == ["two", ""]
    written.write(b"\n")
    assert texts(everything(reader)) == ["three"]
    assert not reader.read().end


def test_the_end_brings_a_last_line_without_newline(written: Stream, reader: Reader) -> None:
    written.write(b"one\nlast")
    written.finish()
    assert texts(reader.read().items) == ["one"]
    read = reader.read()
    assert (texts(read.items), read.end) == (["last"], True)


def test_a_stream_without_output_just_ends(written: Stream, reader: Reader) -> None:
    assert not reader.read().end
    written.finish()
    read = reader.read()
    assert (read.items, read.end) == ([], True)


def test_each_line_has_the_time_of_the_chunk_it_began_in(
    written: Stream, reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(1000, 2000))
    monkeypatch.setattr("time.time_ns", lambda: next(clock))
    for number in range(600):
        written.write(b"%d\n" % number)
    written.write(b"begun ")
    written.write(b"ended\nnext\n")
    lines = [
        (text, item.time)
        for item in everything(reader)
        if isinstance(item, Lines)
        for text in item.texts
    ]
    assert lines[:600] == [(str(number), 1000 + number) for number in range(600)]
    assert lines[600:] == [("begun ended", 1600), ("next", 1601)]


def test_a_line_belongs_to_the_chunk_it_begins_in_wherever_chunks_end(
    written: Stream, reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(1000, 2000))
    monkeypatch.setattr("time.time_ns", lambda: next(clock))
    for chunk in (b"a\nb", b"b\n", b"c\nd\ne", b"e", b"e\nf\n", b"\n", b"g\n"):
        written.write(chunk)
    items = [item for item in everything(reader) if isinstance(item, Lines)]
    assert [(item.time, item.texts) for item in items] == [
        (1000, ["a", "bb"]),
        (1002, ["c", "d", "eee"]),
        (1004, ["f"]),
        (1005, [""]),
        (1006, ["g"]),
    ]


def test_a_long_line_comes_in_pieces(written: Stream, reader: Reader) -> None:
    written.write(b"x" * (2 * MAX_LINE + 5) + b"\nshort\n" + b"y" * MAX_LINE + b"\n")
    assert [len(text) for text in texts(everything(reader))] == [
        MAX_LINE,
        MAX_LINE,
        5,
        5,
        MAX_LINE,
    ]


def test_bytes_that_are_no_text_are_replaced(written: Stream, reader: Reader) -> None:
    written.write("ä".encode() + b"\xff\n")
    assert texts(everything(reader)) == ["ä\ufffd"]


def test_what_was_dropped_before_the_first_look_is_counted(written: Stream, reader: Reader) -> None:
    for number in range(3000):
        written.write(b"line %04d\n" % number)
    written.drop(15_000)
    items = everything(reader)
    assert lost(items) == 1500
    assert texts(items) == [f"line {number:04}" for number in range(1500, 3000)]


def test_what_is_dropped_under_a_slow_reader_is_counted(written: Stream, reader: Reader) -> None:
    line = b"x" * 99 + b"\n"
    for _ in range(5000):
        written.write(line)
    first = texts(reader.read().items)
    assert 0 < len(first) < 5000
    written.drop(300_000)
    written.drop(100_000)
    items = everything(reader)
    assert isinstance(items[0], Lost)
    assert len(first) + lost(items) + len(texts(items)) == 5000
    assert set(map(len, texts(items))) == {99}


def test_one_turn_of_reading_is_bounded(written: Stream, reader: Reader) -> None:
    written.write(b"x\n" * CHUNK)
    assert len(texts(reader.read().items)) == CHUNK // 2
    assert len(texts(everything(reader))) == CHUNK // 2


def test_a_stream_that_is_gone_ends(tmp_path: Path, written: Stream, reader: Reader) -> None:
    written.write(b"one\n")
    for path in (tmp_path / "stdout", tmp_path / "stdout.index"):
        path.unlink()
    assert texts(everything(reader)) == ["one"]
    assert reader.read().end


def test_no_stream_is_told_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Reader(tmp_path / "none", "stdout")
