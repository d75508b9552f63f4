"""sd_notify: what is understood, whose word counts, and what a chatterer can do."""

import gc
import os
import socket
import sys
import time
from typing import Any

import pytest

from initd.processes.model import Spawn, State
from initd.processes.notify import MESSAGE_LIMIT, Message, parse
from tests.unit.initd.owner import Owner

SEND = (
    "import os, socket, sys, time\n"
    "s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\n"
    "s.connect(os.environ['NOTIFY_SOCKET'])\n"
)


def says(owner: Owner, code: str, **fields: Any) -> Spawn:
    given = {
        "id": "web",
        "argv": (sys.executable, "-c", SEND + code),
        "cgroup": "web",
        "env": {"NOTIFY_SOCKET": str(owner.socket.with_name("notify"))},
        **fields,
    }
    return Spawn(**given)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"READY=1", Message(True, None)),
        (b"READY=1\nSTATUS=Serving 3 clients\n", Message(True, "Serving 3 clients")),
        (b"STATUS=a=b\nMAINPID=1\nWATCHDOG=1", Message(False, "a=b")),
        (b"READY=0", Message(False, None)),
        (b"READY", Message(False, None)),
        (b"READY=1\0", Message(False, None)),
        (b"STATUS=", Message(False, "")),
        (b"STATUS=\x1b[31mred\a", Message(False, "[31mred")),
        (b"STATUS=\xff\xfe", Message(False, "\ufffd\ufffd")),
        (b"STATUS=" + b"x" * 2000, Message(False, "x" * 256)),
        (b"", Message(False, None)),
        (b"\0\xff=\n=\n==", Message(False, None)),
    ],
)
def test_what_is_understood(data: bytes, message: Message) -> None:
    assert parse(data) == message


def test_a_process_tells_that_it_is_ready_and_how_it_is(owner: Owner) -> None:
    owner.processes.spawn(
        says(owner, "s.send(b'STATUS=begins\\nREADY=1'); sys.stdin.close(); time.sleep(1000)"), {}
    )
    owner.until(lambda: owner.process("web").ready)
    process = owner.process("web")
    assert (process.status, process.state, process.revision) == ("begins", State.RUNNING, 1)
    owner.processes.stop("web", 0)
    ended = owner.until_ended("web")
    assert (ended.ready, ended.status) == (True, "begins")


def test_a_child_speaks_for_its_executable_and_the_last_status_is_kept(owner: Owner) -> None:
    code = "if not os.fork(): s.send(b'READY=1'); s.send(b'STATUS=last')\nsys.stdin.read()"
    read, write = os.pipe()
    owner.processes.spawn(says(owner, code), {0: read})
    owner.until(lambda: owner.process("web").status == "last")
    os.close(write)
    os.close(read)
    ended = owner.until_ended("web")
    assert (ended.ready, ended.status, ended.code) == (True, "last", 0)


def test_nobody_speaks_for_another(owner: Owner) -> None:
    owner.processes.spawn(says(owner, "time.sleep(1000)"), {})
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as stranger:
        stranger.connect(str(owner.socket.with_name("notify")))
        stranger.send(b"READY=1")
        owner.processes.spawn(
            says(owner, "s.send(b'READY=1'); time.sleep(1000)", id="api", cgroup="api"), {}
        )
        owner.until(lambda: owner.process("api").ready)
    assert not owner.process("web").ready


def test_what_is_too_long_is_dropped_and_descriptors_are_closed(owner: Owner) -> None:
    code = (
        "s.send(b'STATUS=begun'); sys.stdin.read();"
        f"s.send(b'READY=1\\n' + b'x' * {MESSAGE_LIMIT}); r, w = os.pipe();"
        "socket.send_fds(s, [b'BARRIER=1'], [w]); os.close(w);"
        "print(os.read(r, 1), flush=True); s.send(b'STATUS=after'); time.sleep(1000)"
    )
    read, write = os.pipe()
    owner.processes.spawn(says(owner, code), {0: read})
    owner.until(lambda: owner.process("web").status == "begun")
    # What tests before this one have left goes now, and not while it counts.
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    os.close(write)
    owner.until(lambda: owner.process("web").status == "after")
    assert not owner.process("web").ready
    assert owner.output(owner.process("web")) == b"b''\n"
    # All but the one that this test has closed.
    assert len(os.listdir("/proc/self/fd")) == before - 1  # noqa: PTH208
    os.close(read)


def test_a_chatterer_is_passed_on_a_few_times_a_second_only(owner: Owner) -> None:
    code = "for n in range(3000): s.send(b'STATUS=%d' % n)\ntime.sleep(1000)"
    began = time.monotonic()
    owner.processes.spawn(says(owner, code), {})
    owner.until(lambda: owner.process("web").status == "2999")
    assert owner.process("web").revision <= (time.monotonic() - began) / 0.25 + 1
