"""A channel to a node. Other programs may use it: `connect(Config.load())`."""

from pathlib import Path
from typing import Final

import grpc

from aer.errors import AerError, UsageError
from aer.settings import SETTINGS
from aer.settings import Config as Config

# A list of ten thousand executables is about 3 MiB; gRPC's own bound is 4.
MAX_ANSWER: Final = 64 << 20

OPTIONS: Final = (
    ("grpc.max_receive_message_length", MAX_ANSWER),
    # A proxy for web pages is no way to a node, and could not pass our TLS on anyway.
    ("grpc.enable_http_proxy", 0),
    # A follower of a silent log learns in a minute that the node has gone. A node allows a ping
    # each 10 s; gRPC's own bound, 5 minutes, would end the connection.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 20_000),
)


def connect(config: Config) -> grpc.Channel:
    """A channel to the node of `config`; close it, or use it in `with`. Nothing is sent yet.

    On a Unix socket the process is the identity, unless the socket is the one for TLS. There and
    over TCP both sides show a certificate; gRPC's client can check a DNS name but no SPIFFE ID, so
    the name to expect is a setting.

    Raises UsageError where a setting is missing, and AerError where a file cannot be read.
    """
    if config.socket is None:
        raise UsageError(
            "no socket: which node is meant?",
            "aer pki config writes a configuration; or give --socket HOST:PORT",
        )
    target = f"unix:{config.socket.path}" if config.socket.path else config.socket.address
    if not config.socket.secure:
        return grpc.insecure_channel(target, options=OPTIONS)
    credentials = grpc.ssl_channel_credentials(
        root_certificates=_read(config, "ca_crt"),
        private_key=_read(config, "client_key"),
        certificate_chain=_read(config, "client_crt"),
    )
    options: tuple[tuple[str, str | int], ...] = OPTIONS
    if config.server_name:
        options += (("grpc.ssl_target_name_override", config.server_name),)
    return grpc.secure_channel(target, credentials, options=options)


def _read(config: Config, name: str) -> bytes:
    path: Path | None = getattr(config, name)
    (setting,) = (s for s in SETTINGS if s.name == name)
    if path is None:
        where = config.source or "the configuration"
        raise UsageError(
            f"no {name}, which TLS to {config.socket} needs",
            f"set [{setting.section}] {name} in {where}, or give {setting.flag}",
        )
    try:
        return path.read_bytes()
    except OSError as e:
        raise AerError(f"{name} {path}: {e.strerror}", f"{setting.flag} names another") from e
