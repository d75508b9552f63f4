"""A trust domain for tests, made by `aer pki`."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from image.machine import Channel, Credential

NAME: Final = "test.aurae.test"
NODE: Final = "node"
PERSON: Final = "tester"


class TrustError(Exception):
    """`aer pki` refused."""


@dataclass(frozen=True, slots=True)
class TrustDomain:
    """Its files, as `aer pki` lays them down in `folder`."""

    folder: Path

    @classmethod
    def make(cls, folder: Path, name: str = NAME) -> "TrustDomain":
        """An authority, a node `node` with an authority of its own, and a person `tester`."""
        made = cls(folder)
        made.pki("init", "--trust-domain", name)
        made.pki("issue", "node", NODE)
        made.pki("issue", "node-ca", NODE)
        made.pki("issue", "person", PERSON)
        return made

    def pki(self, *arguments: str) -> str:
        """Run `aer pki` on this trust domain; what it prints. Raises `TrustError`."""
        line = [sys.executable, "-m", "aer", "pki", *arguments, "--dir", str(self.folder)]
        done = subprocess.run(line, check=False, capture_output=True, text=True, timeout=60)
        if done.returncode:
            raise TrustError(f"{' '.join(line)}: exit {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    @property
    def bundle(self) -> Path:
        return self.folder / "ca.crt"

    def pair(self, kind: str, name: str) -> tuple[Path, Path]:
        """Certificate and key of a `node` or `person`."""
        folder = self.folder / kind
        return folder / f"{name}.crt", folder / f"{name}.key"

    def credentials(self, channel: Channel = Channel.SMBIOS) -> tuple[Credential, ...]:
        """What a node needs at boot."""
        certificate, key = self.pair("node", NODE)
        authority, its_key = self.pair("node", f"{NODE}.ca")
        return (
            Credential("aurae.ca.crt", self.bundle.read_bytes(), channel),
            Credential("aurae.node.crt", certificate.read_bytes(), channel),
            Credential("aurae.node.key", key.read_bytes(), channel),
            Credential("aurae.node-ca.crt", authority.read_bytes(), channel),
            Credential("aurae.node-ca.key", its_key.read_bytes(), channel),
        )

    def config(self, address: str, person: str = PERSON) -> str:
        """A configuration of `aer` for a person and the node at `address`."""
        return self.pki("config", person, NODE, address)
