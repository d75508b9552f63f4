"""Name constraints of signers (RFC 5280, section 4.2.1.10; X509-SVID, section 4.2).

URI and DNS constraints are weighed. Of a constraint on names of another kind the standard lets a
validator that cannot weigh it refuse a certificate with such a name, and so does this one.
"""

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from runtime.identity import profile
from runtime.identity.spiffe import SpiffeId

if TYPE_CHECKING:
    from cryptography import x509

_IPV4: Final = re.compile(r"[0-9]+(\.[0-9]+){3}")


def check(signer: "x509.Certificate", below: Iterable["x509.Certificate"]) -> None:
    """Raises ValueError unless `signer` allows the names of all certificates `below` it.

    Stricter than RFC 5280: the constraints of a trust anchor count too, and an intermediate that is
    issued by itself is held to them like any other.
    """
    from cryptography import x509

    constraints = profile.extension(signer, x509.NameConstraints)
    if constraints is None:
        return
    permitted = list(constraints.permitted_subtrees or ())
    excluded = list(constraints.excluded_subtrees or ())
    for certificate in below:
        for name in _names(certificate):
            _check_name(name, permitted, excluded)


def _names(certificate: "x509.Certificate") -> Iterable["x509.GeneralName"]:
    from cryptography import x509

    if list(certificate.subject):
        yield x509.DirectoryName(certificate.subject)
    yield from profile.extension(certificate, x509.SubjectAlternativeName) or ()


def _check_name(
    name: "x509.GeneralName",
    permitted: list["x509.GeneralName"],
    excluded: list["x509.GeneralName"],
) -> None:
    allowing = [each for each in permitted if type(each) is type(name)]
    forbidding = [each for each in excluded if type(each) is type(name)]
    if allowing and not any(_within(name, each) for each in allowing):
        raise ValueError(f"certificate: its signer does not allow the name {name.value}")
    if any(_within(name, each) for each in forbidding):
        raise ValueError(f"certificate: its signer excludes the name {name.value}")


def _within(name: "x509.GeneralName", constraint: "x509.GeneralName") -> bool:
    """Raises ValueError where that cannot be told."""
    from cryptography import x509

    text = constraint.value
    if isinstance(name, x509.UniformResourceIdentifier) and isinstance(text, str):
        return _host_within(SpiffeId.parse(name.value).trust_domain, text.lower())
    if isinstance(name, x509.DNSName) and isinstance(text, str):
        return _domain_within(name.value.lower(), text.lower())
    raise ValueError("certificate: its signer constrains names of a kind that is not weighed here")


def _host_within(host: str, constraint: str) -> bool:
    """For URIs: `.example.org` are all hosts below it, `example.org` that host alone."""
    if _IPV4.fullmatch(host):
        # RFC 5280: a URI whose host is an address must be refused where URIs are constrained.
        raise ValueError(f"certificate: its signer constrains URIs, and {host} is an address")
    if constraint.startswith("."):
        return host.endswith(constraint) and host != constraint
    return host == constraint


def _domain_within(domain: str, constraint: str) -> bool:
    """For DNS names: `example.org` is that and all below it; the empty one is everything."""
    return not constraint or domain == constraint or domain.endswith("." + constraint.lstrip("."))
