"""Debian's packages are locked: which version, and which bytes."""

import hashlib
from pathlib import Path

import pytest

from image import lock, profile
from image.errors import BuildError
from image.lock import Package

PROJECT = Path(__file__).resolve().parents[3]
DIGEST = "ab" * 32


def test_the_lock_has_each_package_that_is_asked_for_by_name_and_no_host() -> None:
    packages = lock.read(PROJECT)
    asked = set(lock.wanted(PROJECT / "image/tools/mkosi.conf")) | {"mkosi"}
    for kind in profile.PROFILES.values():
        for path in profile.configurations(PROJECT, kind):
            asked.update(lock.wanted(path))
    assert asked <= packages.keys(), "make lock"
    assert "//" not in (PROJECT / lock.FILE).read_text()


def test_a_line_comes_back_as_it_was_written() -> None:
    package = Package("util-linux", "1:2.41.5-0+deb13u1", DIGEST)
    assert lock.parse(package.line()) == {"util-linux": package}


@pytest.mark.parametrize("line", ["name", "name=1", f"=1 sha256:{DIGEST}", "name=1 sha256:ab", " "])
def test_what_is_no_line_of_a_lock_is_named(line: str) -> None:
    good = Package("a", "1", DIGEST).line()
    with pytest.raises(BuildError, match="line 2 is not NAME=VERSION"):
        lock.parse(f"{good}\n{line}\n")


def test_apt_takes_a_locked_version_before_a_later_one() -> None:
    text = lock.preferences({"a": Package("a", "1:2-3", DIGEST)})
    assert text == "Package: a\nPin: version 1:2-3\nPin-Priority: 1001\n"


def test_another_version_and_a_package_that_is_not_locked_are_differences(tmp_path: Path) -> None:
    status = tmp_path / "var/lib/dpkg/status"
    status.parent.mkdir(parents=True)
    status.write_text(
        "Package: a\nStatus: install ok installed\nVersion: 1\nDescription: one\n Version: 9\n\n"
        "Package: b\nStatus: install ok installed\nVersion: 3\n\n"
        "Package: c\nStatus: install ok installed\nVersion: 1\n\n"
        "Package: gone\nStatus: deinstall ok config-files\nVersion: 1\n"
    )
    packages = {name: Package(name, version, DIGEST) for name, version in (("a", "1"), ("b", "2"))}
    found = lock.installed(tmp_path)
    assert found == {"a": "1", "b": "3", "c": "1"}
    assert lock.differences(packages, found) == ["b 3 (locked: 2)", "c 1 (locked: not)"]


def test_other_bytes_under_a_locked_version_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "a_1%3a2-3_amd64.deb"
    file.write_bytes(b"content")
    same = Package("a", "1:2-3", hashlib.sha256(b"content").hexdigest())
    lock.check_files({"a": same}, [file])
    lock.check_files({"a": Package("a", "1:2-4", DIGEST)}, [file])
    with pytest.raises(BuildError, match=r"is not what requirements/debian.txt has"):
        lock.check_files({"a": Package("a", "1:2-3", DIGEST)}, [file])


def test_the_packages_of_a_configuration_are_read_as_mkosi_reads_them(tmp_path: Path) -> None:
    configuration = tmp_path / "mkosi.conf"
    configuration.write_text("# x\n[Content]\nBootable=no\nPackages=\n        a\n        b-c\n")
    assert lock.wanted(configuration) == ["a", "b-c"]
