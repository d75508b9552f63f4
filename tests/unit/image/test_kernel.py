from pathlib import Path

from image import kernel

DEP = """\
kernel/fs/erofs/erofs.ko.xz: kernel/lib/libcrc32c.ko.xz
kernel/lib/libcrc32c.ko.xz:
kernel/crypto/crc32c_generic.ko.xz:
kernel/net/sched/sch_fq.ko.xz:
kernel/net/sched/sch_sfq.ko.xz:
kernel/drivers/usb/storage/usb-storage.ko.xz: kernel/drivers/scsi/scsi_mod.ko.xz
kernel/drivers/scsi/scsi_mod.ko.xz:
"""
TABLE = kernel.dependencies(DEP)


def test_a_module_brings_what_it_needs() -> None:
    chosen = kernel.select(TABLE, ["erofs"])
    assert chosen == ["kernel/fs/erofs/erofs.ko.xz", "kernel/lib/libcrc32c.ko.xz"]


def test_dash_and_underscore_are_one_in_a_name() -> None:
    assert "kernel/drivers/usb/storage/usb-storage.ko.xz" in kernel.select(TABLE, ["usb_storage"])
    assert kernel.select(TABLE, ["crc32c-generic"]) == ["kernel/crypto/crc32c_generic.ko.xz"]


def test_a_star_takes_all_that_match_and_a_name_only_itself() -> None:
    assert len(kernel.select(TABLE, ["sch_*"])) == 2
    assert kernel.select(TABLE, ["sch_f"]) == []


def test_the_initramfs_loads_its_list_in_an_order_that_works(tmp_path: Path) -> None:
    (tmp_path / "modules.dep").write_text(DEP)
    kernel.write_load_lists(tmp_path)
    names = [kernel.name_of(line) for line in (tmp_path / "modules.root").read_text().splitlines()]
    assert names == ["crc32c_generic", "libcrc32c", "erofs"]


def test_every_module_that_is_loaded_first_is_in_the_initramfs_and_the_root() -> None:
    listed = {name for names in kernel.WITHOUT_LOOKING.values() for name in names}
    assert listed <= set(kernel.for_initramfs()) <= set(kernel.for_root())
    assert set(kernel.PLAIN) <= set(kernel.for_root())


def test_a_list_of_modules_is_words_between_comments() -> None:
    names = kernel.listed("root")
    assert {"ext4", "nft_*", "wireguard"} <= set(names)
    assert len(names) == len(set(names))
    assert not any("#" in name or len(name) < 2 for name in names)


def test_lists_that_only_libkmod_reads_are_dropped(tmp_path: Path) -> None:
    for name in ("modules.dep", "modules.dep.bin", "modules.alias", "modules.symbols"):
        (tmp_path / name).touch()
    kernel.keep_text_lists(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["modules.alias", "modules.dep"]
