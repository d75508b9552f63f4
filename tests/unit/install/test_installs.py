"""InstallService over gRPC, with disks that are memory, and on a loop device."""

import asyncio
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from aurae.node.v0 import install_pb2 as pb
from aurae.node.v0 import install_pb2_grpc
from grpc import StatusCode, aio

from runtime.install.disks import Disks
from runtime.install.installs import Installs
from runtime.install.service import InstallService
from runtime.install.target import Target
from runtime.server import errors

from .disks import Old
from .images import ARM, MIB, image
from .test_disks import Sysfs

Call = Callable[..., list[pb.InstallResponse]]


class Translated(InstallService):
    """With errors as the API's border makes them."""

    async def Install(self, request: Any, context: Any) -> Any:  # noqa: N802
        try:
            async for message in super().Install(request, context):
                yield message
        except Exception as e:
            await context.abort(*errors.status(e))


def call(
    requests: list[pb.InstallRequest],
    disk: Target | None = None,
    disks: Disks | None = None,
) -> list[pb.InstallResponse]:
    """All answers to `requests`."""

    def ask(port: int) -> list[pb.InstallResponse]:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub = install_pb2_grpc.InstallServiceStub(channel)
            return list(stub.Install(iter(requests), timeout=60))

    async def run() -> list[pb.InstallResponse]:
        listed = disks or Disks()
        opened = {} if disk is None else {"open_disk": lambda _: disk}
        service = Translated(listed, Installs(listed, architecture="x86-64", **opened))
        server = aio.server()
        install_pb2_grpc.add_InstallServiceServicer_to_server(service, server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            return await asyncio.to_thread(ask, port)
        finally:
            await server.stop(None)

    return asyncio.run(run())


def begin(**fields: Any) -> list[pb.InstallRequest]:
    fields = {"disk": "/dev/old", **fields}
    return [pb.InstallRequest(begin=pb.InstallBegin(**fields))]


def parts(content: bytes) -> list[pb.InstallRequest]:
    pieces = (content[at : at + MIB] for at in range(0, len(content), MIB))
    return [
        pb.InstallRequest(data=piece) if any(piece) else pb.InstallRequest(zeros=len(piece))
        for piece in pieces
    ]


def refused(*arguments: Any, **named: Any) -> tuple[StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call(*arguments, **named)
    error: Any = caught.value
    return error.code(), error.details()


def test_an_image_is_written_and_its_end_is_told() -> None:
    content = image()
    disk = Old(24 * MIB)
    answers = call([*begin(size=len(content)), *parts(content)], disk)
    assert disk.content == content
    last = answers[-1]
    assert last == pb.InstallResponse(
        phase=pb.INSTALL_PHASE_DONE, done=len(content), total=len(content)
    )
    phases = [answer.phase for answer in answers]
    assert phases == sorted(phases)
    assert pb.INSTALL_PHASE_VERIFYING in phases


def test_zeros_may_come_as_one_number() -> None:
    content = image()
    disk = Old(24 * MIB)
    zeros = pb.InstallRequest(zeros=4 * MIB)
    call([*begin(), *parts(content[: 4 * MIB]), zeros, *parts(content[8 * MIB :])], disk)
    assert disk.content == content


@pytest.mark.parametrize(
    ("requests", "why"),
    [
        ([], "begin: must be the first"),
        (parts(image()[:MIB]), "begin: must be the first"),
        ([pb.InstallRequest()], "begin: must be the first"),
        (begin(disk="sda"), "is no path"),
        (begin(sha256=b"short"), "give 32"),
        (begin() * 2, "begin is the first only"),
        ([*begin(), pb.InstallRequest()], "neither data nor zeros"),
        (begin(), "no partition table"),
        ([*begin(), pb.InstallRequest(zeros=1 << 63)], "no partition table"),
        ([*begin(), *parts(image(root=ARM))], "is for arm64, the machine is x86-64"),
        ([*begin(), *parts(image(sector=4096))], "sectors of 4096"),
        ([*begin(size=5), *parts(image())], "cut off"),
    ],
)
def test_what_is_wrong_from_the_start_changes_nothing(
    requests: list[pb.InstallRequest], why: str
) -> None:
    disk = Old(24 * MIB)
    code, message = refused(requests, disk)
    assert code is StatusCode.INVALID_ARGUMENT
    assert why in message
    assert "boots nothing" not in message
    assert not disk.log


def test_a_disk_that_is_too_small_is_left_as_it_is() -> None:
    disk = Old(23 * MIB)
    code, message = refused([*begin(), *parts(image())], disk)
    assert code is StatusCode.INVALID_ARGUMENT
    assert "too small" in message
    assert not disk.log


def test_an_image_that_is_cut_off_later_says_that_the_disk_boots_nothing() -> None:
    disk = Old(24 * MIB)
    code, message = refused([*begin(), *parts(image()[: 9 * MIB])], disk)
    assert code is StatusCode.INVALID_ARGUMENT
    assert "cut off" in message
    assert message.endswith("/dev/old boots nothing now")
    assert b"EFI PART" not in disk.content


def test_a_disk_that_is_removed_is_named() -> None:
    disk = Old(24 * MIB, dies_at=2 * MIB)
    code, message = refused([*begin(), *parts(image())], disk)
    assert code is StatusCode.FAILED_PRECONDITION
    assert message.startswith("/dev/old: was removed, at ")
    assert "boots nothing now" in message


def test_a_caller_that_leaves_leaves_a_disk_that_boots_nothing_and_is_closed() -> None:
    closed = asyncio.Event()
    loop: Any = None

    class Watched(Old):
        def close(self) -> None:
            loop.call_soon_threadsafe(closed.set)

    disk = Watched(24 * MIB)
    content = parts(image())

    async def run() -> None:
        nonlocal loop
        loop = asyncio.get_running_loop()
        installs = Installs(Disks(), open_disk=lambda _: disk, architecture="x86-64")
        service = InstallService(Disks(), installs)
        begun = asyncio.Event()

        async def requests() -> Any:
            for one in (*begin(), *content[:6]):
                yield one
            begun.set()
            await asyncio.Event().wait()

        async def install() -> None:
            context: Any = None
            async for _ in service.Install(requests(), context):
                pass

        async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
            task = tasks.create_task(install())
            await begun.wait()
            task.cancel()
        await asyncio.wait_for(closed.wait(), 30)

    asyncio.run(run())
    assert disk.log
    assert b"EFI PART" not in disk.content


@pytest.fixture
def loop_device(tmp_path: Path) -> Iterator[Path]:
    backing = tmp_path / "backing"
    backing.write_bytes(b"\xa5" * (40 * MIB))
    made = subprocess.run(["losetup", "-f", "--show", backing], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"this host makes no loop devices: {made.stderr.strip()}")
    yield Path(made.stdout.strip())
    subprocess.run(["losetup", "-d", made.stdout.strip()], check=True)


def test_a_block_device_is_written_by_one_at_a_time(loop_device: Path, tmp_path: Path) -> None:
    sequence = Disks().sequence(str(loop_device))
    assert sequence
    content = image()
    whole = [*begin(disk=str(loop_device), sequence=sequence), *parts(content)]
    assert call(whole)[-1].phase == pb.INSTALL_PHASE_DONE
    assert (tmp_path / "backing").read_bytes()[MIB : 20 * MIB] == content[MIB : 20 * MIB]
    alone = os.open(loop_device, os.O_RDONLY | os.O_EXCL)
    code, message = refused(whole)
    os.close(alone)
    assert code is StatusCode.FAILED_PRECONDITION
    assert "in use" in message


def test_another_disk_by_the_name_is_refused(loop_device: Path) -> None:
    asked = begin(disk=str(loop_device), sequence=1 << 40)
    code, message = refused([*asked, *parts(image())])
    assert code is StatusCode.FAILED_PRECONDITION
    assert "another disk" in message


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/dev/none", StatusCode.NOT_FOUND),
        ("/dev/null", StatusCode.INVALID_ARGUMENT),
        ("/etc", StatusCode.INVALID_ARGUMENT),
    ],
)
def test_only_disks_are_written_to(path: str, code: StatusCode) -> None:
    assert refused(begin(disk=path))[0] is code


def test_the_list_has_what_sysfs_has(tmp_path: Path) -> None:
    sysfs = Sysfs(tmp_path)
    sysfs.add("vda", dev="254:0", diskseq="3", queue__logical_block_size="4096", serial="S")
    service = InstallService(sysfs.disks, Installs(sysfs.disks))
    context: Any = None
    answer = asyncio.run(service.ListDisks(pb.ListDisksRequest(), context))
    assert list(answer.disks) == [
        pb.Disk(path="/dev/vda", sequence=3, size=MIB, sector_size=4096, serial="S")
    ]
