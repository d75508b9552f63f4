"""What a gRPC error means to a person, and what to try."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import grpc

from aer.errors import AerError
from aer.settings import Config

Hint = Callable[[Config], str]


def explain(error: Any, config: Config) -> AerError:
    """`error` is what a call on a channel of `config` raised.

    What the node itself says is left as it is. What gRPC says of a connection that failed is
    translated, and the caller's own certificates are looked at, since gRPC does not say that they
    are at fault.
    """
    code: grpc.StatusCode = error.code()
    details: str = error.details() or ""
    if code is grpc.StatusCode.UNAVAILABLE and (trouble := _trouble(details)):
        own = _own_fault(config) if config.socket and config.socket.secure else ""
        message = f"{config.socket}: cannot connect: {trouble.means or details}"
        return AerError(message, own or trouble.hint(config))
    hint = HINTS[code](config) if code in HINTS else ""
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return AerError(f"{config.socket}: no answer in time", hint)
    return AerError(details or code.name.lower().replace("_", " "), hint)


def _own_fault(config: Config) -> str:
    """What is wrong with the caller's own files; empty if they would be believed."""
    from runtime.identity import svid

    paths = [getattr(config, name) for name in ("ca_crt", "client_crt", "client_key")]
    ca_crt, client_crt, client_key = paths
    checks: tuple[tuple[Path, Callable[..., object], tuple[Path, ...]], ...] = (
        (ca_crt, svid.certificates, (ca_crt,)),
        (client_key, svid.private_key, (client_key,)),
        (client_crt, svid.verify, (client_crt, ca_crt)),
        (client_crt, svid.match_key, (client_crt, client_key)),
    )
    for path, check, files in checks:
        try:
            check(*(file.read_bytes() for file in files))
        except (ValueError, OSError) as e:
            return f"{path}: {e}"
    return ""


@dataclass(frozen=True, slots=True)
class Trouble:
    """`said` is a part of what gRPC says, `means` the same for people."""

    said: str
    means: str
    hint: Hint


def _trouble(details: str) -> Trouble | None:
    """None if `details` are the node's own words."""
    return next((trouble for trouble in TROUBLES if trouble.said in details), None)


def _up(_: Config) -> str:
    return "is the node up, and the port right?"


def _name(config: Config) -> str:
    at_fault = "server_name" if config.server_name else "without a server_name the host of socket"
    return f"{at_fault} must be the DNS name in the node's certificate"


def _refused(config: Config) -> str:
    return (
        f"is the node up? if it is, it may not accept {config.client_crt}, which must be an SVID "
        "of its trust domain: aer pki inspect"
    )


# In the order of how much they tell: gRPC strings several together.
TROUBLES: Final = (
    Trouble(
        "Hostname Verification Check failed", "the node's certificate is for another name", _name
    ),
    Trouble("is not in peer certificate", "the node's certificate is for another name", _name),
    Trouble(
        "certificate has expired",
        "the node's certificate has expired",
        lambda _: "issue another for it: aer pki issue node; or is this clock wrong?",
    ),
    Trouble(
        "certificate is not yet valid",
        "the node's certificate is not valid yet",
        lambda _: "compare the clocks",
    ),
    Trouble(
        "CERTIFICATE_VERIFY_FAILED",
        "the node's certificate is not signed by your authority",
        lambda c: f"is {c.ca_crt} of the node's trust domain? see aer pki inspect",
    ),
    Trouble(
        "WRONG_VERSION_NUMBER",
        "what listens there does not speak TLS",
        lambda _: "is the port right?",
    ),
    Trouble("Failed to create security handshaker", "TLS cannot begin with these files", _refused),
    Trouble("Connection refused", "connection refused", _up),
    Trouble(
        "No such file or directory",
        "no such file",
        lambda _: "does auraed run here? It makes the socket when it serves",
    ),
    Trouble(
        "Permission denied",
        "permission denied",
        lambda _: "the socket is for its owner only, and that is root",
    ),
    Trouble(
        "DNS resolution failed",
        "the host has no address",
        lambda _: "is its name spelled right?",
    ),
    Trouble(
        "Domain name not found",
        "the host has no address",
        lambda _: "is its name spelled right?",
    ),
    Trouble("Network is unreachable", "network is unreachable", _up),
    Trouble("No route to host", "no route to host", _up),
    Trouble("Connection timed out", "nothing answers", _up),
    Trouble("Timeout occurred", "nothing answers", _up),
    # A node ends the connection right after the handshake if it does not like our certificate.
    Trouble("Handshake read failed", "the connection was closed", _refused),
    Trouble("Connection reset", "the connection was closed", _refused),
    Trouble("Socket closed", "the connection was closed", _refused),
    Trouble("Broken pipe", "the connection was closed", _refused),
    Trouble("failed to connect to all addresses", "", _up),
)


def _log(_: Config) -> str:
    return "aer observe daemon-log may say more"


HINTS: Final[dict[grpc.StatusCode, Hint]] = {
    grpc.StatusCode.DEADLINE_EXCEEDED: lambda _: "--timeout gives it longer",
    grpc.StatusCode.NOT_FOUND: lambda _: "aer cell list shows what there is",
    grpc.StatusCode.PERMISSION_DENIED: lambda _: "aer auth whoami says who you are and may do",
    grpc.StatusCode.UNAUTHENTICATED: lambda c: (
        f"aer pki inspect {c.client_crt} says until when it is valid" if c.client_crt else ""
    ),
    grpc.StatusCode.UNAVAILABLE: lambda _: "try again in a moment",
    grpc.StatusCode.INTERNAL: _log,
    grpc.StatusCode.UNKNOWN: _log,
}
