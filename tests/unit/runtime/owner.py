"""Runs the process owner of the initd tests until SIGTERM: `owner.py FOLDER`.

What was asked of PID 1 that no process owner does is noted in `FOLDER/asked`, a JSON object a line.
"""

import json
import signal
import sys
from pathlib import Path

from initd.processes.wire import Object
from tests.unit.initd.owner import Owner


def main(folder: Path) -> None:
    owner = Owner(folder)
    stop: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stop.append(number))

    def note(request: Object, _fds: list[int], _pid: int) -> Object:
        asked, fresh = folder / "asked", folder / ".asked"
        before = asked.read_text() if asked.exists() else ""
        fresh.write_text(f"{before}{json.dumps(request)}\n")
        # Whoever waits for the file finds it whole.
        fresh.rename(asked)
        if request["op"] == "shutdown" and (folder / "goes-down").exists():
            owner.control.tell({"event": "shutdown", "how": request["how"]})
        return {}

    def reload(request: Object, fds: list[int], pid: int) -> Object:
        note(request, fds, pid)
        return {"version": "1.2.3", "pause": 0.25}

    def alive(_request: Object, _fds: list[int], _pid: int) -> Object:
        return {"again": 0.05}

    owner.control._operations |= {"ready": note, "shutdown": note, "reload": reload}
    owner.control._operations |= {"alive": alive}
    (folder / "owner-ready").touch()
    while not stop:
        owner.turn(0.05)
    owner.close()


main(Path(sys.argv[1]))
