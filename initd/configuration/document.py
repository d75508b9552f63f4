"""The document: what may stand in it, and what the kernel's command line says in its terms."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from initd.configuration.tables import (
    Anything,
    Either,
    Integer,
    Items,
    Key,
    Kind,
    Problem,
    Table,
    Tables,
    Text,
    read,
    split,
)
from initd.network.document import NETWORK, TIME
from initd.values import NamedTuple

SIZE_LIMIT: Final = 1 << 20
"""Bytes that a document may have."""

_LABEL: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
_HOSTNAME_LIMIT: Final = 64
_PARAMETER: Final = re.compile(r'(?:"[^"]*"|\S)+')
# As often as leaving out what is wrong may bring forth something else that is.
_ROUNDS: Final = 8


def _hostname(text: str) -> str:
    if len(text) > _HOSTNAME_LIMIT or not all(map(_LABEL.fullmatch, text.split("."))):
        raise ValueError(
            f"{text[:80]!a} is no host name; write labels of a-z, 0-9 and -, at most "
            f"{_HOSTNAME_LIMIT} characters"
        )
    return text


def _endpoint(text: str) -> str:
    host, _, port = text.rpartition(":")
    inside = host.removeprefix("[").removesuffix("]")
    if not inside or (":" in inside) != (host == f"[{inside}]"):
        raise ValueError(f"{text[:80]!a} is no address; write HOST:PORT, IPv6 in brackets")
    if not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise ValueError(f"{text[:80]!a} has no port from 1 to 65535 at its end")
    if not re.fullmatch(r"[0-9A-Za-z.:%_-]+", inside):
        raise ValueError(f"{text[:80]!a} is no address; write HOST:PORT, IPv6 in brackets")
    return text


def _sysctl(name: str) -> str:
    if not name or ".." in name or "\0" in name or name.startswith((".", "/")):
        raise ValueError('is no name of a sysctl; write it in quotes, such as "vm.swappiness"')
    return name


def _disk(text: str) -> str:
    kinds = ("LABEL=", "PARTLABEL=", "/dev/")
    if text != "off" and (text in kinds or not text.startswith(kinds)):
        raise ValueError(f"{text[:80]!a} is none; write off, LABEL=…, PARTLABEL=… or /dev/…")
    return text


def _pem(text: str) -> str:
    if "-----BEGIN " not in text:
        raise ValueError("is no PEM; write the text of the file between triple quotes")
    return text


def _socket(text: str) -> str:
    if not text.startswith("unix:/"):
        raise ValueError(f"{text[:80]!a} is no address of an agent; write unix:/PATH")
    return text


_DATA: Final = Table(
    (
        Key(
            "device",
            Text(parse=_disk),
            "the data disk: LABEL=, PARTLABEL= or a device; off: none",
            example='"LABEL=aurae-data"',
        ),
        Key("filesystem", Text(choices=("ext4", "btrfs", "xfs")), "what it is formatted with"),
        Key(
            "encryption",
            Text(choices=("none", "tpm2", "passphrase", "key-file")),
            "what its key comes from",
        ),
        Key(
            "tpm2-pcrs",
            Items(Integer(0, 23)),
            "registers that a TPM compares before it gives the key; 7 if not given",
            example="[7, 11]",
        ),
    )
)
_IDENTITY: Final = Table(
    (
        Key("certificate", Text(parse=_pem), "the node's SVID and what is above it, PEM"),
        Key("key", Text(parse=_pem), "its key, PEM", secret=True),
        Key("bundle", Text(parse=_pem), "roots of its trust domain, PEM"),
        Key("crl", Text(parse=_pem), "revocation lists, PEM"),
        Key("authority-certificate", Text(parse=_pem), "of the authority for workloads, PEM"),
        Key("authority-key", Text(parse=_pem), "its key, PEM", secret=True),
        Key("federated", Tables(Text(parse=_pem), sample="DOMAIN"), "roots of other trust domains"),
        Key(
            "spiffe",
            Text(parse=_socket),
            "a SPIFFE agent that the node gets its identity from",
            example='"unix:/run/spire/agent.sock"',
        ),
        Key(
            "spiffe-admin",
            Text(parse=_socket),
            "a SPIRE agent's admin socket, that workloads get theirs from",
        ),
        Key(
            "svid-life",
            Integer(5, 7 * 86400),
            "seconds that an X.509-SVID of a workload is valid",
            default=3600,
        ),
    )
)
DOCUMENT: Final = Table(
    (
        Key("hostname", Text(parse=_hostname), "what the node is called", example='"web1"'),
        Key(
            "listen",
            Text(parse=_endpoint),
            "address and port of the API",
            default="[::]:8080",
            boot=True,
        ),
        Key(
            "log-level",
            Text(choices=("debug", "info", "warning")),
            "what auraed logs",
            default="info",
            boot=True,
        ),
        Key(
            "watchdog",
            Either((Integer(5, 3600), Text(choices=("off",)))),
            "seconds that auraed may be silent until it, or the machine, is started again",
            default=60,
            boot=True,
        ),
        Key(
            "sysctls",
            Tables(Either((Text(), Integer())), name=_sysctl),
            "kernel settings, as sysctl(8) names them",
            example='{ "vm.swappiness" = 10 }',
        ),
        Key("network", NETWORK, "links, addresses and name servers"),
        Key("time", TIME, "where the time comes from"),
        Key(
            "disks",
            Table((Key("data", _DATA, "the disk for what outlives a boot"),)),
            "disks; not from a document that comes by URL or is stored",
            boot=True,
        ),
        Key("identity", _IDENTITY, "what the node proves itself with", boot=True),
        Key(
            "policy",
            Anything(),
            "who may do what: what aer auth policy get prints, in TOML",
            whole=True,
        ),
        Key(
            "cells",
            Table(
                (
                    Key("cells", Items(Anything()), "cells, as in aer cell apply"),
                    Key("executables", Items(Anything()), "what runs in them"),
                )
            ),
            "what runs at boot",
            boot=True,
            whole=True,
        ),
    )
)


class Document(NamedTuple):
    """What a text holds that can be used, and what is wrong with the rest."""

    values: dict[str, Any]
    problems: tuple[Problem, ...] = ()


def parse(text: str | bytes) -> Document:
    """All that is said, right or wrong, and what is wrong with it."""
    import tomllib

    if len(text) > SIZE_LIMIT:
        return Document({}, (Problem("", f"is longer than {SIZE_LIMIT} bytes; make it smaller"),))
    try:
        values = tomllib.loads(text.decode() if isinstance(text, bytes) else text)
    except tomllib.TOMLDecodeError as e:
        return Document({}, (Problem("", f"is not TOML: {e}"),))
    except UnicodeDecodeError:
        return Document({}, (Problem("", "is not TOML: it must be UTF-8"),))
    except RecursionError:
        return Document({}, (Problem("", "is nested too deep; write it flatter"),))
    return Document(values, check(values))


def check(values: Mapping[str, Any]) -> tuple[Problem, ...]:
    return read(DOCUMENT, values).problems


def usable(values: dict[str, Any]) -> Document:
    """What is left of the values without what is wrong, and what that is."""
    found: list[Problem] = []
    for _ in range(_ROUNDS):
        problems = check(values)
        if not problems:
            return Document(values, tuple(found))
        found += (problem for problem in problems if problem not in found)
        for problem in problems:
            values = _without(values, split(problem.path) if problem.path else [])
    return Document({}, tuple(found))


def _without(values: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Without that key; where it is missing, without the table that should have it."""
    if not names:
        return {}
    name, *rest = names
    if name not in values:
        return {}
    inner = values[name]
    if rest and isinstance(inner, dict):
        left = _without(inner, rest)
        if left or rest[0] in inner:
            return {**values, name: left}
    return {key: value for key, value in values.items() if key != name}


def keys_of(names: Sequence[str]) -> list[Key]:
    """The descriptions on the way to a key, as far as there are some."""
    found: list[Key] = []
    kind: Kind = DOCUMENT
    for name in names:
        if isinstance(kind, Table):
            key = next((key for key in kind.keys if key.name == name), None)
            if key is None:
                break
            found.append(key)
            kind = key.kind
        elif isinstance(kind, Tables):
            kind = kind.of
        else:
            break
    return found


def is_secret(path: str) -> bool:
    return any(key.secret for key in keys_of(split(path)))


def is_for_boot(path: str) -> bool:
    """Whether a change takes effect at the next boot only."""
    return any(key.boot for key in keys_of(split(path)))


def is_whole(names: Sequence[str]) -> bool:
    return any(key.whole for key in keys_of(names))


def _numbers(text: str) -> list[int | str]:
    return [_number(word) for word in text.split("+")]


def _number(text: str) -> int | str:
    return int(text) if text.isascii() and text.isdigit() else text


# What of the document a kernel parameter is, and how its value is read.
PARAMETERS: Final[Mapping[str, tuple[tuple[str, ...], Callable[[str], Any]]]] = {
    "aurae.hostname": (("hostname",), str),
    "aurae.listen": (("listen",), str),
    "aurae.log": (("log-level",), str),
    "aurae.watchdog": (("watchdog",), _number),
    "aurae.data": (("disks", "data", "device"), str),
    "aurae.data.filesystem": (("disks", "data", "filesystem"), str),
    "aurae.data.encryption": (("disks", "data", "encryption"), str),
    "aurae.data.tpm2-pcrs": (("disks", "data", "tpm2-pcrs"), _numbers),
    "aurae.spiffe": (("identity", "spiffe"), str),
    "aurae.spiffe-admin": (("identity", "spiffe-admin"), str),
    "aurae.svid-life": (("identity", "svid-life"), _number),
}
_SYSCTL: Final = "aurae.sysctl."


def of_command_line(text: str) -> dict[str, Any]:
    """What the kernel's command line says, as a document. The last of a parameter counts.

    Whoever reads a parameter says what is wrong with it: here that is left out."""
    values: dict[str, Any] = {}
    for word in _PARAMETER.findall(text):
        name, equals, value = word.replace('"', "").partition("=")
        if name in PARAMETERS and equals:
            place, convert = PARAMETERS[name]
            _put(values, place, convert(value))
        elif name.startswith(_SYSCTL):
            _put(values, ("sysctls", name.removeprefix(_SYSCTL)), value)
    return usable(values).values


def links_of_command_line(text: str) -> list[str]:
    """The links that an `ip=` is for, which goes before all that is said of them here; empty for
    the first one that has none by name."""
    from initd.network.cmdline import parse as parse_network

    return [link.device or "" for link in parse_network(text).settings.links]


def _put(values: dict[str, Any], place: Sequence[str], value: Any) -> None:
    *tables, last = place
    for name in tables:
        values = values.setdefault(name, {})
    values[last] = value


def defaults() -> Iterator[tuple[str, Any]]:
    """Keys that have a value where nobody gives one."""
    yield from _defaults(DOCUMENT, "")


def _defaults(table: Table, path: str) -> Iterator[tuple[str, Any]]:
    for key in table.keys:
        where = f"{path}.{key.name}" if path else key.name
        if key.default is not None:
            yield where, key.default
        elif isinstance(key.kind, Table):
            yield from _defaults(key.kind, where)
