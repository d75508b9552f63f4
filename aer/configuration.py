"""`aer node config`: the commands of ConfigService."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from aer import output, parse
from aer.command import Argument, Call, Command
from aer.errors import AerError

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from aurae.node.v0 import config_pb2

    from aer.session import Session

_ORIGINS: Final = {
    "cmdline": "kernel command line",
    "smbios": "SMBIOS",
    "fw_cfg": "fw_cfg",
    "initramfs": "initramfs",
    "esp": "ESP",
    "disk": "configuration disk",
    "url": "URL",
    "stored": "stored",
    "default": "default",
}
# A value that is longer is cut for people.
_LONG: Final = 60


def show(call: Call) -> int:
    from aurae.node.v0 import config_pb2

    with _stub(call) as (node, stub):
        answer = node.unary(stub.Get, config_pb2.ConfigServiceGetRequest())
    if call["document"]:
        print(answer.document, end="")
        return 0
    output.show(node.config.output, answer, lambda: _shown(answer, with_origin=call["origin"]))
    return 0


def validate(call: Call) -> int:
    from aurae.node.v0 import config_pb2

    request = call.request(config_pb2.ConfigServiceValidateRequest())
    with _stub(call) as (node, stub):
        answer = node.unary(stub.Validate, request)

    def lines() -> Iterator[str]:
        yield from _remarks(answer.problems)
        yield from _remarks(answer.notes, "note: ")
        if not answer.problems:
            yield f"revision {answer.revision}: can be applied"

    output.show(node.config.output, answer, lines)
    return 1 if answer.problems else 0


def diff(call: Call) -> int:
    from aurae.node.v0 import config_pb2

    request = call.request(config_pb2.ConfigServiceValidateRequest())
    with _stub(call) as (node, stub):
        now = node.unary(stub.Get, config_pb2.ConfigServiceGetRequest())
        then = node.unary(stub.Validate, request)
    if then.problems:
        raise AerError("\n".join(_remarks(then.problems)), "mend it first")
    before, after = _by_key(now.settings), _by_key(then.settings)
    output.show(node.config.output, then, lambda: _differences(before, after))
    return 0


def apply(call: Call) -> int:
    from aurae.node.v0 import config_pb2

    request = call.request(config_pb2.ConfigServiceApplyRequest())
    with _stub(call) as (node, stub):
        answer = node.unary(stub.Apply, request)
    seconds = call["try"]

    def lines() -> Iterator[str]:
        yield from _remarks(answer.notes, "note: ")
        if seconds is None:
            yield f"{node.config.socket}: revision {answer.revision} is stored"
        else:
            yield f"{node.config.socket}: revision {answer.revision} is on trial for {seconds:g} s"
            yield f"aer node config confirm {answer.revision} keeps it"

    output.show(node.config.output, answer, lines)
    return 0


def confirm(call: Call) -> int:
    from aurae.node.v0 import config_pb2

    request = call.request(config_pb2.ConfigServiceConfirmRequest())
    with _stub(call) as (node, stub):
        answer = node.unary(stub.Confirm, request)
    said = f"{node.config.socket}: revision {answer.revision} is stored"
    output.show(node.config.output, answer, lambda: [said])
    return 0


def revert(call: Call) -> int:
    from aurae.node.v0 import config_pb2

    with _stub(call) as (node, stub):
        answer = node.unary(stub.Revert, config_pb2.ConfigServiceRevertRequest())
    said = f"{node.config.socket}: revision {answer.revision or 'none'} holds again"
    output.show(node.config.output, answer, lambda: [said])
    return 0


def schema(_call: Call) -> int:
    from initd.configuration.reference import schema_text

    print(schema_text(), end="")
    return 0


def _stub(call: Call) -> "AbstractContextManager[tuple[Session, Any]]":
    from aurae.node.v0 import config_pb2_grpc

    from aer.session import service

    return service(call, config_pb2_grpc.ConfigServiceStub)


def _shown(answer: "config_pb2.ConfigServiceGetResponse", *, with_origin: bool) -> Iterator[str]:
    headers = ("KEY", "VALUE", "ORIGIN") if with_origin else ("KEY", "VALUE")
    rows = (
        (one.key, _value(one), _origin(one.origin))[: len(headers)]
        for one in answer.settings
        if with_origin or one.origin != "default"
    )
    yield from output.table(headers, rows)
    for hidden in answer.hidden:
        by = f"hidden by {_origin(hidden.by)}" if hidden.by else "comes too late to count"
        where = _origin(hidden.setting.origin)
        yield f"{hidden.setting.key} = {_value(hidden.setting)} ({where}): {by}"
    for problem in answer.problems:
        yield f"problem: {output.printable(problem)}"
    if answer.trial_revision:
        left = answer.remaining.ToMilliseconds() / 1000
        yield f"revision {answer.trial_revision} is on trial for {left:.0f} s more"
    if not answer.lasting:
        yield "the node has no data disk: what is stored is gone with the next boot"


def _value(one: "config_pb2.ConfigSetting") -> str:
    value = "(secret)" if one.secret else output.printable(one.value)
    return value if len(value) <= _LONG else f"{value[: _LONG - 1]}…"


def _origin(name: str) -> str:
    return _ORIGINS.get(name, output.printable(name))


def _remarks(remarks: "Iterable[config_pb2.ConfigRemark]", before: str = "") -> Iterator[str]:
    for one in remarks:
        said = f"{one.key}: {one.message}" if one.key else one.message
        yield before + output.printable(said)


_Settings = Mapping[str, "config_pb2.ConfigSetting"]


def _by_key(settings: "Iterable[config_pb2.ConfigSetting]") -> _Settings:
    return {one.key: one for one in settings}


def _differences(before: _Settings, after: _Settings) -> Iterator[str]:
    same = True
    for key in sorted(before.keys() | after.keys()):
        old, new = before.get(key), after.get(key)
        if old is not None and new is not None and old == new:
            continue
        same = False
        if old is not None:
            yield f"- {key} = {_value(old)} ({_origin(old.origin)})"
        if new is not None:
            yield f"+ {key} = {_value(new)} ({_origin(new.origin)})"
    if same:
        yield "nothing would change"


def _document(text: str) -> str:
    """The content of a file; `-` is the standard input."""
    import sys

    path = parse.path(text)
    try:
        return sys.stdin.read() if text == "-" else Path(path).read_text()
    except OSError as e:
        raise ValueError(f"{path}: {e.strerror}") from e
    except UnicodeDecodeError:
        raise ValueError(f"{path}: is not TOML: it must be UTF-8") from None


_FILE: Final = Argument(
    name="file",
    help="the document, TOML; - reads the standard input",
    metavar="FILE",
    fields=("document",),
    parse=_document,
    complete="file",
)

COMMANDS: Final = (
    Command(
        words=("node", "config", "show"),
        help="show the configuration that holds",
        text="Values that somebody has given, by whichever channel; with --origin defaults too.",
        run=show,
        rpc="aurae.node.v0.ConfigService.Get",
        arguments=(
            Argument(
                name="--origin",
                help="say which channel each value is from, and show defaults",
                switch=True,
            ),
            Argument(
                name="--document",
                help="print the document that is stored, or on trial, as it was applied",
                switch=True,
            ),
        ),
    ),
    Command(
        words=("node", "config", "validate"),
        help="check a document, without changing anything",
        text="Exits with 1 where something in it is wrong.",
        run=validate,
        rpc="aurae.node.v0.ConfigService.Validate",
        arguments=(_FILE,),
    ),
    Command(
        words=("node", "config", "diff"),
        help="show what would be another value with a document",
        run=diff,
        rpc="aurae.node.v0.ConfigService.Validate",
        arguments=(_FILE,),
    ),
    Command(
        words=("node", "config", "apply"),
        help="store a document on the node, and put it into effect",
        text="With --try the node goes back by itself unless aer node config confirm reaches it in "
        "time: a wrong address locks nobody out. A boot in the meantime goes back too.",
        run=apply,
        rpc="aurae.node.v0.ConfigService.Apply",
        arguments=(
            _FILE,
            Argument(
                name="--try",
                help="go back after this time unless it is confirmed, 5s to 1h",
                metavar="DURATION",
                fields=("trial",),
                parse=parse.duration,
            ),
            Argument(
                name="--if-revision",
                help="only if the stored document has this revision",
                metavar="REVISION",
                fields=("if_revision",),
            ),
            Argument(
                name="--volatile",
                help="also on a node without a data disk, which forgets it at the next boot",
                fields=("volatile",),
                switch=True,
            ),
        ),
    ),
    Command(
        words=("node", "config", "confirm"),
        help="keep the document that is on trial",
        run=confirm,
        rpc="aurae.node.v0.ConfigService.Confirm",
        arguments=(
            Argument(
                name="revision",
                help="what aer node config apply has printed; without it, whichever is on trial",
                fields=("revision",),
                optional=True,
            ),
        ),
    ),
    Command(
        words=("node", "config", "revert"),
        help="go back at once from the document that is on trial",
        run=revert,
        rpc="aurae.node.v0.ConfigService.Revert",
    ),
    Command(
        words=("node", "config", "schema"),
        help="print the JSON Schema of the document",
        text="Editors complete and check TOML by it. Asks no node.",
        run=schema,
    ),
)
