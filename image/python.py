"""Python for the image: its standard library, the locked wheels, our packages, all compiled.

What is compiled is compiled by the image's own Python, run on the host through its own loader.
"""

import json
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from image.errors import BuildError

SERIES: Final = "3.13"
TAG: Final = f"cpython-{SERIES.replace('.', '')}"
STDLIB: Final = Path(f"usr/lib/python{SERIES}")
DIST_PACKAGES: Final = Path("usr/lib/python3/dist-packages")
LIBRARIES: Final = Path("usr/lib/x86_64-linux-gnu")
LOADER: Final = LIBRARIES / "ld-linux-x86-64.so.2"

# Packages of this project that are at work on a node; the others serve the host.
OURS: Final = ("initd", "runtime", "aer", "aurae")

# Of the standard library: tests, documentation, windows and editors, build-time programs, and
# codecs of languages that the node does not speak.
UNUSED: Final = re.compile(
    r"(test|idlelib|ensurepip|tkinter|turtledemo|lib2to3|pydoc_data|venv|_pyrepl|curses|dbm"
    r"|xmlrpc|wsgiref|__phello__|__pycache__|config-3.*|EXTERNALLY-MANAGED|LICENSE\.txt"
    r"|turtle|pydoc|doctest|antigravity|this|sitecustomize|__hello__|pyclbr|tabnanny|webbrowser"
    r"|_sysconfigdata__x86_64-linux-gnu|_aix_support|_android_support|_apple_support|_ios_support"
    r"|_osx_support|mailbox|imaplib|poplib|smtplib|ftplib|nntplib|pstats|profile|cProfile|wave"
    r"|rlcompleter|pdb|bdb|zipapp|trace|_pyio|_pydecimal|sqlite3)(\.py)?"
)
UNUSED_EXTENSION: Final = re.compile(
    r"(_test|xx|_xxtest|_ctypes_test|_curses|_dbm|_codecs_|_multibytecodec|_lsprof|readline|_sqlite3).*\.so"
)

# Of the wheels.
_UNUSED_IN_WHEELS: Final = re.compile(r"(tests?|__pycache__|bin|.*\.(pyi|pyx|pxd|pxi|h|c))")

# Wheels for these systems run on the image's C library; pip takes the newest that it finds. The
# last is an old name of 2.17: protobuf's wheel has no other, and the one for any system is pure
# Python, which makes the API many times slower.
_PLATFORMS: Final = (
    *(f"manylinux_2_{minor}_x86_64" for minor in (39, 38, 34, 31, 28, 27, 17, 12)),
    "manylinux2014_x86_64",
)


def loaded_by(root: Path, program: Path) -> list[str | Path]:
    """The command that starts a program of the tree on this host, whatever C library this has."""
    return [root / LOADER, "--library-path", root / LIBRARIES, program]


def run(root: Path, *arguments: str | Path, path: Iterable[Path] = ()) -> str:
    """Run it, and return what it prints."""
    environment = {
        "PYTHONHOME": str(root / "usr"),
        "PYTHONPATH": ":".join(map(str, path)),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONHASHSEED": "0",
    }
    interpreter = loaded_by(root, root / f"usr/bin/python{SERIES}")
    # -S: no site; -P: the working folder is no place to import from.
    command = [*interpreter, "-S", "-P", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise BuildError(f"Python of {root}: {(done.stderr or done.stdout).strip()}")
    return done.stdout


def copy_stdlib(base: Path, root: Path) -> None:
    def unused(folder: str, names: list[str]) -> set[str]:
        if Path(folder).name == "lib-dynload":
            return {name for name in names if UNUSED_EXTENSION.fullmatch(name)}
        # A module deep in a package may bear such a name and be in use.
        top = Path(folder) == base / STDLIB
        return {n for n in names if n == "__pycache__" or (top and UNUSED.fullmatch(n))}

    shutil.copytree(base / STDLIB, root / STDLIB, ignore=unused)


def install_wheels(requirements: Path, target: Path, report: Path) -> None:
    """Install what is locked for the image, and write to `report` which wheels that were: JSON, the
    file and SHA-256 of each by its name. Raises `BuildError` where a hash does not match."""
    pip: list[str | Path] = [sys.executable, "-m", "pip", "install", "--quiet", "--no-compile"]
    pip += ["--disable-pip-version-check", "--root-user-action=ignore", "--no-warn-conflicts"]
    pip += ["--only-binary", ":all:", "--no-deps", "--require-hashes", "-r", requirements]
    pip += ["--implementation", "cp", "--python-version", SERIES, "--target", target]
    pip += ["--report", report]
    for platform in _PLATFORMS:
        pip += ["--platform", platform]
    done = subprocess.run(pip, capture_output=True, text=True)
    if done.returncode:
        raise BuildError(f"pip: {done.stderr.strip()}")
    for path in sorted(target.rglob("*")):
        if path.exists() and _UNUSED_IN_WHEELS.fullmatch(path.name):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    keep_files_of(report)
    # How the wheel came here: needed by nobody, and not the same twice.
    for name in ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json"):
        for path in target.glob(f"*.dist-info/{name}"):
            path.unlink()


def keep_files_of(report: Path) -> None:
    """Of pip's report keep what is the same on every host."""
    kept = {}
    for item in json.loads(report.read_text())["install"]:
        download = item["download_info"]
        name = re.sub(r"[-_.]+", "-", item["metadata"]["name"]).lower()
        digest = download["archive_info"]["hashes"]["sha256"]
        kept[name] = (download["url"].rpartition("/")[2].partition("#")[0], digest)
    report.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n")


def install_wheel_of_ours(project: Path, target: Path) -> None:
    """Build the project's wheel and unpack from it what a node needs, replacing what was there."""
    with tempfile.TemporaryDirectory(prefix="aurae-wheel-") as name:
        build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", name]
        done = subprocess.run(build, cwd=project, capture_output=True, text=True)
        if done.returncode:
            raise BuildError(f"hatchling: {(done.stderr or done.stdout).strip()}")
        [wheel] = Path(name).glob("*.whl")
        for old in (*(target / package for package in OURS), *target.glob("auraed-*.dist-info")):
            shutil.rmtree(old, ignore_errors=True)
        with zipfile.ZipFile(wheel) as archive:
            for member in archive.namelist():
                top = member.partition("/")[0]
                if top in OURS or (top.endswith(".dist-info") and not member.endswith("/RECORD")):
                    archive.extract(member, target)


def sources_of_ours(project: Path) -> tuple[Path, ...]:
    """Where our packages lie in the working tree."""
    return tuple(project / ("proto/gen/aurae" if name == "aurae" else name) for name in OURS)


def compile_tree(root: Path, folders: Iterable[Path], *, prefix: Path) -> None:
    """Compile by the Python of `root`. `prefix` is what the files' paths lose on the node.

    The result is never compared with a source's time or content: a stale time costs ten seconds of
    boot.
    """
    _compile(root, *folders, "-s", prefix)


def compile_in_place(root: Path, folders: Iterable[Path], *, prefix: Path) -> None:
    """Put `x.pyc` in the place of every `x.py`: half the size, and fewer files to look for."""
    folders = list(folders)
    _compile(root, *folders, "-s", prefix, "-b")
    for source in (source for folder in folders for source in folder.rglob("*.py")):
        source.unlink()


def _compile(root: Path, *arguments: str | Path) -> None:
    options = ["-q", "-f", "-p", "/", "--invalidation-mode", "unchecked-hash"]
    run(root, "-m", "compileall", *options, *arguments)


def loaded_modules(
    root: Path, statement: str, path: Iterable[Path], *, frozen: bool = True
) -> dict[str, Path]:
    """Files of the modules that are loaded once `statement` has run, by module name.

    `frozen`: also of those that Python has in itself."""
    program = (
        f"{statement}\nimport sys\nfor name, module in sorted(sys.modules.items()):\n"
        "    spec = getattr(module, '__spec__', None)\n"
        "    file = getattr(module, '__file__', None)\n"
        f"    if file and spec and spec.name == name and ({frozen} or spec.origin != 'frozen'):\n"
        "        print(name, file)\n"
    )
    found = {}
    for line in run(root, "-c", program, path=path).splitlines():
        name, _, file = line.partition(" ")
        # A module that is frozen into Python says it comes from a source, even if that was removed.
        found[name] = Path(file) if Path(file).exists() else Path(file).with_suffix(".pyc")
    return found
