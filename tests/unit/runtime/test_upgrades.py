"""Upgrades on a node that is made of files."""

import asyncio
import os
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from initd.boot import expected
from initd.boot.expected import Expected
from initd.errors import (
    AuraedError,
    FailedPrecondition,
    InvalidArgument,
    ResourceExhausted,
)
from runtime.upgrade import upgrades as module
from runtime.upgrade.model import Progress, Stage
from runtime.upgrade.node import Node, addresses
from runtime.upgrade.upgrades import Upgrades
from tests.unit.runtime import upgrade_node
from tests.unit.runtime.upgrade_node import ROOT_SIZE, Bundle, entries, tree_of, uki


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return upgrade_node.make(tmp_path)


async def send(
    upgrades: Upgrades, bundle: Bundle, *, upto: int | None = None, size: int = 100_000
) -> list[Progress]:
    """The whole bundle, or what ends before `upto` of its content."""
    told = []
    async with upgrades.begin(bundle.manifest, bundle.signature) as upgrade:
        told.append(upgrade.progress)
        content = bundle.content[:upto]
        for at in range(upgrade.progress.offset, len(content), size):
            piece = content[at : at + size]
            told.append(await upgrade.run(lambda piece=piece: upgrade.feed(piece)))  # type: ignore[misc]
        if upto is not None:
            raise ConnectionResetError
        told.append(await upgrade.run(upgrade.written))
        told.append(await upgrade.run(upgrade.finish))
    return told


def run(upgrades: Upgrades, bundle: Bundle, **options: Any) -> list[Progress]:
    return asyncio.run(send(upgrades, bundle, **options))


def slot(tmp_path: Path) -> tuple[bytes, bytes]:
    return (tmp_path / "dev/vda4").read_bytes(), (tmp_path / "dev/vda5").read_bytes()


def untouched(tmp_path: Path) -> bool:
    root, tree = slot(tmp_path)
    return not any(root) and not any(tree) and list(entries(tmp_path)) == ["aurae_1.0.efi"]


def test_a_new_version_is_in_the_other_slot_and_has_three_boots(tmp_path: Path, node: Node) -> None:
    bundle = Bundle()
    told = run(Upgrades(node), bundle)
    assert told[0] == Progress(Stage.WRITING, "2.0", 0, len(bundle.content), "b")
    assert [p.stage for p in told[-2:]] == [Stage.VERIFYING, Stage.DONE]
    assert told[-1].offset == len(bundle.content)
    root, tree = slot(tmp_path)
    assert root.startswith(bundle.root)
    assert tree.startswith(bundle.tree)
    assert list(entries(tmp_path)) == ["aurae_1.0.efi", "aurae_2.0+3.efi"]
    assert entries(tmp_path)["aurae_2.0+3.efi"] == bundle.uki
    assert not node.file.exists()
    said = expected.read(str(tmp_path / "dev/vda6"))
    assert said == Expected(bundle.root_hash, (), 8080, data=False)


def test_the_last_two_versions_are_kept(tmp_path: Path, node: Node) -> None:
    for version, left in (("0.8", None), ("0.9", 0), ("1.5", 2)):
        upgrade_node.add_entry(tmp_path, version, uki(tree_of(version.encode())[1]), left)
    run(Upgrades(node), Bundle())
    assert list(entries(tmp_path)) == ["aurae_2.0+3.efi", "aurae_1.0.efi"] or set(
        entries(tmp_path)
    ) == {"aurae_2.0+3.efi", "aurae_1.0.efi"}


def test_a_connection_that_is_lost_is_gone_on_with(
    tmp_path: Path, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STEP", 1)
    bundle = Bundle()
    with suppress(ConnectionResetError):
        run(Upgrades(node), bundle, upto=2_500_000)
    # As after a power cut: nothing but the disk is left.
    again = Upgrades(node)
    status = again.status()
    assert not status.active
    assert status.upgrade is not None
    assert status.upgrade.version == "2.0"
    told = run(again, bundle)
    assert told[0].offset == status.upgrade.offset > 1_000_000
    assert entries(tmp_path)["aurae_2.0+3.efi"] == bundle.uki


def test_a_caller_that_leaves_costs_no_piece_that_had_come(node: Node) -> None:
    bundle = Bundle()
    with suppress(ConnectionResetError):
        run(Upgrades(node), bundle, upto=2_500_000)
    # Random bytes take a little more room than they are, so two pieces were whole.
    assert 2 << 20 < run(Upgrades(node), bundle)[0].offset < 2_500_000


def test_what_was_damaged_meanwhile_is_found_and_begun_again(
    tmp_path: Path, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STEP", 1)
    bundle = Bundle()
    with suppress(ConnectionResetError):
        run(Upgrades(node), bundle, upto=2_500_000)
    with (tmp_path / "dev/vda4").open("r+b") as file:
        file.seek(5000)
        file.write(b"\xff\xfe")
    with pytest.raises(InvalidArgument, match="part root: is not what its manifest says"):
        run(Upgrades(node), bundle)
    assert list(entries(tmp_path)) == ["aurae_1.0.efi"]
    assert run(Upgrades(node), bundle)[0].offset == 0
    assert "aurae_2.0+3.efi" in entries(tmp_path)


def test_another_version_does_not_go_on_where_one_was_cut(node: Node) -> None:
    with suppress(ConnectionResetError):
        run(Upgrades(node), Bundle("2.0"), upto=2_500_000)
    assert run(Upgrades(node), Bundle("2.1", content=b"newer"))[0].offset == 0


def cut_at_every_write(
    tmp_path: Path,
    node: Node,
    bundle: Bundle,
    monkeypatch: pytest.MonkeyPatch,
    look: Callable[[], None],
) -> int:
    """The power goes before each write in turn; then the same upgrade is done again."""
    places = [tmp_path / "dev" / f"vda{n}" for n in (1, 4, 5)]
    before = {path: path.read_bytes() for path in places}
    pwrite = os.pwrite
    cuts = 0
    for writes in range(1000):
        for path, content in before.items():
            path.write_bytes(content)
        node.forget()
        count = 0

        def counted(fd: int, data: Any, offset: int, writes: int = writes) -> int:
            nonlocal count
            count += 1
            if count > writes:
                raise OSError(5, "the power is gone")
            return pwrite(fd, data, offset)

        with monkeypatch.context() as patch:
            patch.setattr(os, "pwrite", counted)
            try:
                run(Upgrades(node), bundle)
                return cuts
            except (OSError, AuraedError):
                cuts += 1
        look()
        run(Upgrades(node), bundle)
        assert entries(tmp_path)["aurae_2.0+3.efi"] == bundle.uki
    raise AssertionError("it has no end")


def test_a_power_cut_at_any_write_leaves_a_node_that_boots_and_can_be_upgraded(
    tmp_path: Path, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STEP", 1)
    bundle = Bundle()
    upgrade_node.add_entry(tmp_path, "0.9", uki(tree_of(b"older")[1]), None)

    def look() -> None:
        found = entries(tmp_path)
        assert found["aurae_1.0.efi"] == uki(tree_of(b"old")[1])
        assert found.get("aurae_2.0+3.efi", bundle.uki) == bundle.uki

    assert cut_at_every_write(tmp_path, node, bundle, monkeypatch, look) > 10


@pytest.mark.parametrize(
    ("bundle", "kind", "text"),
    [
        (Bundle("0.9"), FailedPrecondition, "is not newer than 1.0"),
        (Bundle("1.0"), FailedPrecondition, "is not newer than 1.0"),
        (Bundle(architecture="aarch64"), InvalidArgument, "is for aarch64"),
        (Bundle(root=bytes(ROOT_SIZE + 1)), ResourceExhausted, "larger slots"),
        (Bundle(image=bytes(6 << 20)), ResourceExhausted, "EFI system partition"),
    ],
    ids=["older", "same", "architecture", "root-too-large", "esp-too-small"],
)
def test_what_may_not_or_does_not_fit_is_refused_before_a_byte(
    tmp_path: Path, node: Node, bundle: Bundle, kind: type[AuraedError], text: str
) -> None:
    upgrades = Upgrades(node)
    with pytest.raises(kind, match=text):
        run(upgrades, bundle)
    assert untouched(tmp_path)
    assert upgrades.status().upgrade is None
    run(upgrades, Bundle())


def test_what_is_not_signed_by_a_key_of_the_node_is_refused(tmp_path: Path, node: Node) -> None:
    bundle = Bundle()
    bundle.signature = bytes(64)
    with pytest.raises(InvalidArgument, match="of none of this node's keys"):
        run(Upgrades(node), bundle)
    other = Bundle("3.0")
    other.signature = Bundle().signature
    with pytest.raises(InvalidArgument, match="of none of this node's keys"):
        run(Upgrades(node), other)
    (node.keys[0] / "test.pem").unlink()
    with pytest.raises(FailedPrecondition, match="UPGRADE_KEYS"):
        run(Upgrades(node), Bundle())
    assert untouched(tmp_path)


@pytest.mark.parametrize(
    ("bundle", "text"),
    [
        (Bundle(image=uki("0" * 64)), "another root"),
        (Bundle(image=b"no program at all" * 100), "no EFI program"),
        (Bundle(image=uki(tree_of(b"new")[1], machine=0xAA64)), "another architecture"),
        (Bundle(image=uki(tree_of(b"new")[1], version="2.1")), "says that it is version 2.1"),
        (Bundle(roothash="1" * 64), "not the hash tree"),
    ],
    ids=["other-root", "no-program", "machine", "version", "tree"],
)
def test_parts_that_do_not_belong_together_are_no_version(
    tmp_path: Path, node: Node, bundle: Bundle, text: str
) -> None:
    with pytest.raises(InvalidArgument, match=text):
        run(Upgrades(node), bundle)
    assert list(entries(tmp_path)) == ["aurae_1.0.efi"]
    assert not node.file.exists()


def test_a_bundle_that_is_cut_or_corrupt_is_named(tmp_path: Path, node: Node) -> None:
    short = Bundle()
    short.content = short.content[:-10]
    with pytest.raises(InvalidArgument, match="ends within part uki"):
        run(Upgrades(node), short)
    node.forget()
    corrupt = Bundle()
    data = bytearray(corrupt.content)
    data[500] ^= 1
    corrupt.content = bytes(data)
    with pytest.raises(InvalidArgument, match="part root: is corrupt"):
        run(Upgrades(node), corrupt)
    node.forget()
    longer = Bundle()
    longer.content += b"more"
    with pytest.raises(InvalidArgument, match="goes on after its last part"):
        run(Upgrades(node), longer)
    assert list(entries(tmp_path)) == ["aurae_1.0.efi"]


def test_there_is_one_upgrade_at_a_time_and_it_can_be_cancelled(tmp_path: Path, node: Node) -> None:
    upgrades = Upgrades(node)
    bundle = Bundle()

    async def work() -> None:
        began = asyncio.Event()

        async def first() -> None:
            async with upgrades.begin(bundle.manifest, bundle.signature):
                began.set()
                await asyncio.Event().wait()

        async with asyncio.TaskGroup() as tasks:
            task: asyncio.Task[None] = tasks.create_task(_refused(first(), "was cancelled"))
            await began.wait()
            assert upgrades.status().active
            await _refused(send(upgrades, bundle), "another one is under way")
            with pytest.raises(FailedPrecondition, match="under way"):
                upgrades.rollback()
            upgrades.cancel()
            await task
        assert upgrades.status().upgrade is None
        with pytest.raises(FailedPrecondition, match="none is under way"):
            upgrades.cancel()

    asyncio.run(work())
    run(upgrades, bundle)
    assert "aurae_2.0+3.efi" in entries(tmp_path)


async def _refused(work: Coroutine[Any, Any, object], text: str) -> None:
    with pytest.raises(FailedPrecondition, match=text):
        await work


def test_a_boot_that_is_not_found_healthy_yet_keeps_the_other_version(
    tmp_path: Path, node: Node
) -> None:
    node.health.write_text(
        '{"state": "waiting", "reason": "no address 10.0.2.15", "version": "1.0"}'
    )
    with pytest.raises(FailedPrecondition, match=r"no address 10\.0\.2\.15"):
        run(Upgrades(node), Bundle())
    with pytest.raises(FailedPrecondition, match="not found healthy"):
        Upgrades(node).rollback()
    assert untouched(tmp_path)


def test_a_node_that_was_not_booted_from_a_slot_has_no_other_one(node: Node) -> None:
    Path(node.booted).unlink()
    with pytest.raises(FailedPrecondition, match="not booted from a slot"):
        run(Upgrades(node), Bundle())
    with pytest.raises(FailedPrecondition, match="not booted from a slot"):
        Upgrades(node).rollback()
    status = Upgrades(node).status()
    assert (status.version, status.slot, status.versions) == ("1.0", "", ())


def test_a_rollback_makes_the_other_version_the_next(tmp_path: Path, node: Node) -> None:
    upgrades = Upgrades(node)
    with pytest.raises(FailedPrecondition, match="no other one"):
        upgrades.rollback()
    run(upgrades, Bundle())
    assert upgrades.rollback() == "2.0"
    assert list(entries(tmp_path)) == ["aurae_1.0+0-3.efi", "aurae_2.0+3.efi"] or set(
        entries(tmp_path)
    ) == {"aurae_1.0+0-3.efi", "aurae_2.0+3.efi"}
    # As if the new version had been started.
    node.health.write_text('{"state": "healthy", "reason": "", "version": "2.0"}')
    with pytest.raises(FailedPrecondition, match="no other one"):
        upgrades.rollback()


def test_no_rollback_leads_to_a_slot_that_has_something_else(tmp_path: Path, node: Node) -> None:
    run(Upgrades(node), Bundle())
    (tmp_path / "dev/vda5").write_bytes(bytes(1 << 16))
    with pytest.raises(FailedPrecondition, match="no other one"):
        Upgrades(node).rollback()


def test_addresses_are_those_by_which_others_reach_the_node(tmp_path: Path) -> None:
    (tmp_path / "fib_trie").write_text(
        "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 0.0.0.0\n        /0 universe UNICAST\n"
        "     +-- 10.0.2.0/24 2 0 2\n        |-- 10.0.2.15\n           /32 host LOCAL\n"
        "        |-- 10.0.2.255\n           /32 link BROADCAST\n"
        "     |-- 127.0.0.1\n        /32 host LOCAL\n"
        "Local:\n        |-- 10.0.2.15\n           /32 host LOCAL\n"
    )
    (tmp_path / "if_inet6").write_text(
        "fec0000000000000505400fffe123456 02 40 40 00 eth0\n"
        "20010db8000000000000000000000001 02 40 00 80 eth0\n"
        "00000000000000000000000000000001 01 80 10 80 lo\n"
    )
    assert addresses(str(tmp_path)) == ["10.0.2.15", "2001:db8::1"]


def test_what_may_be_read_as_a_state_file_is_one(node: Node) -> None:
    for text in ("", "{}", '{"manifest": "x", "slot": "b", "place": [0, 0, 0]}', "[1]"):
        node.file.write_text(text)
        assert node.written() is None
