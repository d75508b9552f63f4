"""The folder of a trust domain: where its authority, its SVIDs and its bundles lie."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from aer.command import Call
from aer.errors import AerError
from runtime.identity import authority, store
from runtime.identity.bundles import Bundle
from runtime.identity.spiffe import SpiffeId

PASSPHRASE_FILE: Final = "AURAE_PKI_PASSPHRASE_FILE"
_MODE: Final = 0o644


@dataclass(frozen=True, slots=True)
class Folder:
    path: Path
    passphrase_file: Path | None

    @classmethod
    def of(cls, call: Call) -> Self:
        given = call["passphrase_file"] or os.environ.get(PASSPHRASE_FILE) or None
        return cls(call["dir"], Path(given).expanduser() if given else None)

    @property
    def ca(self) -> store.PairFiles:
        return store.PairFiles.at(self.path / "ca")

    @property
    def crl(self) -> Path:
        return self.path / "crl.pem"

    @property
    def federated(self) -> Path:
        return self.path / "federated"

    def pair(self, kind: str, name: str) -> store.PairFiles:
        return store.PairFiles.at(self.path / kind / name)

    def certificate(self) -> bytes:
        """What is believed: its own certificate, then further roots. Raises AerError."""
        try:
            return self.ca.certificate.read_bytes()
        except FileNotFoundError as e:
            hint = f"aer pki init --trust-domain NAME --dir {self.path}"
            raise AerError(f"{e.filename}: does not exist, so nothing can be issued", hint) from e

    def trust_domain(self) -> str:
        return authority.trust_domain(self.certificate())

    def spiffe_id(self, path: str) -> SpiffeId:
        return SpiffeId(self.trust_domain(), path)

    def authority(self) -> authority.Pair:
        """With the key as it can be used. Raises AerError."""
        certificate = self.certificate()
        return authority.Pair(certificate, self.unlock(self.ca.key.read_bytes()))

    def unlock(self, key: bytes) -> bytes:
        """`key` without its passphrase, if it has one. Raises AerError."""
        if not authority.is_encrypted(key):
            return key
        passphrase = self._passphrase(f"passphrase of {self.ca.key}: ")
        try:
            return authority.decrypt_key(key, passphrase)
        except ValueError as e:
            raise AerError(f"{self.ca.key}: {e}") from None

    def lock(self, key: bytes) -> bytes:
        """`key` under a passphrase, which is asked for twice where a person types it."""
        passphrase = self._passphrase(f"new passphrase of {self.ca.key}: ")
        if self.passphrase_file is None and passphrase != self._passphrase("once more: "):
            raise AerError("the two passphrases differ")
        return authority.encrypt_key(key, passphrase)

    def _passphrase(self, prompt: str) -> bytes:
        """Never a word of the command line: those can be seen by everybody on this machine."""
        if self.passphrase_file is not None:
            lines = self.passphrase_file.read_bytes().splitlines()
            passphrase = lines[0] if lines else b""
        elif sys.stdin.isatty():
            from getpass import getpass

            passphrase = getpass(prompt).encode()
        else:
            raise AerError(
                f"{self.ca.key}: needs a passphrase, and there is no terminal to ask for it",
                f"give --passphrase-file, or {PASSPHRASE_FILE} in the environment",
            )
        if not passphrase:
            raise AerError(f"{self.passphrase_file or 'terminal'}: the passphrase is empty")
        return passphrase

    def bundle_file(self, trust_domain: str) -> Path:
        """Where the roots of a trust domain lie."""
        if trust_domain == self.trust_domain():
            return self.ca.certificate
        return self.federated / f"{trust_domain}.crt"

    def bundle(self, trust_domain: str) -> Bundle:
        """Raises AerError where there is none."""
        file = self.bundle_file(trust_domain)
        try:
            return Bundle.from_pem(trust_domain, file.read_bytes())
        except FileNotFoundError:
            hint = f"aer pki bundle add FILE --trust-domain {trust_domain}"
            raise AerError(f"{file}: there is no bundle of {trust_domain}", hint) from None

    def trust_domains(self) -> list[str]:
        """Its own first."""
        others = sorted(file.name.removesuffix(".crt") for file in self.federated.glob("*.crt"))
        return [self.trust_domain(), *others]

    def write_bundle(self, bundle: Bundle) -> Path:
        file = self.bundle_file(bundle.trust_domain)
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        store.replace(file, bundle.roots, _MODE)
        return file

    def write_crl(self, pem: bytes) -> None:
        store.replace(self.crl, pem, _MODE)
