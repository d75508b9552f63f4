"""The runtime as a program: PID 1 starts it as a service."""

import os
import resource
import sys
from pathlib import Path
from typing import Final

# gRPC reads these when it is loaded.
GRPC: Final = {
    # TLS 1.2 and older are offered nothing they can use; see docs/decisions/0005.
    "GRPC_SSL_CIPHER_SUITES": "ECDHE-PSK-AES128-CBC-SHA",
    # A scan of the port must not fill the log.
    "GRPC_VERBOSITY": "ERROR",
    # The runtime never forks.
    "GRPC_ENABLE_FORK_SUPPORT": "0",
}


def main() -> int:
    os.environ.update(GRPC)
    # Only now may gRPC be loaded.
    import asyncio
    import logging

    from initd.version import VERSION
    from runtime.cells.cgroups import Cgroups
    from runtime.server import log
    from runtime.server.server import serve
    from runtime.server.settings import Settings

    # Three descriptors a caller on the Unix socket, two a log that is followed.
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    settings = Settings.from_cmdline(Path("/proc/cmdline").read_text())
    log.to_stderr(settings.log)
    try:
        asyncio.run(serve(settings, VERSION, Cgroups(settings.cgroups)))
    except OSError:
        logging.getLogger("runtime").exception("cannot serve")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
