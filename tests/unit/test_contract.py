"""The protos against the wire contract that lies beside the project, where it does."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CHECK = ROOT.parent / "shared" / "contract" / "check"
CONTRACTS = ("aurae.cells.v0", "aurae.discovery.v0", "aurae.observe.v0", "spiffe-workload")


@pytest.mark.skipif(not CHECK.exists(), reason="the contract is not beside this checkout")
def test_the_protos_hold_the_wire_contract() -> None:
    done = subprocess.run(
        [sys.executable, CHECK, ROOT / "proto/gen/all.pb", *CONTRACTS],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
