"""Runs the API as its program does, on the folders of a test: `api.py FOLDER LISTEN`."""

import os
import sys
from pathlib import Path

from runtime.__main__ import GRPC

os.environ.update(GRPC)


def main(folder: Path, listen: str) -> None:
    import asyncio

    from runtime.server import log
    from runtime.server.server import serve
    from runtime.server.settings import Settings
    from tests.unit.runtime.node import FolderCgroups

    settings = Settings(
        listen=listen,
        credentials=folder / "credentials",
        run=folder,
        initd=folder / "initd.sock",
    )
    log.to_stderr("info")
    asyncio.run(serve(settings, "1.2.3", FolderCgroups(folder / "cgroup")))


main(Path(sys.argv[1]), sys.argv[2])
