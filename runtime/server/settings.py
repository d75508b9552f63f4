"""Where things are, and what the kernel's command line says."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

CREDENTIALS: Final = Path("/run/credentials/@system")
LISTEN: Final = "[::]:8080"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The defaults are those of a machine."""

    listen: str = LISTEN
    log: str = "info"
    credentials: Path = CREDENTIALS
    cgroups: Path = Path("/sys/fs/cgroup")
    run: Path = Path("/run/aurae")
    initd: Path = field(default=Path("/run/aurae/initd.sock"))

    @property
    def socket(self) -> Path:
        return self.run / "aurae.sock"

    @property
    def cells(self) -> Path:
        return self.run / "cells"

    @property
    def logs(self) -> Path:
        return self.run / "logs"

    @classmethod
    def from_cmdline(cls, cmdline: str) -> Self:
        """The last of a parameter counts, as with the kernel's own."""
        given = dict(word.partition("=")[::2] for word in cmdline.split())
        return cls(listen=given.get("aurae.listen", LISTEN), log=given.get("aurae.log", "info"))
