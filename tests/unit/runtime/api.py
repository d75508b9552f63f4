"""Runs the API as its program does, on the folders of a test: `api.py FOLDER LISTEN`."""

import json
import os
import socket
import sys
from pathlib import Path

from runtime.__main__ import GRPC

os.environ.update(GRPC)


def main(folder: Path, listen: str) -> None:
    import asyncio

    from runtime.server import log, peers
    from runtime.server.server import serve
    from runtime.server.settings import Settings
    from tests.unit.runtime.node import FolderCgroups

    def find(connection: socket.socket) -> peers.Peer:
        """The true one, with what the test says of it: a JSON object in `FOLDER/caller`."""
        said = folder / "caller"
        told = json.loads(said.read_text()) if said.exists() else {"cgroup": "/"}
        return peers.find(connection)._replace(**told)

    settings = Settings(
        listen=listen,
        credentials=folder / "credentials",
        run=folder,
        initd=folder / "initd.sock",
        sets=(folder / "cells.json",),
        spiffe=os.environ.get("TEST_SPIFFE", ""),
        spiffe_admin=os.environ.get("TEST_SPIFFE_ADMIN", ""),
        disk=folder / "disk",
        claimable=(folder / "claimable").exists(),
        configurable=True,
        cmdline=folder / "cmdline",
    )
    if (life := folder / "svid-life").exists():
        settings = settings._replace(svid_life=float(life.read_text()))
    log.to_stderr("info")
    asyncio.run(serve(settings, "1.2.3", FolderCgroups(folder / "cgroup"), find))


main(Path(sys.argv[1]), sys.argv[2])
