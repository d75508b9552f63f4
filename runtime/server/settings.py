"""Where things are, and what the kernel's command line says."""

from pathlib import Path
from typing import Final, Self

from initd.values import NamedTuple

CREDENTIALS: Final = Path("/run/credentials/@system")
SET: Final = "aurae.cells.json"
POLICY: Final = "aurae.policy.json"
CONFIG_CA: Final = "aurae.config.ca.crt"
LISTEN: Final = "[::]:8080"
SVID_LIFE: Final = 3600.0
# What may be asked for: less would be over before it is used, more could not be waited for.
SVID_LIVES: Final = (5.0, 7 * 86400.0)


class Settings(NamedTuple):
    """The defaults are those of a machine."""

    listen: str = LISTEN
    log: str = "info"
    credentials: Path | None = CREDENTIALS
    """None: the API is on its Unix socket only."""
    cgroups: Path = Path("/sys/fs/cgroup")
    run: Path = Path("/run/aurae")
    sets: tuple[Path, ...] = (CREDENTIALS / SET, Path("/etc/aurae/cells.json"))
    """Where a set of cells and executables may be that is applied at boot; the first counts."""
    initd: Path = Path("/run/aurae/initd.sock")
    spiffe: str = ""
    """Address of a SPIFFE agent that the node has its identity from, `unix:/PATH`."""
    spiffe_admin: str = ""
    """Address of a SPIRE agent's admin socket, `unix:/PATH`, that workloads have theirs from."""
    svid_life: float = SVID_LIFE
    """Seconds that an X.509-SVID of a workload is valid."""
    owns_clock: bool = False
    """The clock is the node's to set: on a machine, and in no container."""
    disk: Path = Path("/var/lib/aurae")
    """Where what must outlive a boot goes, if a data disk is mounted there or above."""
    emergency: bool = False
    """The emergency entry was started: the API changes nothing."""
    claimable: bool = False
    """Whether it may be claimed where it has no identity."""
    config_url: str = ""
    """Where the node's configuration is fetched from, if it is."""
    config_key: str = ""
    """By whom it must be signed: an Ed25519 public key, base64."""
    boot_card: str = ""
    """The card that the machine was booted by, as pxelinux and iPXE write it."""
    configurable: bool = False
    """Whether the host name, the network and the kernel's settings are the node's to change."""
    cmdline: Path = Path("/proc/cmdline")

    @property
    def state(self) -> Path:
        """Where the node keeps its identity, policy and audit log: on the data disk where there is
        one, else until the next boot."""
        return self.disk if self.disk.is_dir() else self.run / "state"

    @property
    def port(self) -> int:
        """Where the API is on TCP; 0: nowhere."""
        _, _, port = self.listen.rpartition(":")
        return int(port) if self.credentials is not None and port.isdigit() else 0

    @property
    def configured(self) -> Path:
        """What the configuration of the node was at boot, if somebody has given it one."""
        return self.run / "config.boot.json"

    @property
    def documents(self) -> tuple[Path, ...]:
        """What is there, some of it, where somebody has configured the node."""
        run = (self.run / name for name in ("config.trial.json", "config.url.toml", "config"))
        return (self.merged, self.configured, self.state / "config.toml", *run)

    @property
    def merged(self) -> Path:
        """What it is now."""
        return self.run / "config.json"

    @property
    def identity(self) -> Path:
        """What the node was given, or made, to prove who it is."""
        return self.state / "identity"

    @property
    def secret(self) -> Path:
        """What a claimer must know; it does not outlive a boot."""
        return self.run / "claim.secret"

    @property
    def socket(self) -> Path:
        """The API's name on the node, which leads to where it is shared with cells."""
        return self.run / "aurae.sock"

    @property
    def tls_socket(self) -> Path:
        """The same API for whoever shows a certificate."""
        return self.run / "aurae-tls.sock"

    @property
    def workload_socket(self) -> Path:
        """The SPIFFE Workload API's name, in the same way."""
        return self.run / "spiffe.sock"

    @property
    def shared(self) -> Path:
        """What an isolated cell has as its own `run`."""
        return self.run / "shared"

    @property
    def internal(self) -> Path:
        """gRPC's own socket, in a folder that only we may enter."""
        return self.run / "runtime" / "grpc.sock"

    @property
    def policy(self) -> Path:
        """What SetPolicy stores."""
        return self.state / "policy.json"

    @property
    def config_document(self) -> Path:
        """What was fetched from `config_url` and is signed."""
        return self.run / "config.url.toml"

    @property
    def config_authorities(self) -> Path | None:
        """Who signs for https servers there."""
        return self.credentials / CONFIG_CA if self.credentials else None

    @property
    def boot_policy(self) -> Path | None:
        """The policy that the node was given at boot."""
        return self.credentials / POLICY if self.credentials else None

    @property
    def internal_tls(self) -> Path:
        return self.run / "runtime" / "tls.sock"

    @property
    def workload_internal(self) -> Path:
        """The socket of gRPC's server for the Workload API."""
        return self.internal.with_name("workload.sock")

    @property
    def token_keys(self) -> Path:
        """Public keys of tokens that the runtime has signed since boot."""
        return self.internal.with_name("token-keys.json")

    @property
    def applied(self) -> Path:
        return self.run / "cells.applied"

    @property
    def notify(self) -> Path:
        return self.run / "notify"

    @property
    def cells(self) -> Path:
        return self.run / "cells"

    @property
    def executables(self) -> Path:
        return self.run / "executables"

    @property
    def logs(self) -> Path:
        return self.run / "logs"

    @classmethod
    def from_options(cls, text: str) -> Self:
        """What PID 1 of a container or a daemon passes (initd/guest.py), in the same form."""
        given = dict(word.partition("=")[::2] for word in text.split())
        folder = given.get("aurae.credentials")
        found = Path(folder) if folder and given.get("aurae.listen") else None
        return cls(
            listen=given.get("aurae.listen") or LISTEN,
            credentials=found,
            cgroups=Path(given["aurae.cgroups"]),
            spiffe=given.get("aurae.spiffe", ""),
            spiffe_admin=given.get("aurae.spiffe-admin", ""),
            sets=(*((found / SET,) if found else ()), Path("/etc/aurae/cells.json")),
        )

    @classmethod
    def from_cmdline(cls, cmdline: str) -> Self:
        """The last of a parameter counts, as with the kernel's own."""
        given = dict(word.partition("=")[::2] for word in cmdline.split())
        return cls(
            listen=given.get("aurae.listen", LISTEN),
            log=given.get("aurae.log", "info"),
            spiffe=given.get("aurae.spiffe", ""),
            spiffe_admin=given.get("aurae.spiffe-admin", ""),
            owns_clock=True,
            svid_life=_svid_life(given.get("aurae.svid-life", "")),
            emergency="aurae.emergency" in given,
            claimable=True,
            config_url=given.get("aurae.config", ""),
            config_key=given.get("aurae.config-key", ""),
            boot_card=given.get("BOOTIF", ""),
            configurable=True,
        )

    def with_configuration(self) -> Self:
        """The same with what the node was configured to be at boot: the command line's is in it."""
        if not self.configured.exists():
            return self
        import json

        values = json.loads(self.configured.read_text())["values"]
        identity = values.get("identity", {})
        first, *others = self.sets
        return self._replace(
            listen=values.get("listen", self.listen),
            log=values.get("log-level", self.log),
            spiffe=identity.get("spiffe", self.spiffe),
            spiffe_admin=identity.get("spiffe-admin", self.spiffe_admin),
            svid_life=float(identity.get("svid-life", self.svid_life)),
            sets=(first, self.configured, *others) if "cells" in values else self.sets,
        )


def _svid_life(text: str) -> float:
    """What is no number of seconds counts as not given."""
    least, most = SVID_LIVES
    return min(max(float(text), least), most) if text.isascii() and text.isdigit() else SVID_LIFE
