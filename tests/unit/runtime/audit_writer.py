"""Writes an audit log as fast as it can until it is killed: `audit_writer.py FOLDER`.

It says on stdout which event it has recorded last, as an answered call would.
"""

import os
import sys
from pathlib import Path

from runtime.audit import log as audit
from runtime.audit.log import AuditLog


def main(folder: Path) -> None:
    # What comes after a slow write waits in memory, and is lost with it.
    vars(audit)["SLOW"] = 60.0
    log = AuditLog(folder, size=256 * 1024)
    while True:
        log.record(
            who="spiffe://aurae.local/person/ann",
            method="/aurae.cells.v0.CellService/Allocate",
            object="cell web",
            allowed=True,
            rule="everybody",
        )
        os.write(1, b"%d\n" % log.head.seq)


main(Path(sys.argv[1]))
