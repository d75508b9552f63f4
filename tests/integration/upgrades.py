"""Versions to upgrade a node to: of the image's root, with another tree, and with faults; and what
the node says then."""

import hashlib
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc
from aurae.node.v0 import upgrade_pb2 as pb
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from aer.bundle import Bundle
from image import bundle, disk, kernel, overlay
from image.build import Places, cache_folder
from image.machine import Credential
from testkit.machines import Machine

KEY: Final = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(b"of these tests").digest())
CREDENTIAL: Final = Credential(
    "aurae.upgrade-keys.pem",
    KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
)

BOOT_SECONDS: Final = 300.0

# What is wrong with a version: which file of ours has which text in the place of which other.
Fault = tuple[str, str, str]
INIT_EXITS: Final = ("initd/__main__.py", "def main() -> int:\n", "    os._exit(1)\n")
HANGS_EARLY: Final = (
    "initd/first.py",
    'def begin() -> Begun:\n    """Never raises: what fails is logged, and the rest is tried."""\n',
    "    import time\n\n    time.sleep(100000)\n",
)
HANGS_LATE: Final = (
    "initd/health.py",
    'def ready(self) -> None:\n        """The API answers."""\n',
    "        import time\n\n        time.sleep(100000)\n",
)
API_DEAD: Final = (
    "runtime/__main__.py",
    "def main() -> int:\n",
    "    import time\n\n    time.sleep(100000)\n",
)
NETWORK_DEAD: Final = (
    "initd/network/__main__.py",
    "def main(arguments: Sequence[str] | None = None) -> None:\n",
    "    raise SystemExit(1)\n",
)


@dataclass(frozen=True, slots=True)
class Maker:
    """Makes versions out of what `make image` has left here."""

    artifacts: Path
    at: Places

    @classmethod
    def find(cls, artifacts: Path) -> "Maker | None":
        """None: the image was not built here."""
        at = Places(overlay.PROJECT, cache_folder())
        if artifacts.resolve() != at.build.resolve() or not at.tree("tools").exists():
            return None
        return cls(artifacts, at)

    def make(
        self, version: str, *, parameters: str = "", fault: Fault | None = None, signed: bool = True
    ) -> Path:
        """The bundle. It is made once for all runs on these artifacts."""
        asked = f"{version} {parameters} {fault} {signed} {_stamp(self.artifacts)}"
        folder = self.at.work / "upgrades" / hashlib.sha256(asked.encode()).hexdigest()[:12]
        made = folder / f"aurae_{version}.bundle"
        if made.exists():
            return made
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        build = self.at.workshop()
        (folder / "root.erofs").hardlink_to(self.artifacts / "root.erofs")
        tree, uki = folder / "root.verity", folder / "aurae.efi"
        salt = hashlib.sha256(asked.encode()).hexdigest()
        root_hash = disk.make_tree(build, folder / "root.erofs", tree, salt)
        named = folder / "named/usr/lib/os-release"
        named.parent.mkdir(parents=True)
        lines = (self.at.root / "usr/lib/os-release").read_text().splitlines()
        kept = [line for line in lines if not line.startswith(("VERSION_ID", "IMAGE_VERSION"))]
        named.write_text("\n".join([*kept, f"VERSION_ID={version}", f"IMAGE_VERSION={version}\n"]))
        disk.make_uki(
            build,
            self.artifacts / "vmlinuz",
            self._initramfs(folder, fault),
            folder / "named",
            kernel.version(self.at.tree("base")),
            f"roothash={root_hash} panic=1 {parameters}".strip(),
            uki,
        )
        disk.seal(tree, uki)
        aside = made.with_suffix(".new")
        bundle.make(folder, aside, version)
        if signed:
            key = folder / "key.pem"
            key.write_bytes(KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
            Bundle.read(aside).sign(key)
            aside.with_name(f"{aside.name}.sig").rename(made.with_name(f"{made.name}.sig"))
        aside.rename(made)
        return made

    def _initramfs(self, folder: Path, fault: Fault | None) -> Path:
        micro = self.artifacts / "initramfs-micro"
        if fault is None:
            return micro
        source = folder / "source"
        source.mkdir()
        for name in ("initd", "runtime", "aer", "proto", "pyproject.toml"):
            given = overlay.PROJECT / name
            copy: Callable[..., object] = shutil.copytree if given.is_dir() else shutil.copy
            copy(given, source / name)
        file, before, text = fault
        content = (source / file).read_text()
        assert before in content, f"{file}: {before!r}"
        (source / file).write_text(content.replace(before, before + text, 1))
        laid = overlay.build_overlay(folder / "overlay", self.at.root, source)
        whole = folder / "initramfs"
        with whole.open("wb") as output:
            for archive in (micro, laid):
                output.write(archive.read_bytes())
                output.write(b"\0" * (-output.tell() % 4))
        return whole


def _stamp(artifacts: Path) -> str:
    """Changes with the image."""
    return str((artifacts / "aurae.efi").stat().st_mtime_ns)


def until(what: str, seconds: float, look: Callable[[], object]) -> None:
    """Whatever the API says meanwhile: the node may be starting again, after a panic even."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with suppress(grpc.RpcError):
            if look():
                return
        time.sleep(0.5)
    raise AssertionError(f"{what}: not in {seconds:g} s")


def status(machine: Machine) -> pb.GetUpgradeStatusResponse:
    return machine.api.upgrade.GetUpgradeStatus(pb.GetUpgradeStatusRequest(), timeout=10)


def until_healthy(
    machine: Machine, version: str = "", seconds: float = BOOT_SECONDS
) -> pb.GetUpgradeStatusResponse:
    found = []

    def look() -> bool:
        found.append(status(machine))
        return found[-1].health == "healthy" and version in ("", found[-1].version)

    until(f"version {version} is healthy", seconds, look)
    return found[-1]
