"""Modules that the API does without at its start."""

import os
import subprocess
import sys

PROGRAM = """
import sys
from runtime import imports

imports.postpone()
with imports.without("ssl"):
    import asyncio
import runtime.server.server
stand_ins = [name for name in imports.POSTPONED if type(sys.modules[name]).__name__ != "_StandIn"]
assert not stand_ins, stand_ins
for name in ("ssl", "grpc_reflection.v1alpha", "cryptography", "google.protobuf.text_format"):
    assert name not in sys.modules, name
from google.protobuf.internal import python_message
assert python_message.GeneratedProtocolMessageType.__name__ == "GeneratedProtocolMessageType"
assert type(sys.modules["google.protobuf.internal.python_message"]).__name__ == "module"
import ssl
"""


def test_nothing_that_is_postponed_is_loaded_by_the_server_and_all_can_be_used() -> None:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    line = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(line, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
