"""`aer node`: the commands of NodeService, ClaimService, and of other modules for this noun."""

import time
from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from aer import configuration, identity, install, output, parse, pki, upgrade
from aer.command import Argument, Call, Command
from aer.errors import AerError, UsageError

if TYPE_CHECKING:
    from aer.claim import Naming
    from aer.session import Session
    from runtime.identity.fingerprint import Fingerprint

# Seconds between two looks at what the node waits for, and how long it may take to go down.
_LOOK: Final = 0.5
_DOWN: Final = 120.0


def shut_down(call: Call) -> int:
    from aurae.node.v0 import node_pb2, node_pb2_grpc

    from aer.session import session

    word = call.command.words[-1]
    mode = node_pb2.ShutdownMode.Value(f"SHUTDOWN_MODE_{word.upper()}")
    request = node_pb2.ShutdownRequest(mode=mode)
    with session(call) as node:
        answer = node.unary(node_pb2_grpc.NodeServiceStub(node.channel).Shutdown, request)
        said = f"{node.config.socket}: goes down ({word})"
        output.show(node.config.output, answer, lambda: [said])
        if not call["no_wait"]:
            _wait(node)
    return 0


def reload_daemon(call: Call) -> int:
    from aurae.node.v0 import node_pb2, node_pb2_grpc

    from aer.session import session

    with session(call) as node:
        stub = node_pb2_grpc.NodeServiceStub(node.channel)
        answer = node.unbounded(stub.ReloadDaemon, node_pb2.ReloadDaemonRequest())
        milliseconds = round(answer.pause.ToMilliseconds())
        said = (
            f"{node.config.socket}: PID 1 is auraed {answer.version} now, "
            f"{milliseconds} ms without it"
        )
        output.show(node.config.output, answer, lambda: [said])
    return 0


def claim_request(call: Call) -> int:
    from aer.claim import Unclaimed

    config = call.settings()
    answer = Unclaimed(call["address"], call["fingerprint"], config.timeout).begin()
    said = f"{answer.request.decode()}{answer.ca_request.decode()}"
    output.show(config.output, answer, said.splitlines)
    return 0


def claim(call: Call) -> int:
    from aer import claim as claiming

    config = call.settings()
    address, folder = call["address"], call["dir"]
    naming = _naming(call)
    policy = claiming.read_policy(call["policy"])
    claiming.check_free(naming)
    node = claiming.Unclaimed(address, call["fingerprint"], config.timeout)
    try:
        answer = node.claim(naming, policy)
    except ValueError as e:
        raise AerError(f"node {naming.name}: {e}") from e
    if not call["no_wait"] and not node.serves(naming):
        output.warn(f"{address}: is claimed, and does not serve yet")
    said = (
        f"{answer.spiffe_id}: claimed, {naming.files.certificate}",
        f"aer pki config PERSON {naming.name} {address} --dir {folder} makes a configuration",
    )
    output.show(config.output, answer, lambda: said)
    return 0


def _naming(call: Call) -> "Naming":
    """What a claimed node is to be: as `aer pki issue node` has it."""
    from aer.claim import Naming
    from aer.folder import Folder
    from runtime.identity import svid

    folder = Folder.of(call)
    name = call["name"]
    spiffe_id = folder.spiffe_id(svid.NODE + name)
    dns_name = call["dns"] or f"{name}.node.{spiffe_id.trust_domain}"
    try:
        svid.parse_dns_name(dns_name)
    except ValueError as e:
        raise UsageError(f"node {name}: {e}", "give it another by --dns") from None
    return Naming(
        signer=folder.authority(),
        id=spiffe_id,
        dns_name=dns_name,
        validity=timedelta(seconds=call["validity"]),
        with_authority=not call["no_authority"],
        files=folder.pair("node", name),
        again=call["again"],
    )


def _wait(node: "Session") -> None:
    """Until the API has ended. People are told what the node waits for, whenever that changes."""
    import grpc

    deadline = time.monotonic() + (node.config.timeout or _DOWN)
    before: list[str] = []
    while time.monotonic() < deadline:
        try:
            living = _living(node)
        except grpc.RpcError:
            return
        if living != before and node.config.output == "table":
            waits = ", ".join(living) if living else "its services"
            print(f"{node.config.socket}: waits for {waits}", flush=True)
        before = living
        time.sleep(_LOOK)
    output.warn(f"{node.config.socket}: still answers")


def _living(node: "Session") -> list[str]:
    from aurae.cells.v0 import cells_pb2, cells_pb2_grpc

    stub = cells_pb2_grpc.CellServiceStub(node.channel)
    answer = node.unary(stub.List, cells_pb2.CellServiceListRequest())

    def names(nodes: Any) -> Iterator[str]:
        for one in nodes:
            for status in one.executables:
                if status.state != cells_pb2.EXECUTABLE_STATE_ENDED:
                    yield output.printable(f"{one.cell.name}/{status.executable.name}")
            yield from names(one.children)

    return list(names(answer.cells))


_NO_WAIT: Final = Argument(
    name="--no-wait",
    help="return once the node has begun, and do not tell what it waits for",
    switch=True,
)


def _address(text: str) -> str:
    from aer.claim import parse_address

    return parse_address(text)


def _fingerprint(text: str) -> "Fingerprint":
    from runtime.identity.fingerprint import Fingerprint

    return Fingerprint.parse(text)


def _segment(text: str) -> str:
    from runtime.identity.spiffe import parse_segment

    return parse_segment(text)


_ADDRESS: Final = Argument(
    name="address",
    help="where the node listens; without a port, 8080",
    metavar="HOST[:PORT]",
    parse=_address,
)
_FINGERPRINT: Final = Argument(
    name="--fingerprint",
    help="what the node's console shows: the words, of which three letters each will do, or the "
    "text of the QR code",
    metavar="WORDS",
    parse=_fingerprint,
    required=True,
)
_SECRET: Final = {"secret": "stands in the fingerprint"}


def _down(word: str, text: str, more: str = "") -> Command:
    return Command(
        words=("node", word),
        help=text,
        text="Workloads get SIGTERM and then SIGKILL, file systems are written. Tells what the "
        f"node waits for, until its API has ended. {more}".strip(),
        run=shut_down,
        rpc="aurae.node.v0.NodeService.Shutdown",
        arguments=(_NO_WAIT,),
        fixed={"mode": "each mode has a command"},
    )


COMMANDS: Final = (
    _down("poweroff", "switch the node's power off"),
    _down("reboot", "start the node again"),
    _down("halt", "stop the node and keep its power"),
    _down(
        "kexec",
        "start the kernel that was loaded, without the firmware",
        "Refused unless kexec_file_load(2) has loaded one.",
    ),
    Command(
        words=("node", "reload-daemon"),
        help="replace the program that is PID 1 by the one that is installed now",
        text="Workloads, their output and the services go on. A program that cannot start changes "
        "nothing.",
        run=reload_daemon,
        rpc="aurae.node.v0.NodeService.ReloadDaemon",
    ),
    Command(
        words=("node", "claim"),
        help="give an identity to a node that has none",
        text="For a node that was booted without credentials: its console shows a fingerprint. The "
        "trust domain in DIR signs for the node's keys, which stay with it; DIR/node/NAME.crt is "
        "made. Nothing is sent to a node with another fingerprint. Returns once the node serves "
        "as spiffe://TRUST-DOMAIN/node/NAME.",
        run=claim,
        rpc="aurae.claim.v0.ClaimService.Claim",
        arguments=(
            _ADDRESS,
            _FINGERPRINT,
            Argument(
                name="--name",
                help="last part of its SPIFFE ID",
                metavar="NAME",
                parse=_segment,
                required=True,
            ),
            pki.DNS,
            *pki.SIGNER,
            Argument(
                name="--validity",
                help="how long its certificates are valid; never longer than their authority",
                metavar="DURATION",
                parse=parse.duration,
                default="365d",
            ),
            Argument(
                name="--policy",
                help="the policy that it begins with",
                metavar="FILE",
                parse=parse.path,
                complete="file",
            ),
            Argument(
                name="--no-authority",
                help="do not make the node an authority for its workloads",
                switch=True,
            ),
            Argument(
                name="--again",
                help="it was claimed by this name before: its old certificate gives way",
                switch=True,
            ),
            Argument(
                name="--no-wait",
                help="return once it is claimed, and do not wait until it serves",
                switch=True,
            ),
        ),
        fixed={
            **_SECRET,
            "certificate_chain": "is signed for what the node asks for",
            "ca_certificate_chain": "is signed for what the node asks for",
            "trust_bundle": "is that of DIR",
            "policy": "is the content of the file that --policy names",
        },
    ),
    Command(
        words=("node", "claim-request"),
        help="show what a node that has no identity asks to be signed",
        text="Two signing requests, for the node and for its own authority. For a trust domain "
        "that is not in files of aer pki.",
        run=claim_request,
        rpc="aurae.claim.v0.ClaimService.Begin",
        arguments=(_ADDRESS, _FINGERPRINT),
        fixed=_SECRET,
    ),
    *configuration.COMMANDS,
    *install.COMMANDS,
    *identity.COMMANDS,
    *upgrade.COMMANDS,
)
