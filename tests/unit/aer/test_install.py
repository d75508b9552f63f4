"""`aer node disks` and `aer node install` against a node that answers as it is told."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from aurae.node.v0 import install_pb2 as pb

from aer import progress
from tests.unit.install.images import MIB, image, sparse

from .conftest import Node, Result

Aer = Callable[..., Result]

DISKS = pb.ListDisksResponse(
    disks=[
        pb.Disk(
            path="/dev/sda",
            sequence=4,
            size=40 * MIB,
            sector_size=512,
            model="Disk of old",
            content="gpt",
            used_by=["mounted on /var"],
            partitions=[
                pb.DiskPartition(
                    path="/dev/sda1",
                    label="data",
                    size=20 * MIB,
                    content="ext4",
                    used_by=["mounted on /var"],
                )
            ],
        ),
        pb.Disk(path="/dev/sdb", sequence=5, size=40 * MIB, sector_size=512, removable=True),
        pb.Disk(path="/dev/sdc", sequence=6, size=40 * MIB, sector_size=4096),
        pb.Disk(path="/dev/sdd", sequence=7, size=20 * MIB, sector_size=512),
    ]
)


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return sparse(tmp_path / "aurae.img", image())


@pytest.fixture(autouse=True)
def received(node: Node, monkeypatch: pytest.MonkeyPatch) -> list[pb.InstallRequest]:
    """What Install is sent."""
    monkeypatch.setattr(progress, "TERMINAL", "/dev/does-not-exist")
    taken: list[pb.InstallRequest] = []

    def install(requests: Any, _: grpc.ServicerContext) -> Iterator[pb.InstallResponse]:
        taken.extend(requests)
        yield pb.InstallResponse(phase=pb.INSTALL_PHASE_WRITING, done=1, total=2)
        yield pb.InstallResponse(phase=pb.INSTALL_PHASE_DONE, done=2, total=2)

    node.answers["ListDisks"] = lambda *_: DISKS
    node.answers["Install"] = install
    return taken


def test_disks_are_a_table(aer: Aer) -> None:
    done = aer("node", "disks")
    assert (done.status, done.err) == (0, "")
    assert done.out.splitlines()[:4] == [
        "DISK             SIZE  SECTOR  CONTENT  NAME         USED BY",
        "/dev/sda     40.0 MiB     512  gpt      Disk of old  -",
        "  /dev/sda1  20.0 MiB          ext4     data         mounted on /var",
        "/dev/sdb     40.0 MiB     512  -        removable    -",
    ]


def test_the_image_is_sent_as_it_is(aer: Aer, raw: Path, received: list[pb.InstallRequest]) -> None:
    done = aer("node", "install", "--disk", "/dev/sdb", "--image", str(raw), "--yes")
    assert done.status == 0, done.err
    assert "/dev/sdb: boots" in done.out
    first, *rest = received
    assert first.begin == pb.InstallBegin(disk="/dev/sdb", sequence=5, size=len(image()))
    whole = b"".join(part.data or bytes(part.zeros) for part in rest)
    assert whole == image()
    assert max(part.ByteSize() for part in rest) < 2 * MIB
    assert sum(part.ByteSize() for part in rest) < 9 * MIB, "zeros are told, not sent"


@pytest.mark.parametrize(
    ("disk", "why"),
    [
        ("/dev/sda", "is in use: mounted on /var"),
        ("/dev/sdc", "sectors of 512 bytes, and this disk has 4096"),
        ("/dev/sdd", "too small"),
        ("/dev/sdx", "there is /dev/sda, /dev/sdb, /dev/sdc, /dev/sdd"),
    ],
)
def test_what_cannot_be_is_refused_without_a_question(
    aer: Aer, raw: Path, received: list[pb.InstallRequest], disk: str, why: str
) -> None:
    done = aer("node", "install", "--disk", disk, "--image", str(raw), "--yes")
    assert (done.status, done.out) == (1, "")
    assert why in done.err
    assert not received


def test_without_a_terminal_and_yes_nothing_is_sent(
    aer: Aer, raw: Path, received: list[pb.InstallRequest]
) -> None:
    done = aer("node", "install", "--disk", "/dev/sdb", "--image", str(raw))
    assert (done.status, done.out) == (1, "")
    assert "/dev/sdb" in done.err
    assert "nobody is here to be asked" in done.err
    assert not received


def test_an_image_that_cannot_be_read_any_more_is_what_is_said(
    aer: Aer, raw: Path, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    from aer.images import Source

    def parts(_: Source) -> Any:
        raise OSError(5, "Input/output error", str(raw))

    monkeypatch.setattr(Source, "rehearse", lambda *_, **__: pb.InstallBegin(size=1))
    monkeypatch.setattr(Source, "parts", parts)

    def install(requests: Any, context: grpc.ServicerContext) -> Iterator[pb.InstallResponse]:
        list(requests)
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, "image: is cut off")
        yield pb.InstallResponse()

    node.answers["Install"] = install
    done = aer("node", "install", "--disk", "/dev/sdb", "--image", str(raw), "--yes")
    assert done.status == 1
    assert f"{raw}: Input/output error" in done.err


def test_a_node_that_ends_too_early_is_an_error(aer: Aer, raw: Path, node: Node) -> None:
    node.answers["Install"] = lambda requests, _: iter(())
    done = aer("node", "install", "--disk", "/dev/sdb", "--image", str(raw), "--yes")
    assert done.status == 1
    assert "before it was done" in done.err
