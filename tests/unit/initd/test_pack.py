"""Packs, written as the image is and read in an interpreter of its own."""

import marshal
import subprocess
import sys
from pathlib import Path

import pytest

import initd
from image import pack as writer
from initd import pack

SOURCES = {
    "one/__init__.py": "name = __name__",
    "one/two.py": "from one import name; here = __file__",
    "three.py": "raise RuntimeError('of three')",
}


def compiled(source: str, file: str) -> bytes:
    return marshal.dumps(compile(source, file, "exec"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    modules = {
        "one": "one/__init__.py",
        "one.two": "one/two.py",
        "three": "three.py",
    }
    contents = [(n, f"{tmp_path}/{f}", compiled(SOURCES[f], f)) for n, f in modules.items()]
    writer.write(tmp_path / pack.NAME, contents, build="abc")
    return tmp_path


def run(folder: Path, program: str) -> str:
    start = f"import sys; sys.path.append({str(Path(initd.__file__).parents[1])!r})\n"
    start += f"from initd import pack; pack.install({str(folder)!r})\n"
    line = [sys.executable, "-IS", "-c", start + program]
    done = subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)
    return done.stdout if done.returncode == 0 else done.stderr


def test_modules_and_packages_come_from_a_pack(folder: Path) -> None:
    told = run(folder, "import one.two as two; import one; print(two.name, two.here, one.__path__)")
    assert told.split() == ["one", f"{folder}/one/two.py", f"['{folder}/one']"]


def test_what_a_package_has_beside_its_pack_is_found(folder: Path) -> None:
    (folder / "one").mkdir()
    (folder / "one/late.py").write_text("value = 7")
    (folder / "one/data").write_text("some")
    program = "import one.late, pkgutil; print(one.late.value, pkgutil.get_data('one', 'data'))"
    assert run(folder, program).split() == ["7", "b'some'"]


def test_an_error_in_a_module_names_its_file(folder: Path) -> None:
    assert 'File "three.py", line 1' in run(folder, "import three")


def test_a_package_of_ours_has_a_pack_in_its_own_folder(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "aurae").mkdir()
    contents = [("aurae", f"{tmp_path}/aurae/__init__.py", compiled("x = 1", "x"))]
    writer.write(tmp_path / "aurae" / pack.NAME, contents)
    assert run(folder, "import aurae, one; print(aurae.x, one.name)").split() == ["1", "one"]


def test_without_packs_imports_are_as_ever_and_later_ones_replace(folder: Path) -> None:
    program = (
        "print(len([f for f in sys.meta_path if isinstance(f, pack.Packs)]))\n"
        f"pack.install({str(folder)!r})\n"
        "print(len([f for f in sys.meta_path if isinstance(f, pack.Packs)]))\n"
        "pack.install('/nowhere')\n"
        "print(len([f for f in sys.meta_path if isinstance(f, pack.Packs)]))\n"
        "import json"
    )
    assert run(folder, program).split() == ["1", "1", "0"]


@pytest.mark.parametrize("content", [b"", b"\7", b"\xff" * 99, bytes(99), b"\2" + bytes(7) + b"N)"])
def test_what_is_no_pack_is_as_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / pack.NAME).write_bytes(content)
    assert run(tmp_path, "import json; print(json.dumps(1))").split() == ["1"]


def test_a_build_has_a_name(folder: Path) -> None:
    assert pack.build(str(folder)) == "abc"
    assert pack.build("/nowhere") == ""
