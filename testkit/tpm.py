"""An emulated TPM 2.0 for a machine under test (swtpm)."""

import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

SWTPM: Final = "swtpm"
_START_SECONDS: Final = 10.0
_LOOK_SECONDS: Final = 0.02


@contextmanager
def emulated(state: Path) -> Iterator[Path]:
    """Its control socket, for `Machines.start(tpm=…)`. What it remembers is in the folder `state`;
    it serves one machine."""
    state.mkdir(exist_ok=True)
    # The name of a socket has 107 bytes at most.
    with tempfile.TemporaryDirectory(prefix="aurae-tpm-") as folder:
        socket = Path(folder) / "socket"
        emulator = subprocess.Popen(
            [
                *(SWTPM, "socket", "--tpm2", "--tpmstate", f"dir={state}", "--terminate"),
                *("--ctrl", f"type=unixio,path={socket}"),
            ]
        )
        try:
            deadline = time.monotonic() + _START_SECONDS
            while not socket.exists():
                if emulator.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"{SWTPM}: no socket in {_START_SECONDS:g} s")
                time.sleep(_LOOK_SECONDS)
            yield socket
        finally:
            emulator.terminate()
            emulator.wait(_START_SECONDS)
