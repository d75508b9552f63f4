"""`aer node upgrade`: the commands of UpgradeService."""

import queue
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from aer import output
from aer.command import Argument, Call, Command
from aer.errors import AerError

if TYPE_CHECKING:
    from aurae.node.v0 import upgrade_pb2

    from aer.bundle import Bundle

_SERVICE: Final = "aurae.node.v0.UpgradeService"
_URLS: Final = ("http://", "https://")
# How often people are told, in parts of the whole.
_PARTS: Final = 20


def upgrade(call: Call) -> int:
    from aurae.node.v0 import upgrade_pb2, upgrade_pb2_grpc

    from aer.bundle import Bundle
    from aer.session import session

    begin = call.request(upgrade_pb2.UpgradeRequest()).begin
    what = call["what"]
    bundle: Bundle | None = None
    if what.startswith(_URLS):
        begin.url = what
    else:
        bundle = Bundle.read(Path(what))
        begin.manifest, begin.signature = bundle.encoded, _signature(bundle)
    offsets: queue.SimpleQueue[int] = queue.SimpleQueue()
    with session(call) as node:
        stub = upgrade_pb2_grpc.UpgradeServiceStub(node.channel)
        answers = node.unbounded(stub.Upgrade, _requests(begin, bundle, offsets))
        told = _Told(node.config.output, str(node.config.socket))
        first = True
        try:
            for answer in answers:
                if first:
                    offsets.put(answer.offset)
                first = False
                told.tell(answer)
        finally:
            # Whoever waits for the first answer has none any more.
            offsets.put(-1)
        if node.config.output == "table" and not begin.reboot:
            print(f"aer node reboot starts version {told.version}; it has three boots")
    return 0


def status(call: Call) -> int:
    from aurae.node.v0 import upgrade_pb2, upgrade_pb2_grpc

    from aer.session import session

    with session(call) as node:
        stub = upgrade_pb2_grpc.UpgradeServiceStub(node.channel)
        answer = node.unary(stub.GetUpgradeStatus, upgrade_pb2.GetUpgradeStatusRequest())
        output.show(node.config.output, answer, lambda: _lines(answer))
    return 0


def cancel(call: Call) -> int:
    from aurae.node.v0 import upgrade_pb2, upgrade_pb2_grpc

    from aer.session import session

    with session(call) as node:
        stub = upgrade_pb2_grpc.UpgradeServiceStub(node.channel)
        answer = node.unary(stub.CancelUpgrade, upgrade_pb2.CancelUpgradeRequest())
        output.show(node.config.output, answer, lambda: [f"{node.config.socket}: cancelled"])
    return 0


def rollback(call: Call) -> int:
    from aurae.node.v0 import upgrade_pb2, upgrade_pb2_grpc

    from aer.session import session

    request = call.request(upgrade_pb2.RollbackRequest())
    with session(call) as node:
        stub = upgrade_pb2_grpc.UpgradeServiceStub(node.channel)
        answer = node.unary(stub.Rollback, request)
        said = f"{node.config.socket}: the next boot has version {answer.version}"
        output.show(node.config.output, answer, lambda: [said])
    return 0


def _signature(bundle: "Bundle") -> bytes:
    try:
        return bundle.signature.read_bytes()
    except OSError as e:
        raise AerError(
            f"{bundle.signature}: {e.strerror}", f"aer image sign {bundle.path} --key FILE"
        ) from e


def _requests(
    begin: "upgrade_pb2.UpgradeBegin", bundle: "Bundle | None", offsets: "queue.SimpleQueue[int]"
) -> "Iterator[upgrade_pb2.UpgradeRequest]":
    """The content from where the node wants it, once it has said so."""
    from aurae.node.v0 import upgrade_pb2

    yield upgrade_pb2.UpgradeRequest(begin=begin)
    offset = offsets.get()
    if bundle is None or offset < 0:
        return
    for data in bundle.content(offset):
        yield upgrade_pb2.UpgradeRequest(content=data)


class _Told:
    """Progress, as people or programs want it."""

    def __init__(self, form: str, where: str) -> None:
        self.version = ""
        self._form = form
        self._where = where
        self._last = -1

    def tell(self, answer: "upgrade_pb2.UpgradeResponse") -> None:
        self.version = answer.version
        if self._form != "table":
            output.show_item(self._form, answer)
            return
        line = _progress(answer)
        part = answer.offset * _PARTS // max(answer.size, 1)
        if answer.stage != 1 or part != self._last:
            print(f"{self._where}: {line}")
            sys.stdout.flush()
        self._last = part


def _progress(answer: "upgrade_pb2.UpgradeResponse") -> str:
    from aurae.node.v0 import upgrade_pb2

    percent = answer.offset * 100 // max(answer.size, 1)
    what = {
        upgrade_pb2.UPGRADE_STAGE_WRITING: f"written to {percent} %",
        upgrade_pb2.UPGRADE_STAGE_VERIFYING: "is verified",
        upgrade_pb2.UPGRADE_STAGE_DONE: "is there for the next boot",
    }.get(answer.stage, "")
    return f"version {output.printable(answer.version)} in slot {answer.slot}: {what}"


def _lines(answer: "upgrade_pb2.GetUpgradeStatusResponse") -> Iterator[str]:
    slot = f"slot {answer.slot}" if answer.slot else "no slot"
    health = f", {answer.health}" if answer.health else ""
    reason = f" ({answer.health_reason})" if answer.health_reason else ""
    yield f"version {output.printable(answer.version)}, {slot}{health}{output.printable(reason)}"
    for version in answer.versions:
        running = ", running" if version.running else ""
        yield f"  {output.printable(version.version):<24}{_state(version)}{running}"
    if answer.HasField("upgrade"):
        how = "under way" if answer.active else "was cut; the same call goes on with it"
        yield f"{_progress(answer.upgrade)}, {how}"


def _state(version: "upgrade_pb2.InstalledVersion") -> str:
    from aurae.node.v0 import upgrade_pb2

    word = upgrade_pb2.VersionState.Name(version.state).removeprefix("VERSION_STATE_").lower()
    return f"{word}, {version.tries_left} boots left" if word == "trying" else word


_REBOOT: Final = "start the node again"

COMMANDS: Final = (
    Command(
        words=("node", "upgrade", "to"),
        help="write another version to the slot that is not used",
        text="`aer node upgrade BUNDLE` is the same. Workloads run on. A connection that is lost, "
        "or a power cut, is gone on with by the same command. The version is started by the next "
        "boot; where it is not found healthy in three of them, the one before is back.",
        run=upgrade,
        rpc=f"{_SERVICE}.Upgrade",
        arguments=(
            Argument(
                name="what",
                help="a bundle, with its signature BUNDLE.sig beside it; or where the node fetches "
                "both, http or https",
                metavar="BUNDLE|URL",
                complete="file",
            ),
            Argument(
                name="--reboot",
                help=f"{_REBOOT} when it is there",
                fields=("begin.reboot",),
                switch=True,
            ),
        ),
        fixed={
            "begin.manifest": "is the bundle's",
            "begin.signature": "is that beside the bundle",
            "begin.url": "is BUNDLE|URL where that is a URL",
            "content": "is the bundle's",
        },
    ),
    Command(
        words=("node", "upgrade", "status"),
        help="show what the node runs, which versions it has, and what an upgrade is about",
        run=status,
        rpc=f"{_SERVICE}.GetUpgradeStatus",
    ),
    Command(
        words=("node", "upgrade", "cancel"),
        help="end the upgrade that is under way, and forget what was written",
        run=cancel,
        rpc=f"{_SERVICE}.CancelUpgrade",
    ),
    Command(
        words=("node", "upgrade", "rollback"),
        help="have the next boot start the other version",
        text="The version that runs now is taken out of use.",
        run=rollback,
        rpc=f"{_SERVICE}.Rollback",
        arguments=(
            Argument(name="--reboot", help=f"{_REBOOT} at once", fields=("reboot",), switch=True),
        ),
    ),
)
