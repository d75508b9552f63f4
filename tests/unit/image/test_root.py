import re
from pathlib import Path

from image import python, root


def test_the_root_has_no_second_init_and_no_package_manager() -> None:
    assert root.applets(["sh", "init", "dpkg", "halt", "ls"]) == ["ls", "sh"]


def test_links_lead_to_the_programs_they_stand_for() -> None:
    assert root.LINKS["sbin"] == root.LINKS["bin"] == "usr/bin"
    assert root.LINKS["etc/resolv.conf"] == "../run/aurae/resolv.conf"


def test_init_is_python_alone_without_environment_or_site() -> None:
    first = root.INIT.splitlines()[0]
    assert first == "#!/usr/bin/python3 -IS"


def test_no_account_has_a_password() -> None:
    for line in root.FILES["etc/passwd"].splitlines():
        assert re.fullmatch(r"[a-z-]+:x:\d+:\d+:[^:]*:/[^:]*:/[^:]*", line)
    assert "etc/shadow" not in root.FILES


def test_only_whole_names_are_pruned_from_the_standard_library() -> None:
    for name in ("test", "idlelib", "turtle.py", "config-3.13-x86_64-linux-gnu"):
        assert python.UNUSED.fullmatch(name)
    for name in ("testing.py", "traceback.py", "profiles", "asyncio", "this_one.py", "unittest"):
        assert not python.UNUSED.fullmatch(name)


def test_extensions_for_tests_and_databases_are_pruned_and_the_others_kept() -> None:
    for name in ("_testcapi", "_sqlite3"):
        assert python.UNUSED_EXTENSION.fullmatch(f"{name}.cpython-313-x86_64-linux-gnu.so")
    for name in ("_ctypes", "_ssl", "_zoneinfo", "_decimal", "_queue"):
        assert not python.UNUSED_EXTENSION.fullmatch(f"{name}.cpython-313-x86_64-linux-gnu.so")


def test_the_licence_of_each_package_that_gave_a_file_comes_along(tmp_path: Path) -> None:
    base, tree = tmp_path / "base", tmp_path / "root"
    for package, path in (("busybox", "usr/bin/busybox"), ("perl:amd64", "usr/bin/perl")):
        listed = base / f"var/lib/dpkg/info/{package}.list"
        listed.parent.mkdir(parents=True, exist_ok=True)
        listed.write_text(f"/.\n/usr\n/usr/bin\n/{path}\n")
        licence = base / "usr/share/doc" / package.partition(":")[0] / "copyright"
        licence.parent.mkdir(parents=True)
        licence.write_text(f"of {package}")
    (tree / "usr/bin").mkdir(parents=True)
    (tree / "usr/bin/busybox").write_text("")
    root.copy_copyrights(base, tree)
    found = [path.relative_to(tree) for path in tree.rglob("copyright")]
    assert found == [Path("usr/share/doc/busybox/copyright")]
