"""`aer node identity` and `aer node trust`: what a node is known by, and whom it believes."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from aer import output, parse
from aer.command import Argument, Call, Command
from aer.errors import UsageError

if TYPE_CHECKING:
    from aurae.identity.v0 import identity_pb2


def show(call: Call) -> int:
    return _show(call, _identity)


def show_trust(call: Call) -> int:
    return _show(call, _trust)


def request(call: Call) -> int:
    """The request on stdout, as a file that can be signed; who it is for on stderr."""
    from aurae.identity.v0 import identity_pb2, identity_pb2_grpc

    from aer.session import session

    asked = call.request(identity_pb2.GetSigningRequestRequest())
    with session(call) as node:
        stub = identity_pb2_grpc.IdentityServiceStub(node.channel)
        answer = node.unary(stub.GetSigningRequest, asked)
        output.show(node.config.output, answer, lambda: [answer.signing_request.rstrip()])
    output.note(" ".join(filter(None, ("for", answer.spiffe_id, answer.dns_name))))
    return 0


def set_certificate(call: Call) -> int:
    from aurae.identity.v0 import identity_pb2, identity_pb2_grpc

    from aer.session import session

    asked = call.request(identity_pb2.SetCertificateRequest())
    with session(call) as node:
        stub = identity_pb2_grpc.IdentityServiceStub(node.channel)
        answer = node.unary(stub.SetCertificate, asked)
        said = f"{node.config.socket}: is {answer.spiffe_id} now, until {_time(answer.not_after)}"
        output.show(node.config.output, answer, lambda: [said])
    return 0


def set_trust(call: Call) -> int:
    from aurae.identity.v0 import identity_pb2, identity_pb2_grpc

    from aer.session import session

    if call["roots"] is None and call["crl"] is None and not call["remove"]:
        raise UsageError("nothing to set", "give --roots, --crl or --remove")
    asked = call.request(identity_pb2.SetTrustRequest())
    with session(call) as node:
        stub = identity_pb2_grpc.IdentityServiceStub(node.channel)
        answer = node.unary(stub.SetTrust, asked)
        domains = ", ".join(answer.trust_domains)
        said = f"{node.config.socket}: knows {domains}; {answer.revoked} certificates are revoked"
        output.show(node.config.output, answer, lambda: [said])
    return 0


def _show(call: Call, lines: Any) -> int:
    from aurae.identity.v0 import identity_pb2, identity_pb2_grpc

    from aer.session import session

    with session(call) as node:
        stub = identity_pb2_grpc.IdentityServiceStub(node.channel)
        answer = node.unary(stub.GetIdentity, identity_pb2.GetIdentityRequest())
        output.show(node.config.output, answer, lambda: lines(answer))
    return 0


def _identity(answer: "identity_pb2.GetIdentityResponse") -> Iterable[str]:
    yield f"{'identity':<12}{answer.spiffe_id}"
    yield f"{'DNS name':<12}{answer.dns_name or '-'}"
    yield f"{'valid':<12}{_time(answer.not_before)} to {_time(answer.not_after)}"
    yield f"{'from':<12}{output.printable(answer.source)}"


def _trust(answer: "identity_pb2.GetIdentityResponse") -> Iterable[str]:
    rows = [(one.trust_domain, str(one.roots.count("BEGIN CERT"))) for one in answer.bundles]
    yield from output.table(("TRUST DOMAIN", "ROOTS"), rows, right="ROOTS")
    if answer.revoked:
        yield f"{answer.revoked} certificates are revoked"


def _time(time: Any) -> str:
    return f"{time.ToDatetime():%Y-%m-%d %H:%M} UTC"


def _text(text: str) -> str:
    """The content of a file. Raises ValueError."""
    path: Path = parse.path(text)
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as e:
        raise ValueError(f"{path}: {getattr(e, 'strerror', None) or 'is no text'}") from e


_ROOTS: Final = Argument(
    name="--roots",
    help="all roots of the trust domain from now on, PEM; default: they stay",
    metavar="FILE",
    parse=_text,
    fields=("roots",),
    complete="file",
)

COMMANDS: Final = (
    Command(
        words=("node", "identity", "show"),
        help="show what a node is known by",
        run=show,
        rpc="aurae.identity.v0.IdentityService.GetIdentity",
    ),
    Command(
        words=("node", "identity", "request"),
        help="print a signing request for a key that the node makes and keeps",
        text="Have it signed by the authority, and give the certificate back with "
        "`aer node identity set`.",
        run=request,
        rpc="aurae.identity.v0.IdentityService.GetSigningRequest",
        arguments=(
            Argument(
                name="--spiffe-id",
                help="whom the certificate is to be for; default: who the node is",
                metavar="ID",
                fields=("spiffe_id",),
            ),
            Argument(
                name="--dns",
                help="its DNS name; default: the present one, or NAME.node.TRUST-DOMAIN",
                metavar="NAME",
                fields=("dns_name",),
            ),
        ),
    ),
    Command(
        words=("node", "identity", "set"),
        help="have a node be known by a certificate, from the next connection on",
        text="It must be of the key that was requested last, or of the one in use. What is open "
        "goes on. It stays over a restart where the node has a data disk.",
        run=set_certificate,
        rpc="aurae.identity.v0.IdentityService.SetCertificate",
        arguments=(
            Argument(
                name="certificate",
                help="the certificate and what stands between it and the root, PEM",
                metavar="FILE",
                parse=_text,
                fields=("certificate",),
                complete="file",
            ),
            _ROOTS,
        ),
    ),
    Command(
        words=("node", "trust", "show"),
        help="show which trust domains a node knows",
        run=show_trust,
        rpc="aurae.identity.v0.IdentityService.GetIdentity",
    ),
    Command(
        words=("node", "trust", "set"),
        help="replace the roots of a trust domain that a node knows, or the revocation lists",
        text="Whoever is not believed any more is refused at once; of its streams that is at the "
        "next message.",
        run=set_trust,
        rpc="aurae.identity.v0.IdentityService.SetTrust",
        arguments=(
            Argument(
                name="--trust-domain",
                help="whose roots are meant; default: the node's own trust domain",
                metavar="NAME",
                fields=("trust_domain",),
            ),
            _ROOTS,
            Argument(
                name="--crl",
                help="all revocation lists from now on, PEM; an empty file is none",
                metavar="FILE",
                parse=_text,
                fields=("revocation_lists",),
                complete="file",
            ),
            Argument(
                name="--remove",
                help="believe nobody of that trust domain any more",
                switch=True,
                fields=("remove",),
            ),
        ),
    ),
)
