"""`aer node disks` and `aer node install`: the commands of InstallService."""

import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final

from aer import output
from aer.command import Argument, Call, Command
from aer.errors import AerError
from aer.image import IMAGE, SHA256, YES

if TYPE_CHECKING:
    from aurae.node.v0 import install_pb2

    from aer.images import Source

_SERVICE: Final = "aurae.node.v0.InstallService"
_HEADERS: Final = ("DISK", "SIZE", "SECTOR", "CONTENT", "NAME", "USED BY")


def disks(call: Call) -> int:
    from aurae.node.v0 import install_pb2, install_pb2_grpc

    from aer.session import session

    with session(call) as node:
        stub = install_pb2_grpc.InstallServiceStub(node.channel)
        answer = node.unary(stub.ListDisks, install_pb2.ListDisksRequest())
        output.show(node.config.output, answer, lambda: _table(answer.disks))
    return 0


def install(call: Call) -> int:
    from aurae.node.v0 import install_pb2, install_pb2_grpc

    from aer.images import Source
    from aer.progress import confirm
    from aer.session import session

    source = Source(call["image"])
    with session(call) as node:
        stub = install_pb2_grpc.InstallServiceStub(node.channel)
        answer = node.unary(stub.ListDisks, install_pb2.ListDisksRequest())
        disk = _named(answer.disks, call["disk"])
        begin = install_pb2.InstallBegin(
            disk=disk.path, sequence=disk.sequence, sha256=call["sha256"] or b""
        )
        if source.again:
            begin.size = source.rehearse(
                size=disk.size,
                sector=disk.sector_size,
                # The node knows its own.
                architecture="",
                sha256=begin.sha256,
            ).size
        for line in _table([disk]):
            print(line, file=sys.stderr)
        question = f"All that is on {disk.path} of {node.config.socket} will be lost."
        confirm(f"{question} Install {source.name} on it?", yes=call["yes"])
        sent = _Sent(source, begin)
        last = _follow(node.unbounded(stub.Install, sent.requests()), sent)
        said = f"{disk.path}: boots {source.name} from now on; aer node reboot starts it"
        output.show(node.config.output, last, lambda: [said])
    return 0


class _Sent:
    """What goes to the node, made by a thread of gRPC's. `trouble` is what went wrong in it."""

    def __init__(self, source: "Source", begin: "install_pb2.InstallBegin") -> None:
        self._source = source
        self._begin = begin
        self.trouble: Exception | None = None

    def requests(self) -> "Iterator[install_pb2.InstallRequest]":
        from aurae.node.v0 import install_pb2

        yield install_pb2.InstallRequest(begin=self._begin)
        try:
            with self._source.parts() as parts:
                for part in parts:
                    if isinstance(part, int):
                        yield install_pb2.InstallRequest(zeros=part)
                    else:
                        yield install_pb2.InstallRequest(data=part)
        except (OSError, AerError) as e:
            # The node takes the image for cut off now, and says so.
            self.trouble = e


def _follow(answers: Any, sent: _Sent) -> "install_pb2.InstallResponse":
    """The last answer. What is wrong with the image here goes before what the node says of it."""
    import grpc
    from aurae.node.v0 import install_pb2

    from aer.progress import Progress

    progress = Progress()
    last = install_pb2.InstallResponse()
    try:
        for last in answers:
            phase = install_pb2.InstallPhase.Name(last.phase)
            progress.show(phase.removeprefix("INSTALL_PHASE_").lower(), last.done, last.total)
    except grpc.RpcError as e:
        if sent.trouble is not None:
            raise sent.trouble from e
        raise
    finally:
        progress.clear()
    if last.phase != install_pb2.INSTALL_PHASE_DONE:
        raise AerError("the node ended the installation before it was done", "begin it anew")
    return last


def _named(found: "Iterable[install_pb2.Disk]", path: str) -> "install_pb2.Disk":
    """The disk that is meant, if it may be written to. Raises AerError."""
    disks = {disk.path: disk for disk in found}
    if path not in disks:
        there = f"there is {', '.join(disks)}" if disks else "there is none at all"
        raise AerError(f"{path}: the node has no such disk; {there}", "aer node disks tells more")
    disk = disks[path]
    if disk.used_by:
        raise AerError(f"{path}: is in use: {', '.join(disk.used_by)}", "take another disk")
    if disk.read_only:
        raise AerError(f"{path}: is read-only")
    return disk


def _table(found: "Iterable[install_pb2.Disk]") -> Iterable[str]:
    """Disks, and their partitions below them."""
    rows = []
    for disk in found:
        removable = "removable" if disk.removable else ""
        read_only = "read-only" if disk.read_only else ""
        about = (disk.model, disk.serial, removable, read_only)
        name = ", ".join(filter(None, about)) or "-"
        used = "" if disk.partitions else ", ".join(disk.used_by)
        rows.append(_row(disk, str(disk.sector_size), name, used))
        for part in disk.partitions:
            used = ", ".join(part.used_by)
            rows.append(_row(part, "", part.label or "-", used, indent="  "))
    return output.table(_HEADERS, rows, right="SIZE SECTOR")


def _row(one: Any, sector: str, name: str, used: str, indent: str = "") -> tuple[str, ...]:
    from aer.hostdisk import size

    return (f"{indent}{one.path}", size(one.size), sector, one.content or "-", name, used or "-")


COMMANDS: Final = (
    Command(
        words=("node", "disks"),
        help="show a node's disks, what is on them, and what uses them",
        run=disks,
        rpc=f"{_SERVICE}.ListDisks",
    ),
    Command(
        words=("node", "install"),
        help="write an image to a disk of a node, which boots from it then",
        text="For a node that was booted over the network or from something that is taken away. "
        "Shows what is on the disk, and asks. Refused is a disk that is in use or too small, and "
        "an image that is damaged, cut off, or for another machine. What was written is read back "
        "and compared; the partition table comes last, so a disk that was left in the middle "
        "boots nothing. All that was on the disk before is lost. The node goes on as it is until "
        "it is started again.",
        run=install,
        rpc=f"{_SERVICE}.Install",
        arguments=(
            Argument(
                name="--disk",
                help="the node's disk, such as /dev/sda",
                metavar="PATH",
                fields=("begin.disk",),
                required=True,
            ),
            Argument(
                name="--image",
                help=f"{IMAGE}, which is sent to the node; - is stdin",
                metavar="FILE",
                required=True,
                complete="file",
            ),
            SHA256,
            YES,
        ),
        fixed={
            "begin.sequence": "is that of the disk that was shown",
            "begin.size": "is found out from the file",
            "begin.sha256": "is what --sha256 says",
            "data": "is what the file has",
            "zeros": "is what the file has",
        },
    ),
)
