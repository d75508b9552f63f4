"""The runtime's log lines."""

import logging
import os
from collections.abc import Iterator

import pytest

from runtime.server.log import MAX_LINE, Line, Stderr


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    read, write = os.pipe()
    yield read, write
    os.close(read)
    os.close(write)


def record(message: str, level: int = logging.WARNING) -> logging.LogRecord:
    return logging.LogRecord("x", level, "file", 1, message, (), None)


def handler(fd: int) -> Stderr:
    there = Stderr(fd)
    there.setFormatter(Line())
    return there


def test_a_record_is_one_line_with_its_level(pipe: tuple[int, int]) -> None:
    handler(pipe[1]).emit(record("first\nsecond"))
    assert os.read(pipe[0], 1000) == b"warning: first\\nsecond\n"


def test_a_line_never_is_longer_than_a_pipe_takes_at_once(pipe: tuple[int, int]) -> None:
    handler(pipe[1]).emit(record("x" * 10_000))
    line = os.read(pipe[0], 20_000)
    assert (len(line), line[-1:]) == (MAX_LINE, b"\n")


def test_a_full_pipe_blocks_nobody_and_what_was_dropped_is_counted(pipe: tuple[int, int]) -> None:
    there = handler(pipe[1])
    for _ in range(100):
        there.emit(record("x" * 3000))
    held = 0
    while held < 65536 // 4096:
        held += os.read(pipe[0], 1 << 20).count(b"\n")
    there.emit(record("after"))
    assert os.read(pipe[0], 1000) == b"warning: after (%d lines before this one were dropped)\n" % (
        100 - held
    )
