"""`aer node claim`: how a node that nobody has claimed is met, told from others, and given a name.

The certificate that the node shows is looked at before anything is sent: if its key is the one
that the fingerprint names, that certificate is all that the next connection believes.
"""

import errno
import os
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, TypeVar

import grpc
from aurae.claim.v0 import claim_pb2, claim_pb2_grpc

from aer.client import OPTIONS
from aer.errors import AerError, UsageError
from aer.settings import Endpoint
from runtime.identity import authority, fingerprint, requests, store, svid
from runtime.identity.authority import Pair
from runtime.identity.fingerprint import Fingerprint
from runtime.identity.spiffe import SpiffeId

# Seconds for a connection, and a call.
TIMEOUT: Final = 30.0
# Where a node listens unless it is told otherwise.
PORT: Final = 8080
# Seconds that a node may take to serve as who it is now; that it may take where it is not known
# whether it was claimed; and between two looks.
SERVES: Final = 120.0
_SETTLES: Final = 30.0
_LOOK: Final = 0.25

_Answer = TypeVar("_Answer")

# What a call may end with without the node having decided anything that the caller knows of.
_UNCLEAR: Final = frozenset(
    {
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.UNKNOWN,
    }
)


class _Unclear(AerError):
    """The call broke: perhaps the node has done what it was asked for."""


@dataclass(frozen=True, slots=True)
class Naming:
    """What the node is to be. `files` is where its certificate is kept; its key stays with it."""

    signer: Pair
    id: SpiffeId
    dns_name: str
    validity: timedelta
    with_authority: bool
    files: store.PairFiles
    again: bool = False
    """Whether a certificate that is kept there already gives way."""

    @property
    def name(self) -> str:
        return self.id.below(svid.NODE) or ""


class Unclaimed:
    """A node by its fingerprint. `timeout` is for each call."""

    def __init__(self, address: str, shown: Fingerprint, timeout: float | None) -> None:
        self.address = address
        self._shown = shown
        self._timeout = timeout or TIMEOUT

    def begin(self) -> claim_pb2.BeginResponse:
        """The signing requests; that of the node is for the key which the fingerprint names."""
        with self._stub() as stub:
            asked = claim_pb2.BeginRequest(secret=self._shown.secret)
            answer = self._call(stub.Begin, asked)
        try:
            of_key = fingerprint.of_key(requests.public_bytes(answer.request))
        except ValueError as e:
            raise AerError(f"{self.address}: {e}") from e
        if of_key != self._shown.key:
            raise AerError(f"{self.address}: asks for a certificate for another key than its own")
        return answer

    def claim(self, naming: Naming, policy: bytes) -> claim_pb2.ClaimResponse:
        """Sign what the node asks for, and give it. The certificate is kept unless it is refused.

        Raises ValueError where the authority cannot sign that."""
        asked = self.begin()
        certificate = authority.certify(
            naming.signer,
            naming.id,
            requests.public_key(asked.request),
            dns_name=naming.dns_name,
            validity=naming.validity,
        )
        ca = b""
        if naming.with_authority:
            ca = authority.certify_intermediate(
                naming.signer,
                requests.public_key(asked.ca_request),
                naming.name,
                validity=naming.validity,
            )
        given = claim_pb2.ClaimRequest(
            secret=self._shown.secret,
            certificate_chain=certificate,
            ca_certificate_chain=ca,
            trust_bundle=naming.signer.certificate,
            policy=policy,
        )
        with _kept(naming, certificate):
            try:
                with self._stub() as stub:
                    return self._call(stub.Claim, given)
            except _Unclear:
                return self._settled(certificate)

    def serves(self, naming: Naming) -> bool:
        """Wait until the node serves by the certificate that it was given; False where it does not
        in time."""
        return became(self.address) == _der(naming.files.certificate.read_bytes())

    def _settled(self, certificate: bytes) -> claim_pb2.ClaimResponse:
        """Who the node is tells how a call ended that broke. Raises AerError unless it is ours."""
        if (found := became(self.address, _SETTLES)) is None:
            raise _Unclear(
                f"{self.address}: the connection broke, and the node does not say who it is",
                "its console says whether it is claimed; try again with --again",
            )
        identity = spiffe_id_of(found) or ""
        if found != _der(certificate):
            raise AerError(f"{self.address}: was claimed by somebody else, as {identity}")
        return claim_pb2.ClaimResponse(spiffe_id=identity)

    @contextmanager
    def _stub(self) -> Iterator[claim_pb2_grpc.ClaimServiceStub]:
        der = certificate_of(self.address, self._timeout)
        self._check(der)
        credentials = grpc.ssl_channel_credentials(ssl.DER_cert_to_PEM_cert(der).encode())
        options = (*OPTIONS, ("grpc.ssl_target_name_override", fingerprint.NAME))
        with grpc.secure_channel(self.address, credentials, options=options) as channel:
            yield claim_pb2_grpc.ClaimServiceStub(channel)

    def _check(self, der: bytes) -> None:
        """Raises AerError unless this is the node, and unclaimed."""
        if (identity := spiffe_id_of(der)) is not None:
            raise AerError(
                f"{self.address}: has an identity already, {identity}",
                "who may use its API renews it; booting it with aurae.unclaim takes it away",
            )
        try:
            of_key = fingerprint.of_certificate(der)
        except ValueError as e:
            raise AerError(f"{self.address}: its certificate cannot be read: {e}") from e
        if of_key != self._shown.key:
            raise AerError(
                f"{self.address}: is not the node with this fingerprint; nothing was sent to it",
                "is it this node's console that you read? if so, somebody stands between",
            )

    def _call(self, method: Callable[..., _Answer], asked: Any) -> _Answer:
        try:
            return method(asked, timeout=self._timeout)
        except grpc.RpcError as e:
            error: Any = e
            code, details = error.code(), error.details() or ""
            if code in _UNCLEAR:
                raise _Unclear(
                    f"{self.address}: no answer: {details or code.name.lower()}",
                    "the node's console says whether it is claimed",
                ) from e
            raise AerError(details or code.name.lower().replace("_", " ")) from e


def certificate_of(address: str, timeout: float) -> bytes:
    """What the server at `address` shows in TLS, DER. It is not verified, and nothing is sent."""
    host, _, port = address.rpartition(":")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(["h2"])
    try:
        with (
            socket.create_connection((host.strip("[]"), int(port)), timeout) as connection,
            context.wrap_socket(connection) as tls,
        ):
            found = tls.getpeercert(binary_form=True)
    except ssl.SSLError as e:
        raise AerError(f"{address}: TLS failed: {e.reason or e}", "is the port right?") from e
    except OSError as e:
        raise AerError(
            f"{address}: cannot connect: {e.strerror or e}", "is the node up, and the port right?"
        ) from e
    if found is None:
        raise AerError(f"{address}: showed no certificate")
    return found


def _der(pem: bytes) -> bytes:
    """The first certificate."""
    from runtime.identity.names import first_certificate

    return first_certificate(pem)


def spiffe_id_of(der: bytes) -> str | None:
    """The SPIFFE ID in a certificate, which nobody has verified."""
    from runtime.identity.names import uris

    with suppress(ValueError):
        return next(iter(uris(der)), None)
    return None


def became(address: str, seconds: float = SERVES) -> bytes | None:
    """Wait until the node shows a certificate with an identity, DER. None: it does not in time.

    Whoever shows it has its key: TLS sees to that. Who vouches for it is another question.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with suppress(AerError):
            found = certificate_of(address, TIMEOUT)
            if spiffe_id_of(found) is not None:
                return found
        time.sleep(_LOOK)
    return None


def parse_address(text: str) -> str:
    """`host:port`; a host alone is meant at the port where nodes listen. Raises ValueError."""
    alone = "/" not in text and not text.rpartition(":")[2].isdecimal()
    found = Endpoint.parse(f"{text}:{PORT}" if alone else text)
    if found.path:
        raise ValueError(f"{text!r} is a path; a node is claimed over TCP, at host:port")
    return found.address


def check_free(naming: Naming) -> None:
    """Raises AerError where the name is taken.

    With `again` the certificate of a node that was claimed by this name before is none: it will
    give way. One with a key beside it is that of a node which was issued credentials, and stays.
    """
    files = naming.files
    if not os.path.lexists(files.certificate):
        return
    if os.path.lexists(files.key):
        raise AerError(f"{files.certificate}: exists already, with its key", "take another --name")
    if not naming.again:
        raise AerError(
            f"{files.certificate}: exists already", "--again if it is that node, claimed anew"
        )


@contextmanager
def _kept(naming: Naming, certificate: bytes) -> Iterator[None]:
    """The certificate is on the disk before the node has it. If the node refuses it, all is as it
    was."""
    check_free(naming)
    file = naming.files.certificate
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    old = file.read_bytes() if naming.again and file.exists() else None
    if old is not None:
        file.unlink()
    _create(file, certificate)
    try:
        yield
    except _Unclear:
        raise
    except BaseException:
        file.unlink()
        if old is not None:
            _create(file, old)
        raise


def _create(file: Path, content: bytes) -> None:
    try:
        store.create(file, content, 0o644)
    except OSError as e:
        if e.errno == errno.EEXIST:
            raise AerError(f"{file}: exists already", "take another --name") from e
        raise


def read_policy(path: Path | None) -> bytes:
    """Raises UsageError."""
    if path is None:
        return b""
    try:
        return path.read_bytes()
    except OSError as e:
        raise UsageError(f"{path}: {e.strerror}") from e
