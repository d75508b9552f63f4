"""What a TPM measures when the disk boots is what is published beside the image."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from testkit.machines import Machine, Machines
from testkit.tpm import SWTPM, emulated

Boot = Callable[..., Machine]

PCR: str = "/sys/class/tpm/tpm0/pcr-sha256/11"


def test_pcr_11_is_what_the_image_says(boot: Boot, machines: Machines, tmp_path: Path) -> None:
    published = machines.artifacts / "aurae.pcrs.json"
    if not published.exists() or shutil.which(SWTPM) is None:
        pytest.skip("this image says no values, or this host has no swtpm")
    expected = json.loads(published.read_text())
    with emulated(tmp_path / "tpm") as socket:
        machine = boot(disk=True, tpm=socket)
        # Its driver is loaded when the API is up.
        said = machine.system.read(f"while ! test -e {PCR}; do sleep 0.1; done; cat {PCR}")
        machine.poweroff()
    assert said.strip().lower() == expected["pcrs"]["11"]["sha256"]
    assert expected["version"] == machines.version
