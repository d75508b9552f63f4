"""`aer image`: images on this host."""

import platform
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from aer import parse
from aer.command import Argument, Call, Command
from aer.errors import AerError, UsageError

if TYPE_CHECKING:
    from aer.images import Source
    from runtime.install.image import Image
    from runtime.install.target import Target

_ARCHITECTURES: Final = ("x86-64", "arm64", "riscv64", "x86", "arm")


def sign(call: Call) -> int:
    from aer.bundle import Bundle

    bundle = Bundle.read(Path(call["bundle"]))
    bundle.sign(Path(call["key"]))
    print(f"{bundle.signature}: version {bundle.manifest.version}, signed")
    return 0


def write(call: Call) -> int:
    from aer.images import Source

    if (call["device"] is None) == (call["file"] is None):
        raise UsageError("where to?", "give --device or --file")
    if call["size"] is not None and call["file"] is None:
        raise UsageError("--size: a disk has its own", "it goes with --file")
    source = Source(call["image"])
    done = _to_device(call, source) if call["device"] else _to_file(call, source)
    if call["output"] == "json":
        import json

        print(json.dumps(done, indent=2, ensure_ascii=False))
    else:
        from aer.hostdisk import size

        rate = size(int(done["image_size"] / max(done["seconds"], 0.001)))
        print(
            f"{done['target']}: has {done['image']} ({done['architecture']}, "
            f"{size(done['image_size'])}) in {done['seconds']:.1f} s ({rate}/s), read back and "
            "compared"
        )
    return 0


def _to_device(call: Call, source: "Source") -> dict[str, Any]:
    from aer import hostdisk, images
    from aer.progress import confirm
    from runtime.install.target import Disk

    device = str(call["device"])
    with ExitStack() as opened:
        try:
            with images.refusals(source.name):
                disk = opened.enter_context(closing(Disk(device)))
        except AerError as e:
            raise _in_use(device, e) from e
        except PermissionError as e:
            raise AerError(f"{device}: permission denied", "only root may write to disks") from e
        found = _rehearsed(call, source, disk)
        for line in hostdisk.look(disk.path).lines():
            print(line, file=sys.stderr)
        what = f"{source.name} ({found.architecture})" if found else source.name
        confirm(f"All that is on {device} will be lost. Write {what} to it?", yes=call["yes"])
        return _copy(call, source, disk)


def _in_use(device: str, error: AerError) -> AerError:
    """What uses it is said as well."""
    from aer import hostdisk

    if "is in use" not in str(error):
        return error
    uses = ", ".join(hostdisk.look(device).uses)
    return AerError(f"{device}: is in use: {uses}" if uses else str(error), error.hint)


def _to_file(call: Call, source: "Source") -> dict[str, Any]:
    """The file is there afterwards as a whole, or not at all."""
    from runtime.install.target import NewFile

    if not source.again:
        raise UsageError("--file: the image must be a file too", "unpack it by zstd instead")
    first = _first(source)
    path: Path = call["file"]
    size = call["size"] or first.size
    if size % first.table.sector:
        raise UsageError(
            f"--size: {size} is no multiple of {first.table.sector}, the sector's size"
        )
    target = NewFile(str(path), size, first.table.sector)
    with closing(target):
        try:
            _rehearsed(call, source, target)
            return _copy(call, source, target)
        except BaseException:
            path.unlink()
            raise


def _first(source: "Source") -> "Image":
    """The image by its beginning."""
    from aer import images
    from runtime.install import gpt, image

    head = b""
    with source.parts() as parts, images.refusals(source.name):
        for part in parts:
            head += bytes(min(part, gpt.HEAD)) if isinstance(part, int) else part
            if len(head) >= gpt.HEAD:
                break
        return image.examine(head[: gpt.HEAD])


def _rehearsed(call: Call, source: "Source", target: "Target") -> "Image | None":
    if not source.again:
        return None
    return source.rehearse(
        size=target.size,
        sector=target.sector,
        architecture=_architecture(call),
        sha256=call["sha256"] or b"",
    )


def _copy(call: Call, source: "Source", target: "Target") -> dict[str, Any]:
    from aer import images
    from aer.progress import Progress
    from runtime.install.writer import Writer

    began = time.monotonic()
    progress = Progress()
    writer = Writer(target, architecture=_architecture(call), sha256=call["sha256"] or b"")
    with _explained(source, writer, target, progress):
        with source.parts() as parts:
            for part in parts:
                images.feed(writer, part)
                if writer.image is not None:
                    progress.show("writing", writer.position, writer.image.size)
            writer.complete()
        assert writer.image is not None
        for done in writer.verify():
            progress.show("reading back", done, writer.image.size)
        writer.seal()
    return {
        "target": target.path,
        "target_size": target.size,
        "image": source.name,
        "image_size": writer.image.size,
        "stored": writer.stored,
        "architecture": writer.image.architecture,
        "verified": True,
        "seconds": round(time.monotonic() - began, 3),
    }


@contextmanager
def _explained(source: "Source", writer: Any, target: "Target", progress: Any) -> Iterator[None]:
    """What fails says what the disk is good for now. Raises AerError."""
    from aer import images
    from runtime.install import target as targets

    try:
        with images.refusals(source.name):
            yield
    except AerError as e:
        if not writer.touched:
            raise
        raise AerError(f"{e}; {target.path} boots nothing now", e.hint) from e
    except OSError as e:
        if e.filename != target.path:
            raise
        why = "was removed" if targets.is_gone(target.path) else e.strerror or str(e)
        at = f"at {writer.position >> 20} MiB of the image"
        now = "; it boots nothing now" if writer.touched else ""
        raise AerError(
            f"{target.path}: {why}, {at}{now}", "is it still there, and in order? write it again"
        ) from e
    finally:
        progress.clear()


def _architecture(call: Call) -> str:
    from runtime.install.image import architecture_of

    given: str | None = call["architecture"]
    return given or architecture_of(platform.machine())


def sha256(text: str) -> bytes:
    """Raises ValueError."""
    try:
        digest = bytes.fromhex(text)
    except ValueError:
        digest = b""
    if len(digest) != 32:
        raise ValueError(f"{text!r} is no SHA-256; that has 64 hexadecimal digits")
    return digest


IMAGE: Final = "an aurae.img, also as aurae.img.zst"
SHA256: Final = Argument(
    name="--sha256",
    help="what the image must have, unpacked, as it was published beside it",
    metavar="HEX",
    parse=sha256,
)
YES: Final = Argument(
    name="--yes",
    help="do not ask; without a terminal to ask at, nothing is done unless this is given",
    switch=True,
)

COMMANDS: Final = (
    Command(
        words=("image", "write"),
        help="write an image to a disk of this host",
        text="Shows what is on the disk, and asks. Refused is a disk that is in use or too small, "
        "and an image that is damaged, cut off, or for another machine. What was written is read "
        "back and compared; the partition table comes last, so a disk that was left in the "
        "middle boots nothing. All that was on the disk before is lost.",
        run=write,
        arguments=(
            Argument(
                name="image",
                help=f"{IMAGE}; - is stdin",
                metavar="IMAGE",
                complete="file",
            ),
            Argument(
                name="--device",
                help="the disk, such as /dev/sdb",
                metavar="PATH",
                parse=parse.path,
                complete="file",
            ),
            Argument(
                name="--file",
                help="make this file instead, for a machine that has it as its disk",
                metavar="PATH",
                parse=parse.path,
                complete="file",
            ),
            Argument(
                name="--size",
                help="how large that file is to be, such as 20G; default: as the image",
                metavar="SIZE",
                parse=parse.size,
            ),
            Argument(
                name="--architecture",
                help="what the machine is that will boot from it; default: as this host",
                choices=_ARCHITECTURES,
                metavar="NAME",
            ),
            SHA256,
            YES,
            Argument(
                name="--output",
                help="table for people, json for programs",
                choices=("table", "json"),
                metavar="FORMAT",
                short="-o",
                default="table",
            ),
        ),
    ),
    Command(
        words=("image", "sign"),
        help="sign a bundle, for nodes to be upgraded with",
        text="Writes BUNDLE.sig. A node believes the keys that its image was built with "
        "(UPGRADE_KEYS, a folder of public keys); `openssl genpkey -algorithm ed25519` makes one, "
        "and `openssl pkey -pubout` its public key.",
        run=sign,
        arguments=(
            Argument(
                name="bundle",
                help="the aurae_VERSION.bundle that make image has left",
                metavar="BUNDLE",
                parse=parse.path,
                complete="file",
            ),
            Argument(
                name="--key",
                help="an Ed25519 key, PEM",
                metavar="FILE",
                parse=parse.path,
                required=True,
                complete="file",
            ),
        ),
    ),
)
