"""Firmware: what a module names, by the name that it asks for."""

from pathlib import Path

from image import firmware


def test_only_what_is_named_is_copied_and_links_become_files(tmp_path: Path) -> None:
    base, root = tmp_path / "base", tmp_path / "root"
    for name in ("rtl_nic/rtl8168d-1.fw", "tigon/tg3.bin", "amdgpu/huge.bin", "ddp/ice-1.3.pkg"):
        path = base / firmware.FOLDER / name
        path.parent.mkdir(parents=True)
        path.write_text(name)
    (base / firmware.FOLDER / "ddp/ice.pkg").symlink_to("ice-1.3.pkg")
    firmware.copy(base, root, ["rtl_nic/rtl8168*.fw", "tigon/tg3.bin", "ddp/ice.pkg", "not/there"])
    copied = sorted(p.relative_to(root / firmware.FOLDER) for p in root.rglob("*") if p.is_file())
    assert [str(path) for path in copied] == [
        "ddp/ice.pkg",
        "rtl_nic/rtl8168d-1.fw",
        "tigon/tg3.bin",
    ]
    ice = root / firmware.FOLDER / "ddp/ice.pkg"
    assert not ice.is_symlink()
    assert ice.read_text() == "ddp/ice-1.3.pkg"
