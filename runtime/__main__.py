"""The runtime as a program: PID 1 starts it as a service."""

import gc
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


def load() -> None:
    """Import all that the API starts with."""
    os.environ.update(GRPC)
    from runtime import imports

    imports.postpone()
    imports.asyncio()
    import runtime.server.log
    import runtime.server.server
    import runtime.server.settings  # noqa: F401
    from initd.version import VERSION  # noqa: F401


def main() -> int:
    # What is imported stays: to look for garbage amid that takes a tenth of the time.
    gc.disable()
    load()
    import asyncio
    import logging

    from initd import headstart
    from initd.linux import prctl
    from initd.version import VERSION
    from runtime.cells.cgroups import Cgroups
    from runtime.server import log
    from runtime.server.server import serve
    from runtime.server.settings import Settings

    prctl.set_name("auraed-runtime")
    gc.freeze()
    gc.enable()
    # All is imported; the rest needs what PID 1 makes.
    headstart.wait()
    _raise_limit()
    options = os.environ.get("AURAE_OPTIONS")
    if options is None:
        settings = Settings.from_cmdline(Path("/proc/cmdline").read_text()).with_configuration()
    else:
        settings = Settings.from_options(options)
    log.to_stderr(settings.log)
    try:
        asyncio.run(serve(settings, VERSION, Cgroups(settings.cgroups)))
    except OSError:
        logging.getLogger("runtime").exception("cannot serve")
        return 1
    return 0


def _raise_limit() -> None:
    """As many descriptors as PID 1 lets us have: each connection and each log followed takes one,
    or two."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


if __name__ == "__main__":
    sys.exit(main())
