"""`aer pki`: a trust domain and its SVIDs, in files. No node is asked."""

from collections.abc import Callable
from importlib import import_module
from typing import Final

from aer import parse
from aer.command import Argument, Call, Command
from aer.errors import AerError
from runtime.identity import store, svid
from runtime.identity.authority import (
    AUTHORITY_DAYS,
    CRL_DAYS,
    NODE_AUTHORITY_DAYS,
    SVID_DAYS,
    KeyType,
    Reason,
)
from runtime.identity.spiffe import parse_segment, parse_trust_domain

DIRECTORY: Final = "~/.aurae/pki"


def _later(module: str, name: str) -> Callable[[Call], int]:
    """The function `name` of `module`, imported when it is called: help needs neither."""

    def run(call: Call) -> int:
        status: int = getattr(import_module(module), name)(call)
        return status

    return run


def config(call: Call) -> int:
    """A configuration for one person and one node, on stdout or into a new file."""
    folder = call["dir"].absolute()
    node = store.PairFiles.at(folder / "node" / call["node"])
    person = store.PairFiles.at(folder / "person" / call["person"])
    for file in (person.certificate, person.key):
        if not file.exists():
            raise AerError(f"{file}: does not exist", f"aer pki issue person {call['person']}")
    text = _CONFIG.format(
        ca_crt=_quoted(folder / "ca.crt"),
        client_crt=_quoted(person.certificate),
        client_key=_quoted(person.key),
        socket=_quoted(call["address"]),
        server_name=_quoted(svid.parse(node.certificate.read_bytes()).dns_name or ""),
    )
    if not call["to"]:
        print(text, end="")
        return 0
    call["to"].parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    store.create(call["to"], text.encode(), 0o644)
    print(call["to"])
    return 0


def _quoted(text: object) -> str:
    """A TOML basic string."""
    import json

    # JSON's escapes are TOML's, but for DEL, which TOML wants escaped.
    return json.dumps(str(text), ensure_ascii=False).replace("\x7f", "\\u007f")


_CONFIG: Final = """\
[auth]
ca_crt = {ca_crt}
client_crt = {client_crt}
client_key = {client_key}

[system]
socket = {socket}
server_name = {server_name}
"""


def parse_tenant(text: str) -> str:
    """`TENANT/NAME`; each is a segment of a path."""
    tenant, slash, name = text.partition("/")
    if not slash:
        raise ValueError(f"{text!a} names nobody of a tenant; write TENANT/NAME")
    return f"{parse_segment(tenant)}/{parse_segment(name)}"


def parse_serial(text: str) -> int:
    """As `aer pki inspect` and openssl show it."""
    digits = text.replace(":", "")
    try:
        serial = int(digits, 16)
    except ValueError:
        serial = 0
    if not 0 < serial < 1 << 160:
        raise ValueError(f"{text!a} is no serial number; write hexadecimal digits")
    return serial


_DIR: Final = Argument(
    name="--dir",
    help="where the trust domain's files are",
    parse=parse.path,
    default=DIRECTORY,
    complete="directory",
)
_KEY_TYPE: Final = Argument(
    name="--key-type",
    help="kind of the key; gRPC accepts Ed25519 from an authority, not from a peer",
    choices=tuple(KeyType),
    metavar="TYPE",
    default=str(KeyType.ECDSA_P256),
)


_PASSPHRASE: Final = Argument(
    name="--passphrase-file",
    help="first line: the passphrase of DIR/ca.key; default: AURAE_PKI_PASSPHRASE_FILE in the "
    "environment, else it is asked for",
    metavar="FILE",
    parse=parse.path,
    complete="file",
)
SIGNER: Final = (_DIR, _PASSPHRASE)
_TO: Final = Argument(
    name="--to",
    help="a new file to write; default: stdout",
    metavar="FILE",
    parse=parse.path,
    complete="file",
)
DNS: Final = Argument(
    name="--dns",
    help="its DNS name, which clients check; default: NAME.node.TRUST-DOMAIN",
    metavar="NAME",
)
_DOMAIN: Final = Argument(
    name="--trust-domain",
    help="whose; default: this folder's own",
    metavar="NAME",
    parse=parse_trust_domain,
)


def _output(*forms: str) -> Argument:
    return Argument(
        name="--output",
        help=f"{forms[0]} for people, {forms[1]} for programs",
        choices=forms,
        metavar="FORMAT",
        short="-o",
        default=forms[0],
    )


def _validity(days: int) -> Argument:
    return Argument(
        name="--validity",
        help="how long it is valid; never longer than its authority",
        metavar="DURATION",
        parse=parse.duration,
        default=f"{days}d",
    )


_NAME: Final = Argument(name="name", help="last part of the SPIFFE ID", parse=parse_segment)

COMMANDS: Final = (
    Command(
        words=("pki", "init"),
        help="make the authority of a trust domain",
        text="Makes DIR/ca.crt and DIR/ca.key. Whoever has ca.key can be anybody: keep it off "
        "the nodes. Nothing that exists is overwritten.",
        run=_later("aer.issuing", "init"),
        arguments=(
            Argument(
                name="--trust-domain",
                help="its name, such as example.org",
                metavar="NAME",
                parse=parse_trust_domain,
                required=True,
            ),
            Argument(
                name="--encrypt",
                help="put DIR/ca.key under a passphrase; so does --passphrase-file",
                switch=True,
            ),
            *SIGNER,
            _KEY_TYPE,
            _validity(AUTHORITY_DAYS),
        ),
    ),
    Command(
        words=("pki", "issue", "node"),
        help="issue an SVID for a node",
        text="Makes DIR/node/NAME.crt and DIR/node/NAME.key for spiffe://TRUST-DOMAIN/node/NAME.",
        run=_later("aer.issuing", "issue_node"),
        arguments=(
            _NAME,
            DNS,
            *SIGNER,
            _KEY_TYPE,
            _validity(SVID_DAYS),
        ),
    ),
    Command(
        words=("pki", "issue", "person"),
        help="issue an SVID for a person",
        text="Makes DIR/person/NAME.crt and DIR/person/NAME.key for "
        "spiffe://TRUST-DOMAIN/person/NAME.",
        run=_later("aer.issuing", "issue_person"),
        arguments=(_NAME, *SIGNER, _KEY_TYPE, _validity(SVID_DAYS)),
    ),
    Command(
        words=("pki", "issue", "tenant"),
        help="issue an SVID for somebody of a tenant",
        text="Makes DIR/tenant/TENANT/NAME.crt and .key for "
        "spiffe://TRUST-DOMAIN/tenant/TENANT/NAME.",
        run=_later("aer.issuing", "issue_tenant"),
        arguments=(
            Argument(
                name="name",
                help="the tenant, and who of it",
                metavar="TENANT/NAME",
                parse=parse_tenant,
            ),
            *SIGNER,
            _KEY_TYPE,
            _validity(SVID_DAYS),
        ),
    ),
    Command(
        words=("pki", "issue", "node-ca"),
        help="make an authority for a node, which issues SVIDs to its workloads",
        text="Makes DIR/node/NAME.ca.crt and DIR/node/NAME.ca.key, below the trust domain's own "
        "authority. It can sign for spiffe://TRUST-DOMAIN/node/NAME/… only, and no DNS name.",
        run=_later("aer.issuing", "issue_node_ca"),
        arguments=(_NAME, *SIGNER, _KEY_TYPE, _validity(NODE_AUTHORITY_DAYS)),
    ),
    Command(
        words=("pki", "config"),
        help="write the configuration of aer for a person and a node",
        run=config,
        arguments=(
            Argument(name="person", help="whose SVID to show"),
            Argument(name="node", help="whose DNS name to expect"),
            Argument(name="address", help="where the node's API listens", metavar="PATH|HOST:PORT"),
            Argument(
                name="--to",
                help="a new file to write, such as ~/.aurae/config; default: stdout",
                metavar="FILE",
                parse=parse.path,
                complete="file",
            ),
            _DIR,
        ),
    ),
    Command(
        words=("pki", "sign"),
        help="sign a request for a certificate",
        text="The key stays where it is: only the request comes, PKCS #10 in PEM, and only its key "
        "is taken from it. Compare the fingerprint with who sent it first.",
        run=_later("aer.issuing", "sign"),
        arguments=(
            Argument(name="request", help="the request", parse=parse.path, complete="file"),
            Argument(
                name="--id",
                help="for this SPIFFE ID, or this path of it in the trust domain",
                metavar="ID",
            ),
            Argument(name="--node", help="for the node NAME", metavar="NAME", parse=parse_segment),
            Argument(
                name="--node-ca",
                help="for the authority of the node NAME",
                metavar="NAME",
                parse=parse_segment,
            ),
            DNS,
            _TO,
            *SIGNER,
            _validity(SVID_DAYS),
        ),
    ),
    Command(
        words=("pki", "renew"),
        help="issue a certificate again, with new dates",
        text="Puts the new one in the place of the old. Works for all that this authority issued "
        "and has not revoked, and for DIR/ca.crt itself, whose key stays.",
        run=_later("aer.issuing", "renew"),
        arguments=(
            Argument(name="file", help="the certificate", parse=parse.path, complete="file"),
            Argument(
                name="--new-key",
                help="make a new key as well; the old one is lost",
                switch=True,
            ),
            *SIGNER,
            Argument(
                name="--validity",
                help="how long it is valid; default: as long as the old one was made for",
                metavar="DURATION",
                parse=parse.duration,
            ),
        ),
    ),
    Command(
        words=("pki", "revoke"),
        help="revoke a certificate, and write the revocation list",
        text="Writes DIR/crl.pem: what was revoked before, and this. Nodes heed it once they have "
        "it. Without a certificate it only makes a newer list.",
        run=_later("aer.issuing", "revoke"),
        arguments=(
            Argument(
                name="file",
                help="the certificate",
                parse=parse.path,
                optional=True,
                complete="file",
            ),
            Argument(
                name="--serial",
                help="a certificate by its serial number, where it is lost; may be repeated",
                metavar="HEX",
                parse=parse_serial,
                many=True,
            ),
            Argument(
                name="--reason",
                help="why",
                choices=tuple(Reason),
                metavar="REASON",
                default=str(Reason.UNSPECIFIED),
            ),
            *SIGNER,
            Argument(
                name="--validity",
                help="when the next list is due",
                metavar="DURATION",
                parse=parse.duration,
                default=f"{CRL_DAYS}d",
            ),
        ),
    ),
    Command(
        words=("pki", "bundle", "show"),
        help="show the roots of the trust domain, and of those federated with it",
        run=_later("aer.bundling", "show"),
        arguments=(_output("table", "json"), _DIR),
    ),
    Command(
        words=("pki", "bundle", "add"),
        help="believe more roots",
        text="Into DIR/ca.crt, as an authority is being replaced, or DIR/federated/NAME.crt.",
        run=_later("aer.bundling", "add"),
        arguments=(
            Argument(
                name="file",
                help="roots: PEM, or a SPIFFE bundle in JSON",
                parse=parse.path,
                complete="file",
            ),
            _DOMAIN,
            _DIR,
        ),
    ),
    Command(
        words=("pki", "bundle", "remove"),
        help="believe a root no more",
        run=_later("aer.bundling", "remove"),
        arguments=(
            Argument(name="fingerprint", help="its SHA-256, or how that begins"),
            _DOMAIN,
            _DIR,
        ),
    ),
    Command(
        words=("pki", "bundle", "export"),
        help="print a bundle for others",
        run=_later("aer.bundling", "export_bundle"),
        arguments=(
            Argument(
                name="--format",
                help="pem, or the SPIFFE bundle format",
                choices=("pem", "spiffe"),
                metavar="FORMAT",
                default="pem",
            ),
            Argument(
                name="--sequence",
                help="spiffe_sequence; default: when the bundle last changed",
                metavar="NUMBER",
                parse=parse.integer,
            ),
            _DOMAIN,
            _TO,
            _DIR,
        ),
    ),
    Command(
        words=("pki", "export", "kubernetes"),
        help="print a TLS secret and a config map with the bundle",
        text="The secret has the private key in it.",
        run=_later("aer.bundling", "kubernetes"),
        arguments=(
            Argument(
                name="file",
                help="a certificate; its key lies beside it",
                parse=parse.path,
                complete="file",
            ),
            Argument(name="--name", help="of the secret; default: the file's", metavar="NAME"),
            Argument(name="--namespace", help="of both; default: none", metavar="NAME"),
            _output("yaml", "json"),
            _TO,
            _DIR,
            _PASSPHRASE,
        ),
    ),
    Command(
        words=("pki", "export", "spire"),
        help='make the files of SPIRE\'s upstream authority "disk"',
        text="SPIRE then issues in this trust domain. Prints its part of the configuration.",
        run=_later("aer.bundling", "spire"),
        arguments=(
            Argument(
                name="folder",
                help="where they are to lie",
                parse=parse.path,
                complete="directory",
            ),
            _DIR,
            _PASSPHRASE,
        ),
    ),
    Command(
        words=("pki", "secure-boot"),
        help="make a key to sign images with, and its certificate",
        text="DIR/db.key and DIR/db.crt, for `make image SECURE_BOOT=DIR`. They have nothing to do "
        "with the trust domain.",
        run=_later("aer.firmware_keys", "secure_boot"),
        arguments=(
            Argument(
                name="--name",
                help="how firmware shows it",
                metavar="TEXT",
                default="Aurae secure boot",
            ),
            Argument(
                name="--dir",
                help="where the files are to lie",
                metavar="DIR",
                parse=parse.path,
                default="~/.aurae/secure-boot",
                complete="directory",
            ),
        ),
    ),
    Command(
        words=("pki", "inspect"),
        help="show what is in a file: certificates, requests, revocation lists, keys",
        text="With a bundle it also says whether the chain in the file is believed, by the exit "
        "status too.",
        run=_later("aer.inspection", "inspect"),
        arguments=(
            Argument(name="file", help="PEM", parse=parse.path, complete="file"),
            Argument(
                name="--bundle",
                help="believe these roots",
                metavar="FILE",
                parse=parse.path,
                complete="file",
            ),
            Argument(
                name="--crl",
                help="and these revocation lists",
                metavar="FILE",
                parse=parse.path,
                complete="file",
            ),
            _output("table", "json"),
        ),
    ),
)
