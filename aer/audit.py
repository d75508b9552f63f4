"""`aer audit`: the commands of AuditService, and the verification of what it says."""

import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from aer import output, parse
from aer.command import Argument, Call, Command
from aer.errors import AerError, UsageError

if TYPE_CHECKING:
    from aurae.audit.v0 import audit_pb2

    from runtime.audit.chain import Verifier

_SERVICE: Final = "aurae.audit.v0.AuditService"
_HEADERS: Final = ("SEQ", "TIME", "DECISION", "WHO", "METHOD", "OBJECT", "RULE")
_FILTERS: Final = ("who", "method", "denied")


def log(call: Call) -> int:
    from aurae.audit.v0 import audit_pb2, audit_pb2_grpc

    from aer.session import session

    request = call.request(audit_pb2.WatchRequest())
    request.no_follow = not call["follow"]
    if call["raw"] and any(map(call.__getitem__, _FILTERS)):
        raise UsageError("--raw: what is filtered is no chain", "leave --who, --method, --denied")
    with session(call) as node:
        show = _Raw().show if call["raw"] else _Table().show
        for answer in node.unbounded(audit_pb2_grpc.AuditServiceStub(node.channel).Watch, request):
            if answer.lost:
                output.warn(f"{answer.lost} events are missing here: no longer kept")
            if answer.damage:
                output.warn(f"the node's log has what is no event: {answer.damage}")
            if call["raw"] or node.config.output == "table":
                show(answer)
            else:
                for event in answer.events:
                    output.show_item(node.config.output, event)
    return 0


def head(call: Call) -> int:
    from aurae.audit.v0 import audit_pb2, audit_pb2_grpc

    from aer.session import session

    with session(call) as node:
        stub = audit_pb2_grpc.AuditServiceStub(node.channel)
        answer = node.unary(stub.GetHead, audit_pb2.GetHeadRequest())
        output.show(node.config.output, answer, lambda: [f"{answer.seq}:{answer.hash}"])
    return 0


def verify(call: Call) -> int:
    from runtime.audit.chain import Verifier

    known = [call["head"]] if call["head"] else []
    if call["files"]:
        files = _segments(call["files"])
        verifier = Verifier([*known, *_heads(call["files"])])
        for file in files:
            _feed(verifier, file, last=file == files[-1])
        verifier.finish(part=bool(call["part"]))
        return _conclude(verifier, ", ".join(call["files"]), call.flags.get("output", "table"))
    return _verify_node(call, known)


def _verify_node(call: Call, known: list[tuple[int, str]]) -> int:
    from aurae.audit.v0 import audit_pb2, audit_pb2_grpc

    from aer.session import session
    from runtime.audit.chain import Verifier

    with session(call) as node:
        stub = audit_pb2_grpc.AuditServiceStub(node.channel)
        now = node.unary(stub.GetHead, audit_pb2.GetHeadRequest())
        # What the node itself takes for its last event is in its log as well.
        verifier = Verifier([*known, (now.seq, now.hash)])
        damage: list[str] = []
        for answer in node.unbounded(stub.Watch, audit_pb2.WatchRequest(no_follow=True)):
            if answer.damage:
                damage.append(answer.damage)
            if answer.events:
                verifier.begin(answer.events[0].seq - 1, answer.previous)
            for event in answer.events:
                verifier.event(_line(event))
        verifier.finish()
        verifier.faults += damage
        return _conclude(verifier, node.config.socket, node.config.output)


def _conclude(verifier: "Verifier", what: object, form: str) -> int:
    from aurae.audit.v0 import audit_pb2

    for seq in verifier.unchecked:
        output.warn(f"event {seq} is known, but no longer kept: nothing was compared with it")
    if verifier.faults:
        raise AerError("\n     ".join([f"{what}: is not as it was written", *verifier.faults]))
    if not verifier.events:
        raise AerError(f"{what}: has no events", "aer audit log --raw > FILE")
    lost = f"; {verifier.lost} more were lost by the node" if verifier.lost else ""
    said = f"{what}: events {verifier.first} to {verifier.seq} are as they were written{lost}"
    last = audit_pb2.GetHeadResponse(seq=verifier.seq, hash=verifier.hash)
    output.show(form, last, lambda: [said, f"{last.seq}:{last.hash}"])
    return 0


def _segments(names: Sequence[str]) -> list[Path]:
    """Files in the order of their events, those in folders among them."""
    files: list[Path] = []
    for path in map(parse.path, names):
        found = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
        if not found:
            raise UsageError(f"{path}: has no file of an audit log, NUMBER.jsonl")
        files += found
    return files


def _heads(names: Sequence[str]) -> Iterator[tuple[int, str]]:
    """The last event that was safe on the disk, where there is a whole folder."""
    import json

    for path in map(parse.path, names):
        if path.is_dir():
            try:
                fields = json.loads((path / "head.json").read_text())
                yield int(fields["seq"]), str(fields["hash"])
            except (OSError, ValueError, KeyError, TypeError) as e:
                raise AerError(f"{path / 'head.json'}: cannot be used: {e}") from e


def _feed(verifier: "Verifier", file: Path, *, last: bool) -> None:
    """What a runtime was writing when it was killed has no end, and is no event."""
    from runtime.audit.chain import parse_header

    try:
        *lines, rest = file.read_bytes().split(b"\n")
    except OSError as e:
        raise AerError(f"{file}: {e.strerror}") from e
    for number, line in enumerate(lines):
        if number and not line.startswith(b'{"audit":'):
            verifier.event(line)
            continue
        try:
            verifier.begin(*parse_header(line))
        except ValueError as e:
            raise AerError(f"{file}: line {number + 1}: {e}") from e
    if rest and last:
        output.warn(f"{file}: its last line has no end, and was not looked at")
    elif rest:
        verifier.faults.append(f"{file}: its last line has no end")


def _line(event: "audit_pb2.AuditEvent") -> bytes:
    """The line of the node's log."""
    from runtime.audit import chain

    fields = {name: getattr(event, name) for name in chain.FIELDS}
    fields["kind"] = _kind(event)
    special = {name: getattr(event, name) for name in chain.SPECIAL}
    text = chain.body(fields | {name: value for name, value in special.items() if value})
    return chain.line(text, event.hash)


def _kind(event: "audit_pb2.AuditEvent") -> str:
    from aurae.audit.v0 import audit_pb2

    name: str = audit_pb2.AuditEventKind.Name(event.kind)
    return name.removeprefix("AUDIT_EVENT_KIND_").lower()


class _Raw:
    """Prints the lines as they are in the node's log, for `aer audit verify`."""

    def __init__(self) -> None:
        self._last: tuple[int, str] | None = None

    def show(self, answer: "audit_pb2.WatchResponse") -> None:
        from runtime.audit.chain import header

        if not answer.events:
            return
        before = (answer.events[0].seq - 1, answer.previous)
        if before != self._last:
            sys.stdout.write(header(*before).decode())
        for event in answer.events:
            sys.stdout.write(_line(event).decode())
            self._last = (event.seq, event.hash)
        sys.stdout.flush()


class _Table:
    """Columns that grow with what is in them: nobody knows what comes."""

    def __init__(self) -> None:
        self._widths = [0] * len(_HEADERS)

    def show(self, answer: "audit_pb2.WatchResponse") -> None:
        rows = [tuple(map(output.printable, _row(event))) for event in answer.events]
        if rows and not any(self._widths):
            rows.insert(0, _HEADERS)
        for column, cells in enumerate(zip(*rows, strict=True)):
            self._widths[column] = max(self._widths[column], *map(len, cells))
        for row in rows:
            number, *texts = zip(row, self._widths, strict=True)
            padded = [number[0].rjust(number[1]), *(text.ljust(width) for text, width in texts)]
            print("  ".join(padded).rstrip())
        sys.stdout.flush()


def _row(event: "audit_pb2.AuditEvent") -> tuple[str, ...]:
    seconds, rest = divmod(event.time, 1_000_000_000)
    at = f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest // 1_000_000:03}Z"
    kind = _kind(event)
    decided = kind == "decision"
    why = "; ".join(text for text in (event.rule, event.reason) if text)
    return (
        str(event.seq),
        at,
        ("allowed" if event.allowed else "DENIED") if decided else kind,
        event.who,
        event.method.rpartition(".")[2].lstrip("/"),
        event.object,
        why,
    )


def _known(text: str) -> tuple[int, str]:
    number, colon, sealed = text.strip().partition(":")
    if not colon or not number.isdecimal() or len(sealed) != 64:
        raise ValueError(f"{text!r} is no head; write NUMBER:HASH, as aer audit head prints it")
    return int(number), sealed


def _fixed(*names: str, reason: str) -> dict[str, Any]:
    return dict.fromkeys(names, reason)


COMMANDS: Final = (
    Command(
        words=("audit", "log"),
        help="show what the node decided: who, what, on which object, by which rule",
        text="From the first event that is kept on.",
        run=log,
        rpc=f"{_SERVICE}.Watch",
        fixed={"no_follow": "unless --follow is given"},
        arguments=(
            Argument(
                name="--follow", short="-f", help="wait for more, without an end", switch=True
            ),
            Argument(
                name="--since",
                help="begin with the event of this number",
                metavar="SEQ",
                fields=("since",),
                parse=parse.integer,
            ),
            Argument(
                name="--only-new",
                help="only what is decided from now on; with --follow",
                fields=("only_new",),
                switch=True,
            ),
            Argument(
                name="--who",
                help="only callers that match, such as 'spiffe://*/person/*'",
                metavar="PATTERN",
                fields=("who",),
            ),
            Argument(
                name="--method",
                help="only methods that match, such as Allocate or 'CellService/*'",
                metavar="PATTERN",
                fields=("method",),
            ),
            Argument(name="--denied", help="only what was denied", fields=("denied",), switch=True),
            Argument(
                name="--raw",
                help="print the lines of the log itself, for aer audit verify",
                switch=True,
            ),
        ),
    ),
    Command(
        words=("audit", "head"),
        help="print the number and the hash of the last event",
        text="Keep them elsewhere: with them aer audit verify proves that nothing up to there was "
        "changed since.",
        run=head,
        rpc=f"{_SERVICE}.GetHead",
    ),
    Command(
        words=("audit", "verify"),
        help="verify that an audit log is as the node wrote it",
        text="Of the node, or of files that were taken from it: those of aer audit log --raw, or "
        "its folder /var/lib/aurae/audit. Prints the last event as aer audit head does.",
        run=verify,
        rpc=f"{_SERVICE}.Watch",
        fixed={
            **_fixed("since", "only_new", "no_follow", reason="all that is kept"),
            **_fixed(*_FILTERS, reason="what is filtered is no chain"),
        },
        arguments=(
            Argument(
                name="files",
                help="files or folders of a log; default: that of the node",
                metavar="FILE",
                many=True,
                optional=True,
                complete="file",
            ),
            Argument(
                name="--head",
                help="an event that must be in it, as aer audit head printed it",
                metavar="SEQ:HASH",
                parse=_known,
            ),
            Argument(
                name="--part",
                help="the files need not begin with the first event that the node keeps",
                switch=True,
            ),
        ),
    ),
)
