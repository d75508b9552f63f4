"""Runs inside the guest in the runtime's place, so that PID 1 lets it speak: `main()`.

Sends random messages and descriptors to PID 1's socket, says how many were answered, and ends. What
it sends is wrong in some way, always: a right one could take the machine down, and would be right
to.
"""

import array
import json
import os
import random
import signal
import socket
import sys
from pathlib import Path

SOCKET = "/run/aurae/initd.sock"
SETTINGS = Path("/tmp/fuzz.json")
OPS = (
    "subscribe",
    "spawn",
    "signal",
    "stop",
    "list",
    "forget",
    "ready",
    "status",
    "shutdown",
    "alive",
    "identity",
    "",
)
FIELDS = (
    "id",
    "argv",
    "env",
    "cwd",
    "uid",
    "gid",
    "meta",
    "fds",
    "grace",
    "signal",
    "how",
    "spiffe_id",
)


def value(chance: random.Random, depth: int = 0) -> object:
    plain: tuple[object, ...] = (
        *(None, True, -1, 0, 1, 2**31, 2**64, 1e308, -0.5, "", "/", "..", "\0", "x" * 5000),
        *("aurae", "../auraed/initd", "auraed/runtime", "/sys/fs/cgroup", "\ud800", "0", "9"),
    )
    if depth > 3 or chance.random() < 0.7:
        return chance.choice(plain)
    items = [value(chance, depth + 1) for _ in range(chance.randrange(4))]
    return items if chance.random() < 0.5 else {str(n): item for n, item in enumerate(items)}


def message(chance: random.Random) -> bytes:
    kind = chance.random()
    if kind < 0.2:
        return chance.randbytes(chance.choice((1, 10, 1000, 140_000)))
    if kind < 0.25:
        return b"[" * chance.choice((1, 100, 100_000))
    request = {name: value(chance) for name in chance.sample(FIELDS, chance.randrange(6))}
    request["op"] = chance.choice((*OPS, value(chance)))
    # Not one of these can be meant: a leaf whose parent is a file, or no road down.
    request["cgroup"] = chance.choice(("cgroup.procs/x", "nowhere/x", "..", 5))
    if request["op"] == "shutdown":
        request["how"] = chance.choice(("", "now", None, 1, "POWEROFF"))
    data = json.dumps(request).encode(errors="replace")
    return data if kind < 0.8 else data[: chance.randrange(1, len(data) + 1)]


def descriptors(chance: random.Random, some: list[int]) -> list[int]:
    return [chance.choice(some) for _ in range(chance.choice((0, 0, 1, 3, 253)))]


def connect() -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.settimeout(60)
    connection.connect(SOCKET)
    return connection


def main() -> int:
    settings = json.loads(SETTINGS.read_text())
    chance = random.Random(settings["seed"])
    some = [*os.pipe(), os.open("/dev/null", os.O_RDWR), os.memfd_create("x")]
    some += [end.detach() for end in socket.socketpair()]
    connection, answered, refused = connect(), 0, 0
    for _ in range(settings["count"]):
        data = message(chance)
        rights = array.array("i", descriptors(chance, some)).tobytes()
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)] if rights else []
        try:
            connection.sendmsg([data], ancillary)
            answer = json.loads(connection.recv(1 << 20))
        except (BrokenPipeError, ConnectionResetError, json.JSONDecodeError):
            connection.close()
            connection = connect()
            continue
        answered += 1
        refused += "error" in answer
        if chance.random() < 0.02:
            # Hang up amid everything.
            connection.close()
            connection = connect()
    sys.stderr.write(f"fuzz: {settings['count']} sent, {answered} answered, {refused} refused\n")
    SETTINGS.with_name("fuzz.done").touch()
    while True:
        # The test takes it away; until then nobody starts it again.
        signal.pause()
