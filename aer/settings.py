"""The settings of the client: one table for flags, configuration file and manual."""

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Self

from aer import parse
from aer.errors import UsageError

SEARCHED: Final = (
    Path("~/.aurae/config"),
    Path("/etc/aurae/config"),
    Path("/var/lib/aurae/config"),
)
# Where the API is on a node itself, and in each of its cells: what is meant where nothing else is.
LOCAL: Final = Path("/run/aurae/aurae.sock")
# Where it is for whoever shows a certificate.
SECURE: Final = Path("/run/aurae/aurae-tls.sock")
# Before the path of such a socket.
WITH_TLS: Final = "unix+tls:"
OUTPUTS: Final = ("table", "json", "yaml")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where the API listens: a Unix socket, or a host and a port."""

    path: Path | None
    address: str = ""
    with_tls: bool = False
    """The Unix socket is the one that demands a certificate."""

    @property
    def secure(self) -> bool:
        """Whether both sides show certificates."""
        return self.path is None or self.with_tls

    @classmethod
    def parse(cls, text: str, base: Path | None = None) -> Self:
        """`text` is a path if it has a slash, else `host:port`, an IPv6 address in brackets.

        A path after `unix+tls:` is of a socket that demands a certificate. A relative one counts
        from `base`. Raises ValueError.
        """
        path = text.removeprefix(WITH_TLS)
        if "/" in path:
            return cls((base or Path.cwd()) / parse.path(path), with_tls=path != text)
        host, colon, port = text.rpartition(":")
        if not colon or not host or not port.isdecimal() or not 0 < int(port) < 65536:
            raise ValueError(f"{text!r} is neither a path (with a /) nor host:port")
        if ":" in host and not (host.startswith("[") and host.endswith("]")):
            raise ValueError(f"{text!r}: write an IPv6 address in brackets, [{host}]:{port}")
        return cls(None, text)

    def __str__(self) -> str:
        return f"{WITH_TLS if self.with_tls else ''}{self.path}" if self.path else self.address


def _output(text: str) -> str:
    if text not in OUTPUTS:
        raise ValueError(f"{text!r} is no output; choose from {', '.join(OUTPUTS)}")
    return text


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """`section` is that of the configuration file; the key there and the flag are `name`."""

    name: str
    section: str
    help: str
    metavar: str
    parse: Callable[[str, Path], Any]
    """Given the text and the folder that relative paths count from."""
    choices: tuple[str, ...] = ()
    short: str = ""
    complete: str = ""

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")


def _path(text: str, base: Path) -> Path:
    return base / parse.path(text)


SETTINGS: Final = (
    Setting(
        name="socket",
        section="system",
        metavar="PATH|HOST:PORT",
        help="where the API listens: a Unix socket, or host:port with IPv6 in brackets; "
        f"{WITH_TLS}PATH is the Unix socket that demands a certificate, {SECURE}; default: "
        f"{LOCAL} where that exists",
        parse=Endpoint.parse,
        complete="file",
    ),
    Setting(
        name="server_name",
        section="system",
        metavar="NAME",
        help="the DNS name that the node's certificate must carry; default: the host of the socket",
        parse=lambda text, _: text,
    ),
    Setting(
        name="ca_crt",
        section="auth",
        metavar="FILE",
        help="trust bundle: the certificate of the trust domain's authority, PEM",
        parse=_path,
        complete="file",
    ),
    Setting(
        name="client_crt",
        section="auth",
        metavar="FILE",
        help="your SVID, PEM",
        parse=_path,
        complete="file",
    ),
    Setting(
        name="client_key",
        section="auth",
        metavar="FILE",
        help="the key of your SVID, PEM",
        parse=_path,
        complete="file",
    ),
    Setting(
        name="timeout",
        section="client",
        metavar="DURATION",
        help="give up after this long, such as 500ms or 2m; default: 30s, and never for waits and "
        "streams",
        parse=lambda text, _: parse.duration(text),
    ),
    Setting(
        name="output",
        section="client",
        metavar="FORMAT",
        help="table for people, json or yaml for programs; default: table",
        parse=lambda text, _: _output(text),
        choices=OUTPUTS,
        short="-o",
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The settings as they count: defaults, the configuration file over them, flags over that."""

    socket: Endpoint | None = None
    server_name: str | None = None
    ca_crt: Path | None = None
    client_crt: Path | None = None
    client_key: Path | None = None
    timeout: float | None = None
    output: str = "table"
    source: Path | None = None
    """The configuration file that was read."""

    @classmethod
    def load(cls, config: Path | None = None, flags: Mapping[str, str] | None = None) -> Self:
        """Read `config`, or the first of `SEARCHED` that exists; `flags` go over it.

        Without a socket in any of them it is `LOCAL`, if that exists. Raises UsageError.
        """
        source = config or next((p for p in map(Path.expanduser, SEARCHED) if p.exists()), None)
        values = _read(source) if source else {}
        values |= _flags(flags or {})
        if "socket" not in values and LOCAL.exists():
            values["socket"] = Endpoint(LOCAL)
        return replace(cls(source=source), **values)


def _flags(flags: Mapping[str, str]) -> dict[str, Any]:
    values = {}
    for setting in SETTINGS:
        if (text := flags.get(setting.name)) is not None:
            try:
                values[setting.name] = setting.parse(text, Path.cwd())
            except ValueError as e:
                raise UsageError(f"{setting.flag}: {e}") from None
    return values


def _read(source: Path) -> dict[str, Any]:
    import tomllib

    try:
        document = tomllib.loads(source.read_text())
    except OSError as e:
        raise UsageError(f"{source}: {e.strerror}") from e
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as e:
        raise UsageError(f"{source}: not TOML: {e}") from e
    known = {(setting.section, setting.name): setting for setting in SETTINGS}
    values = {}
    for section, keys in document.items():
        if not isinstance(keys, dict):
            raise UsageError(f"{source}: {section}: stands outside of a section", _sections())
        for key, text in keys.items():
            if not (setting := known.get((section, key))):
                raise UsageError(f"{source}: [{section}] {key}: unknown", _near(section, key))
            if not isinstance(text, str):
                raise UsageError(f"{source}: [{section}] {key}: not a string; put it in quotes")
            try:
                values[key] = setting.parse(text, source.absolute().parent)
            except ValueError as e:
                raise UsageError(f"{source}: [{section}] {key}: {e}") from None
    return values


def _near(section: str, key: str) -> str:
    names = [f"[{setting.section}] {setting.name}" for setting in SETTINGS]
    near = difflib.get_close_matches(f"[{section}] {key}", names, n=1, cutoff=0.5)
    return f"did you mean {near[0]}?" if near else _sections()


def _sections() -> str:
    return "known are " + ", ".join(f"[{s.section}] {s.name}" for s in SETTINGS)
