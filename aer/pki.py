"""`aer pki`: a trust domain and its SVIDs, in files. No node is asked."""

from datetime import timedelta
from pathlib import Path
from typing import Final

from aer import output, parse
from aer.command import Argument, Call, Command
from aer.errors import AerError, UsageError
from runtime.identity import authority, store, svid
from runtime.identity.authority import AUTHORITY_DAYS, NODE_AUTHORITY_DAYS, SVID_DAYS, KeyType
from runtime.identity.spiffe import SpiffeId, parse_segment, parse_trust_domain

DIRECTORY: Final = "~/.aurae/pki"


def init(call: Call) -> int:
    files = store.PairFiles.at(call["dir"] / "ca")
    key = files.leftover_key() or authority.make_key(KeyType(call["key_type"]))
    validity = timedelta(seconds=call["validity"])
    files.write(authority.make_authority(call["trust_domain"], key, validity=validity))
    print(f"spiffe://{call['trust_domain']}: {files.certificate}, {files.key}")
    return 0


def issue_node(call: Call) -> int:
    signer = _authority(call["dir"])
    spiffe_id = _spiffe_id(signer, svid.NODE + call["name"])
    dns_name = call["dns"] or f"{call['name']}.node.{spiffe_id.trust_domain}"
    try:
        svid.parse_dns_name(dns_name)
    except ValueError as e:
        raise UsageError(f"node {call['name']}: {e}", "give it another by --dns") from None
    return _issue(call, signer, spiffe_id, call["dir"] / "node", dns_name)


def issue_person(call: Call) -> int:
    signer = _authority(call["dir"])
    spiffe_id = _spiffe_id(signer, svid.PERSON + call["name"])
    return _issue(call, signer, spiffe_id, call["dir"] / "person", None)


def issue_tenant(call: Call) -> int:
    signer = _authority(call["dir"])
    spiffe_id = _spiffe_id(signer, svid.TENANT + call["name"])
    return _issue(call, signer, spiffe_id, call["dir"] / "tenant", None)


def issue_node_ca(call: Call) -> int:
    signer = _authority(call["dir"])
    files = store.PairFiles.at(call["dir"] / "node" / f"{call['name']}.ca")
    key = files.leftover_key() or authority.make_key(KeyType(call["key_type"]))
    validity = timedelta(seconds=call["validity"])
    pair = authority.make_intermediate(signer, key, call["name"], validity=validity)
    files.write(pair)
    own = _spiffe_id(signer, f"{svid.NODE}{call['name']}")
    until = svid.certificates(pair.certificate)[0].not_valid_after_utc
    print(f"{own}/…: {files.certificate}, {files.key}, valid until {until:%Y-%m-%d}")
    return 0


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


def show(call: Call) -> int:
    """What a certificate says, and whether it is an SVID."""
    file: Path = call["file"]
    pem = file.read_bytes()
    try:
        own = SpiffeId(authority.trust_domain(pem))
    except ValueError:
        shown = svid.parse(pem)
    else:
        certificate = svid.certificates(pem)[0]
        start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        shown = svid.Svid(own, None, start, end)
    rows = {
        "SPIFFE ID": str(shown.id),
        "DNS name": shown.dns_name or "none",
        "valid": f"{shown.not_before:%Y-%m-%d %H:%M} to {shown.not_after:%Y-%m-%d %H:%M} UTC",
    }
    for name, value in rows.items():
        print(f"{name:<11}{value}")
    return 0


def _authority(folder: Path) -> authority.Pair:
    files = store.PairFiles.at(folder / "ca")
    try:
        return files.load()
    except FileNotFoundError as e:
        hint = f"aer pki init --trust-domain NAME --dir {folder}"
        raise AerError(f"{e.filename}: does not exist, so nothing can be issued", hint) from e


def _spiffe_id(signer: authority.Pair, path: str) -> SpiffeId:
    return SpiffeId(authority.trust_domain(signer.certificate), path)


def _issue(
    call: Call, signer: authority.Pair, spiffe_id: SpiffeId, folder: Path, dns_name: str | None
) -> int:
    files = store.PairFiles.at(folder / call["name"])
    key_type = KeyType(call["key_type"])
    key = files.leftover_key() or authority.make_key(key_type)
    validity = timedelta(seconds=call["validity"])
    pair = authority.issue(signer, spiffe_id, key, dns_name=dns_name, validity=validity)
    files.write(pair)
    until = svid.parse(pair.certificate).not_after
    print(f"{spiffe_id}: {files.certificate}, {files.key}, valid until {until:%Y-%m-%d}")
    if key_type is KeyType.ED25519:
        output.warn("nodes and aer refuse it: gRPC accepts no Ed25519 key of a peer")
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


def _validity(days: int) -> Argument:
    return Argument(
        name="--validity",
        help="how long it is valid; never longer than its authority",
        metavar="DURATION",
        parse=parse.duration,
        default=f"{days}d",
    )


def parse_tenant(text: str) -> str:
    """`TENANT/NAME`; each is a segment of a path."""
    tenant, slash, name = text.partition("/")
    if not slash:
        raise ValueError(f"{text!a} names nobody of a tenant; write TENANT/NAME")
    return f"{parse_segment(tenant)}/{parse_segment(name)}"


_NAME: Final = Argument(name="name", help="last part of the SPIFFE ID", parse=parse_segment)

COMMANDS: Final = (
    Command(
        words=("pki", "init"),
        help="make the authority of a trust domain",
        text="Makes DIR/ca.crt and DIR/ca.key. Whoever has ca.key can be anybody: keep it off "
        "the nodes. Nothing that exists is overwritten.",
        run=init,
        arguments=(
            Argument(
                name="--trust-domain",
                help="its name, such as example.org",
                metavar="NAME",
                parse=parse_trust_domain,
                required=True,
            ),
            _DIR,
            _KEY_TYPE,
            _validity(AUTHORITY_DAYS),
        ),
    ),
    Command(
        words=("pki", "issue", "node"),
        help="issue an SVID for a node",
        text="Makes DIR/node/NAME.crt and DIR/node/NAME.key for spiffe://TRUST-DOMAIN/node/NAME.",
        run=issue_node,
        arguments=(
            _NAME,
            Argument(
                name="--dns",
                help="its DNS name, which clients check; default: NAME.node.TRUST-DOMAIN",
                metavar="NAME",
            ),
            _DIR,
            _KEY_TYPE,
            _validity(SVID_DAYS),
        ),
    ),
    Command(
        words=("pki", "issue", "person"),
        help="issue an SVID for a person",
        text="Makes DIR/person/NAME.crt and DIR/person/NAME.key for "
        "spiffe://TRUST-DOMAIN/person/NAME.",
        run=issue_person,
        arguments=(_NAME, _DIR, _KEY_TYPE, _validity(SVID_DAYS)),
    ),
    Command(
        words=("pki", "issue", "tenant"),
        help="issue an SVID for somebody of a tenant",
        text="Makes DIR/tenant/TENANT/NAME.crt and .key for "
        "spiffe://TRUST-DOMAIN/tenant/TENANT/NAME.",
        run=issue_tenant,
        arguments=(
            Argument(
                name="name",
                help="the tenant, and who of it",
                metavar="TENANT/NAME",
                parse=parse_tenant,
            ),
            _DIR,
            _KEY_TYPE,
            _validity(SVID_DAYS),
        ),
    ),
    Command(
        words=("pki", "issue", "node-ca"),
        help="make an authority for a node, which issues SVIDs to its workloads",
        text="Makes DIR/node/NAME.ca.crt and DIR/node/NAME.ca.key, below the trust domain's own "
        "authority. It can sign for spiffe://TRUST-DOMAIN/node/NAME/… only, and no DNS name.",
        run=issue_node_ca,
        arguments=(_NAME, _DIR, _KEY_TYPE, _validity(NODE_AUTHORITY_DAYS)),
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
        words=("pki", "show"),
        help="show what a certificate says, and whether it is an SVID",
        run=show,
        arguments=(
            Argument(name="file", help="a certificate, PEM", parse=parse.path, complete="file"),
        ),
    ),
)
