"""Runs inside the guest, as an executable: how long Python takes to start and end there.

Prints a JSON list: seconds of each run.
"""

import json
import os
import sys
import time

RUNS = int(sys.argv[1])


def timed() -> float:
    begin = time.perf_counter()
    argv = [sys.executable, "-I", "-S", "-c", "pass"]
    _, status = os.waitpid(os.posix_spawn(argv[0], argv, {}), 0)
    if status != 0:
        sys.exit(f"python3: wait status {status}")
    return time.perf_counter() - begin


print(json.dumps([timed() for _ in range(RUNS)]))
