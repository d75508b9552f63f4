import _ctypes
import ctypes
import shutil
from pathlib import Path

import pytest

from image import elf

EXTENSION = Path(_ctypes.__file__)


def test_what_an_extension_needs_is_read_from_it() -> None:
    assert any(name.startswith("libc.so") for name in elf.needed(EXTENSION))


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("#!/bin/sh\n")
    assert not elf.is_elf(text)
    with pytest.raises(ValueError, match="text: not an ELF file"):
        elf.needed(text)


def test_a_library_that_is_nowhere_is_named_with_its_user(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=rf"{EXTENSION.name}: needs lib"):
        elf.closure([EXTENSION], tmp_path)


def test_a_library_that_is_bundled_need_not_lie_with_the_others(tmp_path: Path) -> None:
    assert elf.closure([EXTENSION], tmp_path, bundled=elf.needed(EXTENSION)) == set()


def test_the_libraries_of_libraries_are_found(tmp_path: Path) -> None:
    for name in elf.needed(EXTENSION):
        shutil.copy(EXTENSION, tmp_path / name)
    assert elf.closure([EXTENSION], tmp_path) == {tmp_path / n for n in elf.needed(EXTENSION)}


def test_a_stripped_library_is_smaller_and_still_loads(tmp_path: Path) -> None:
    stripped = tmp_path / EXTENSION.name
    shutil.copy(EXTENSION, stripped)
    elf.strip(stripped)
    assert stripped.stat().st_size < EXTENSION.stat().st_size
    assert elf.needed(stripped) == elf.needed(EXTENSION)
    assert hasattr(ctypes.PyDLL(str(stripped)), "PyInit__ctypes")
