"""What is on a disk once an image was written to it, or was not."""

import hashlib
import random
import subprocess
import uuid
import zlib
from contextlib import suppress
from pathlib import Path

import pytest

from initd.errors import InvalidArgument
from runtime.install import gpt
from runtime.install.writer import Writer

from .disks import Old
from .images import ARM, MIB, image, sparse


def feed(writer: Writer, content: bytes, step: int = 700_001) -> None:
    """In pieces that fit nothing, zeros as numbers."""
    for at in range(0, len(content), step):
        piece = content[at : at + step]
        if any(piece):
            writer.data(piece)
        else:
            writer.zeros(len(piece))


def write(target: Old, content: bytes, **options: object) -> Writer:
    writer = Writer(target, **{"architecture": "x86-64", **options})  # type: ignore[arg-type]
    feed(writer, content)
    writer.complete()
    list(writer.verify())
    writer.seal()
    return writer


def bootable(content: bytearray) -> bool:
    """Whether firmware finds a partition table at either end."""
    ends = (content[512:520], content[4096:4104], content[-512:][:8], content[-4096:][:8])
    return b"EFI PART" in ends


@pytest.mark.parametrize("sector", gpt.SECTORS)
def test_a_disk_of_the_images_size_is_the_image(sector: int) -> None:
    content = image(sector=sector)
    disk = Old(len(content), sector=sector)
    writer = write(disk, content)
    assert disk.content == content
    assert disk.log[-1] == "done"
    assert writer.stored < 8 * MIB, "zeros are not written"


@pytest.mark.parametrize("sector", gpt.SECTORS)
def test_the_tables_of_a_larger_disk_lie_at_its_ends(tmp_path: Path, sector: int) -> None:
    content = image(sector=sector)
    disk = Old(40 * MIB, sector=sector)
    write(disk, content)
    table = gpt.parse(bytes(disk.content[: gpt.HEAD]))
    assert table.size == 40 * MIB
    gpt.check_second_copy(bytes(disk.content[-table.tail :]), table)
    inside = slice(table.head, len(content) - table.tail)
    assert disk.content[inside] == content[inside]


def test_others_find_the_table_too_at_either_end(tmp_path: Path) -> None:
    disk = Old(40 * MIB)
    write(disk, image())
    both = sparse(tmp_path / "both", bytes(disk.content))
    second = sparse(tmp_path / "second", bytes(MIB) + bytes(disk.content[MIB:]))
    for path in (both, second):
        line = ["/sbin/blkid", "-p", "-o", "value", "-s", "PTTYPE", str(path)]
        if path == second:
            # Without the protective MBR nobody looks.
            with path.open("r+b") as file:
                file.write(disk.content[:512])
        assert subprocess.run(line, capture_output=True, text=True).stdout == "gpt\n"


def test_nothing_old_shines_through() -> None:
    disk = Old(40 * MIB)
    content = image()
    write(disk, content)
    behind = disk.content[len(content) - 20_000 : len(content) + 15 * MIB]
    assert not any(behind), "where the data partition begins"
    assert not any(disk.content[-MIB : -34 * 512]), "where others have marks at the end"


def test_until_all_is_verified_there_is_no_table_at_either_end() -> None:
    content = image()
    disk = Old(40 * MIB)
    # As if an image was there before.
    before = Old(40 * MIB)
    write(before, content)
    disk.content[:] = before.content
    writer = Writer(disk, architecture="x86-64")
    for at in range(0, len(content), MIB):
        writer.data(content[at : at + MIB])
        assert not bootable(disk.content)
    writer.complete()
    for _ in writer.verify():
        assert not bootable(disk.content)
    writer.seal()
    assert bootable(disk.content)


def test_old_tables_go_before_anything_else_and_for_certain() -> None:
    disk = Old(40 * MIB)
    write(disk, image())
    assert disk.log[:4] == ["zero 0", f"zero {39 * MIB}", "sync", "discard"]


@pytest.mark.parametrize("at", [MIB + 5, 12 * MIB, 6 * MIB])
def test_a_disk_that_keeps_something_else_is_found_out(at: int) -> None:
    disk = Old(40 * MIB)
    writer = Writer(disk, architecture="x86-64")
    feed(writer, image())
    writer.complete()
    disk.content[at] ^= 1
    with pytest.raises(OSError, match="does not hold at byte"):
        list(writer.verify())
    assert not bootable(disk.content)


def test_a_disk_that_goes_away_is_an_error_of_its_own() -> None:
    with pytest.raises(OSError, match="/dev/old") as caught:
        write(Old(40 * MIB, dies_at=2 * MIB), image())
    assert caught.value.filename == "/dev/old"


@pytest.mark.parametrize("cut", [0, 1, 512, 600, 20_000, MIB - 1, 9 * MIB, 24 * MIB - 1])
def test_an_image_that_is_cut_off_is_refused_and_boots_nowhere(cut: int) -> None:
    disk = Old(40 * MIB)
    with pytest.raises(InvalidArgument, match=r"cut off|no partition table|damaged"):
        write(disk, image()[:cut])
    assert not bootable(disk.content)
    if cut < MIB:
        assert not disk.log, "it was known before anything was changed"


def test_an_image_that_is_too_long_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="too long"):
        write(Old(40 * MIB), image() + b"x")


def test_zeros_without_end_are_refused() -> None:
    writer = Writer(Old(40 * MIB), architecture="x86-64")
    writer.data(image()[:MIB])
    with pytest.raises(InvalidArgument, match="too long"):
        writer.zeros(1 << 62)
    with pytest.raises(InvalidArgument, match="no partition table"):
        Writer(Old(40 * MIB), architecture="x86-64").zeros(1 << 62)


@pytest.mark.parametrize(
    ("content", "kind", "why"),
    [
        (image(root=ARM), (40, 512), "is for arm64, the machine is x86-64"),
        (image(root=str(uuid.UUID(int=9))), (40, 512), "is for unknown"),
        (image(), (40, 4096), "sectors of 512 bytes, and this disk has 4096"),
        (image(sector=4096), (40, 512), "sectors of 4096 bytes, and this disk has 512"),
        (image(), (23, 512), "too small"),
        (image(labels=("EFI", "root")), (40, 512), "another system's"),
        (bytes(24 * MIB), (40, 512), "no partition table"),
        (b"\x28\xb5\x2f\xfd" * MIB, (40, 512), "no partition table"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_changed(
    content: bytes, kind: tuple[int, int], why: str
) -> None:
    disk = Old(kind[0] * MIB, sector=kind[1])
    with pytest.raises(InvalidArgument, match=why):
        write(disk, content)
    assert not disk.log


def test_a_size_that_is_not_what_the_table_says_is_refused_at_once() -> None:
    disk = Old(40 * MIB)
    with pytest.raises(InvalidArgument, match="cut off: it has 1000 bytes"):
        write(disk, image(), size=1000)
    assert not disk.log


def test_an_image_with_another_digest_is_not_made_bootable() -> None:
    content = image()
    write(Old(40 * MIB), content, sha256=hashlib.sha256(content).digest())
    disk = Old(40 * MIB)
    with pytest.raises(InvalidArgument, match="damaged: its SHA-256 is"):
        write(disk, content, sha256=bytes(32))
    assert not bootable(disk.content)


def test_every_damaged_byte_of_the_tables_is_refused() -> None:
    content = image()
    table = gpt.parse(content[: gpt.HEAD])
    for at in (*range(510, 604), *range(1024, 1280)):
        with pytest.raises(ValueError, match="partition table"):
            gpt.parse(damaged(content[: gpt.HEAD], at))
    tail = content[-table.tail :]
    gpt.check_second_copy(tail, table)
    for at in (*range(256), *range(len(tail) - 512, len(tail) - 420)):
        with pytest.raises(ValueError, match="partition table"):
            gpt.check_second_copy(damaged(tail, at), table)


def damaged(content: bytes, at: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 0x10]) + content[at + 1 :]


def test_any_bytes_for_a_table_are_refused_with_a_reason_and_nothing_else() -> None:
    chance = random.Random(3)
    content = image()[:4096].ljust(gpt.HEAD, b"\0")
    for _ in range(2000):
        head = bytearray(content)
        for _ in range(chance.randrange(1, 5)):
            head[chance.randrange(512, 604)] = chance.randrange(256)
        with suppress(ValueError):
            gpt.parse(bytes(head))
        # The same behind a checksum that is right.
        head[528:532] = bytes(4)
        head[528:532] = zlib.crc32(head[512:604]).to_bytes(4, "little")
        with suppress(ValueError):
            gpt.parse(bytes(head))
