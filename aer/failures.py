"""What a gRPC error means to a person, and what to try."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import grpc

from aer.errors import AerError
from aer.settings import Config

Explain = Callable[[Config], str]


def explain(error: Any, config: Config) -> AerError:
    """The message is the node's own where it is one; gRPC's own words are cut to what they say."""
    code: grpc.StatusCode = error.code()
    details: str = error.details() or ""
    if code is grpc.StatusCode.UNAVAILABLE and _is_connection(details):
        return AerError(
            f"{config.socket}: cannot connect: {_reason(details)}", _hint(details, config)
        )
    hint = HINTS[code](config) if code in HINTS else ""
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return AerError(f"{config.socket}: no answer in time", hint)
    return AerError(details or code.name.lower().replace("_", " "), hint)


def _is_connection(details: str) -> bool:
    """An UNAVAILABLE of the node's own has a sentence of its own."""
    return any(word in details for word in _CONNECTING)


def _reason(details: str) -> str:
    """The last part of `failed to connect to all addresses; last error: CODE: ADDRESS: REASON`."""
    _, _, last = details.rpartition("last error: ")
    return last.partition(": ")[2] or last or details


def _hint(details: str, config: Config) -> str:
    over_tls = config.socket is not None and config.socket.path is None
    if over_tls and (wrong := certificates(config)):
        return wrong
    for words, hint in _CONNECTING.items():
        if words in details and hint:
            return hint(config)
    return "is the node up?"


def certificates(config: Config, now: datetime | None = None) -> str:
    """What is wrong with the caller's own files; empty if they would be believed."""
    from runtime.identity import svid

    pems = {}
    for name in ("ca_crt", "client_crt", "client_key"):
        path: Path = getattr(config, name)
        pems[name] = path.read_bytes()
    try:
        for name, check in (("ca_crt", svid.certificates), ("client_key", svid.private_key)):
            try:
                check(pems[name])
            except ValueError as e:
                return f"{getattr(config, name)}: {e}"
        svid.verify(pems["client_crt"], pems["ca_crt"], now=now or datetime.now(UTC))
        svid.match_key(pems["client_crt"], pems["client_key"])
    except ValueError as e:
        return f"{config.client_crt}: {e}"
    return ""


def _listening(config: Config) -> str:
    return f"nothing listens on {config.socket}: is the node up, and the port right?"


def _name(config: Config) -> str:
    wanted = config.server_name or "the host of --socket"
    return f"its certificate is not for {wanted}: set server_name to the node's DNS name"


def _authority(config: Config) -> str:
    return (
        f"the node's certificate has expired, or {config.ca_crt} is not its authority; "
        "compare by aer pki show"
    )


def _rejected(config: Config) -> str:
    return (
        f"the node may not accept {config.client_crt}: it must be of the node's trust domain; "
        "or what listens there is no node"
    )


def _resolve(config: Config) -> str:
    return f"the name in {config.socket} has no address: is it spelled right?"


def _socket(config: Config) -> str:
    return f"does auraed run here? It makes {config.socket} when it serves"


def _root(config: Config) -> str:
    return f"only the owner of {config.socket} may use it; that is root"


# What gRPC says when it could not connect, most telling first, and what to try then.
_CONNECTING: Final[dict[str, Explain | None]] = {
    "Hostname Verification Check failed": _name,
    "is not in peer certificate": _name,
    "CERTIFICATE_VERIFY_FAILED": _authority,
    "certificate verify failed": _authority,
    "Connection refused": _listening,
    "No such file or directory": _socket,
    "Permission denied": _root,
    "DNS resolution failed": _resolve,
    "Domain name not found": _resolve,
    "Handshake read failed": _rejected,
    "Connection reset": _rejected,
    "Socket closed": _rejected,
    "Broken pipe": _rejected,
    "WRONG_VERSION_NUMBER": lambda c: f"{c.socket} does not speak TLS",
    "failed to connect to all addresses": None,
    "Endpoint closing": None,
}


def _timeout(config: Config) -> str:
    return "--timeout gives it longer" if config.timeout else "--timeout 2m gives it longer"


HINTS: Final[dict[grpc.StatusCode, Explain]] = {
    grpc.StatusCode.DEADLINE_EXCEEDED: _timeout,
    grpc.StatusCode.NOT_FOUND: lambda _: "aer cell list shows what there is",
    grpc.StatusCode.PERMISSION_DENIED: lambda c: (
        f"you are who {c.client_crt} says: aer pki show" if c.client_crt else ""
    ),
    grpc.StatusCode.UNAVAILABLE: lambda _: "try again in a moment",
    grpc.StatusCode.INTERNAL: lambda _: "aer observe daemon-log may say more",
    grpc.StatusCode.UNKNOWN: lambda _: "aer observe daemon-log may say more",
}
