"""`aer auth`: who may do what on a node, and the policy that says it."""

import textwrap
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from aer import output, parse
from aer.command import Argument, Call, Command
from aer.errors import AerError
from aer.output import WIDTH

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from aurae.auth.v0 import auth_pb2

    from aer.session import Session


def whoami(call: Call) -> int:
    from aurae.auth.v0 import auth_pb2

    with _stub(call) as (node, stub):
        answer = node.unary(stub.WhoAmI, auth_pb2.WhoAmIRequest())
        output.show(node.config.output, answer, lambda: _who(answer))
    return 0


def can_i(call: Call) -> int:
    from aurae.auth.v0 import auth_pb2

    with _stub(call) as (node, stub):
        answer = node.unary(stub.CanI, call.request(auth_pb2.CanIRequest()))
        output.show(node.config.output, answer, lambda: _decision(answer))
    return 0 if answer.allowed else 1


def show(call: Call) -> int:
    from aurae.auth.v0 import auth_pb2

    with _stub(call) as (node, stub):
        answer = node.unary(stub.GetPolicy, auth_pb2.GetPolicyRequest())
        output.show(node.config.output, answer, lambda: _policy(answer))
    return 0


def get(call: Call) -> int:
    """The file that `set` takes."""
    import json

    from aurae.auth.v0 import auth_pb2
    from google.protobuf.json_format import MessageToDict

    with _stub(call) as (node, stub):
        answer = node.unary(stub.GetPolicy, auth_pb2.GetPolicyRequest())
    values = MessageToDict(answer.policy, preserving_proto_field_name=True)
    print(json.dumps(values, indent=2, ensure_ascii=False))
    output.note(f"revision {answer.revision}, {answer.source}")
    return 0


def set_policy(call: Call) -> int:
    import json

    from aurae.auth.v0 import auth_pb2
    from google.protobuf.json_format import ParseDict, ParseError

    request = call.request(auth_pb2.SetPolicyRequest())
    file = call["file"]
    try:
        ParseDict(json.loads(file.read_text()), request.policy)
    except (ValueError, ParseError) as e:
        raise AerError(f"{file}: is no policy: {e}", "aer auth policy get prints one") from e
    request.policy.SetInParent()
    with _stub(call) as (node, stub):
        answer = node.unary(stub.SetPolicy, request)
        rules = len(request.policy.rules)
        holds = "would hold" if call["check"] else "holds"
        said = f"{node.config.socket}: revision {answer.revision} {holds}, {rules} rules"
        output.show(node.config.output, answer, lambda: [said])
    return 0


def _stub(call: Call) -> "AbstractContextManager[tuple[Session, Any]]":
    from aurae.auth.v0 import auth_pb2_grpc

    from aer.session import service

    return service(call, auth_pb2_grpc.AuthServiceStub)


def _who(answer: "auth_pb2.WhoAmIResponse") -> Iterable[str]:
    yield f"{'identity':<12}{output.printable(answer.id)}"
    if answer.confined_to:
        yield f"{'confined to':<12}cell {answer.confined_to}"
    may = ", ".join(answer.permissions) or "nothing"
    yield from textwrap.wrap(may, WIDTH, initial_indent=f"{'may':<12}", subsequent_indent=" " * 12)
    if answer.rules:
        yield ""
        yield from _rules(answer.rules)


def _decision(answer: "auth_pb2.CanIResponse") -> Iterable[str]:
    where = f", within cell {answer.confined_to}" if answer.confined_to else ""
    yield f"{'yes' if answer.allowed else 'no'}: {answer.method}{where}"
    yield f"{'needs':<8}{answer.permission}"
    yield f"{'rule':<8}{output.printable(answer.rule)}"
    yield f"{'because':<8}{output.printable(answer.reason)}"


def _policy(answer: "auth_pb2.GetPolicyResponse") -> Iterable[str]:
    yield f"revision {answer.revision}, {answer.source}"
    yield ""
    yield from _rules(answer.policy.rules)
    if not answer.policy.tenants:
        return
    yield ""
    rows = [
        (
            one.cell.name,
            str(one.max_cells),
            _bytes(one.cell.memory.max) if one.cell.memory.HasField("max") else "-",
            _cpus(one.cell.cpu),
            str(one.cell.pids.max) if one.cell.pids.HasField("max") else "-",
        )
        for one in answer.policy.tenants
    ]
    yield from output.table(
        ("TENANT", "CELLS", "MEMORY", "CPUS", "PIDS"), rows, right="CELLS MEMORY CPUS PIDS"
    )


def _rules(rules: Iterable["auth_pb2.Rule"]) -> Iterable[str]:
    from aurae.auth.v0 import auth_pb2

    rows = [
        (
            rule.name,
            rule.id,
            auth_pb2.Role.Name(rule.role).removeprefix("ROLE_").lower(),
            rule.tenant or "-",
        )
        for rule in rules
    ]
    return output.table(("RULE", "WHO", "ROLE", "TENANT"), rows)


def _bytes(number: int) -> str:
    for unit in ("", "K", "M", "G", "T"):
        if number < 1024 or number % 1024:
            return f"{number}{unit}"
        number //= 1024
    return f"{number}P"


def _cpus(cpu: Any) -> str:
    if not cpu.HasField("max"):
        return "-"
    return f"{cpu.max / (cpu.period if cpu.HasField('period') else 100_000):g}"


_FILE: Final = Argument(
    name="file",
    help="a policy in JSON, as `aer auth policy get` prints it",
    parse=parse.path,
    complete="file",
)

COMMANDS: Final = (
    Command(
        words=("auth", "whoami"),
        help="tell who you are to a node, and what you may do there",
        run=whoami,
        rpc="aurae.auth.v0.AuthService.WhoAmI",
    ),
    Command(
        words=("auth", "can-i"),
        help="tell whether a method may be called, and which rule decides that",
        text="Nothing is called. Exit status 1: no.",
        run=can_i,
        rpc="aurae.auth.v0.AuthService.CanI",
        arguments=(
            Argument(
                name="method",
                help="such as CellService/Start, or Start where that is the only one",
                fields=("method",),
            ),
            Argument(
                name="--as",
                help="ask for this SPIFFE ID; default: for yourself",
                metavar="ID",
                fields=("as_id",),
            ),
        ),
    ),
    Command(
        words=("auth", "policy", "show"),
        help="show the rules and tenants of a node's policy",
        run=show,
        rpc="aurae.auth.v0.AuthService.GetPolicy",
    ),
    Command(
        words=("auth", "policy", "get"),
        help="print a node's policy as the file that `set` takes",
        run=get,
        rpc="aurae.auth.v0.AuthService.GetPolicy",
    ),
    Command(
        words=("auth", "policy", "set"),
        help="replace a node's policy",
        text="It is checked as a whole first, and holds from the next call on.",
        run=set_policy,
        rpc="aurae.auth.v0.AuthService.SetPolicy",
        arguments=(
            _FILE,
            Argument(
                name="--if-revision",
                help="only where this revision holds",
                metavar="REVISION",
                fields=("if_revision",),
            ),
            Argument(
                name="--check",
                help="check it, and change nothing",
                switch=True,
                fields=("dry_run",),
            ),
        ),
        fixed=dict.fromkeys(("policy.rules", "policy.tenants"), "from the file"),
    ),
)
