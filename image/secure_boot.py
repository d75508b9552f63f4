"""Secure boot with keys of whoever builds the image. See docs/decisions/0107-secure-boot.md.

`SECURE_BOOT` names a folder with `db.key` and `db.crt`, as `aer pki secure-boot` makes it; or it is
the PKCS#11 URI of a key on a token that `p11-kit server` serves, whose certificate
`SECURE_BOOT_CERTIFICATE` names. By default nothing is signed.
"""

import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from image.errors import BuildError
from image.mkosi import Workshop

# The variables that firmware in setup mode takes from the ESP, and where systemd-boot looks.
VARIABLES: Final = ("PK", "KEK", "db")
PLACE: Final = Path("loader/keys/auto")

# How the tools reach a token of the host: by p11-kit's socket.
_ADDRESS: Final = "P11_KIT_SERVER_ADDRESS"
_SOCKET: Final = "unix:path="
_CLIENT: Final = "/usr/lib/x86_64-linux-gnu/pkcs11/p11-kit-client.so"

_SBSIGN: Final = "/usr/lib/systemd/systemd-sbsign"


@dataclass(frozen=True, slots=True)
class Keys:
    """What signs, and what the firmware is given to know it by."""

    key: str
    """A file, or a PKCS#11 URI."""
    certificate: Path
    enrolled: Path | None = None
    """A folder with `PK.auth`, `KEK.auth` and `db.auth` of somebody's own making."""
    token: Path | None = None
    """The socket of p11-kit by which a URI's token is reached."""

    @property
    def environment(self) -> dict[str, str]:
        """Variables that the tools need."""
        if self.token is None:
            return {}
        return {_ADDRESS: f"{_SOCKET}{self.token}", "PKCS11_PROVIDER_MODULE": _CLIENT}

    @property
    def readable(self) -> tuple[Path, ...]:
        """What the tools must see of the host."""
        return (*self.files, *((self.token.parent,) if self.token else ()))

    @property
    def files(self) -> tuple[Path, ...]:
        """What a build with them is made from."""
        by_file = () if self._is_uri else (Path(self.key),)
        return (self.certificate, *by_file, *self._own())

    @property
    def _is_uri(self) -> bool:
        return self.key.startswith("pkcs11:")

    def _own(self) -> tuple[Path, ...]:
        if self.enrolled is None:
            return ()
        return tuple(self.enrolled / f"{name}.auth" for name in VARIABLES)

    def sign(self, build: Workshop, program: Path, output: Path) -> None:
        """Write the EFI program with a signature to `output`."""
        options = self._options("--private-key", "--certificate")
        command: list[str | Path] = [_SBSIGN, "sign", *options, f"--output={output}", program]
        build.tool(command, readable=self.readable)

    def for_ukify(self) -> list[str]:
        """What ukify is told besides; it must see what is `readable`."""
        options = [f"--secureboot-private-key={self.key}", "--signtool=systemd-sbsign"]
        # The stub vouches for the kernel in it.
        options.append("--no-sign-kernel")
        options.append(f"--secureboot-certificate={self.certificate}")
        return [*options, *(["--signing-provider=pkcs11"] if self._is_uri else [])]

    def prepare_enrolment(self, build: Workshop, esp: Path) -> None:
        """Write what makes firmware in setup mode know the key, in the folder of an ESP."""
        place = esp / PLACE
        place.mkdir(parents=True)
        if self.enrolled is not None:
            for path in self._own():
                shutil.copyfile(path, place / path.name)
            return
        made = build.folder / "enrolment"
        shutil.rmtree(made, ignore_errors=True)
        made.mkdir()
        # It asks whether that is an ESP, and installs a boot loader too, which is not needed.
        command = ["env", "SYSTEMD_RELAX_ESP_CHECKS=1", "bootctl", "--esp-path=/efi"]
        command += ["--no-variables", "--make-entry-directory=no", "--random-seed=no"]
        command += ["--secure-boot-auto-enroll=yes"]
        command += [*self._options("--private-key", "--certificate"), "install"]
        build.tool(command, readable=self.readable, mounted={"/efi": made})
        for name in VARIABLES:
            shutil.copyfile(made / PLACE / f"{name}.auth", place / f"{name}.auth")
        shutil.rmtree(made)

    def _options(self, key: str, certificate: str) -> list[str]:
        options = [f"{key}={self.key}", f"{certificate}={self.certificate}"]
        return [*options, *([f"{key}-source=provider:pkcs11"] if self._is_uri else [])]


def find(environment: Mapping[str, str]) -> Keys | None:
    """The keys that are asked for; None if none are. Raises `BuildError`."""
    asked = environment.get("SECURE_BOOT", "")
    if not asked:
        return None
    if asked.startswith("pkcs11:"):
        certificate = environment.get("SECURE_BOOT_CERTIFICATE", "")
        if not certificate:
            # The URI may have a PIN in it, so it is not shown.
            raise BuildError(
                "SECURE_BOOT: give the key's certificate as SECURE_BOOT_CERTIFICATE=FILE"
            )
        address = environment.get(_ADDRESS, "")
        if not address.startswith(_SOCKET):
            raise BuildError(f"SECURE_BOOT: no {_ADDRESS}; run p11-kit server, set what it prints")
        # More may follow the path.
        token = Path(re.split("[,;]", address.removeprefix(_SOCKET))[0])
        return Keys(asked, _existing(Path(certificate).absolute()), token=token)
    folder = Path(asked).absolute()
    own = all((folder / f"{name}.auth").exists() for name in VARIABLES)
    return Keys(
        str(_existing(folder / "db.key")), _existing(folder / "db.crt"), folder if own else None
    )


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise BuildError(
            f"{path}: does not exist; aer pki secure-boot --dir {path.parent} makes it"
        )
    return path
