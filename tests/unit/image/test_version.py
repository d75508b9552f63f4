"""The version of what is built."""

import itertools
import os
import re
import subprocess
from pathlib import Path

import pytest

from image import version
from image.errors import BuildError
from image.version import Commit

NAME = "0123456789abcdef0123456789abcdef01234567"


def git(folder: Path, *arguments: str, date: str = "2026-01-31T23:59:59+00:00") -> str:
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("GIT_")},
        **{f"GIT_{who}_{what}": "t@e" for who in ("AUTHOR", "COMMITTER") for what in ("EMAIL",)},
        **{f"GIT_{who}_NAME": "t" for who in ("AUTHOR", "COMMITTER")},
        **{f"GIT_{who}_DATE": date for who in ("AUTHOR", "COMMITTER")},
        "GIT_CONFIG_GLOBAL": "/dev/null",
    }
    done = subprocess.run(
        ["git", "-C", folder, *arguments],
        check=True,
        capture_output=True,
        text=True,
        env=environment,
    )
    return done.stdout.strip()


def project(folder: Path, release: str = "0.2.0") -> Path:
    (folder / "initd").mkdir(parents=True)
    (folder / "initd/version.py").write_text(f'VERSION: Final = "{release}"\n')
    return folder


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = project(tmp_path / "tree")
    git(folder, "init", "--quiet")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "--message", "one")
    return folder


def precedes(older: str, newer: str) -> bool:
    """The order of the UAPI version format, for the characters that a version of ours has."""

    def words(text: str) -> list[str]:
        return re.findall(r"[0-9]+|[a-z]+|[.-]", text)

    for a, b in itertools.zip_longest(words(older), words(newer), fillvalue=""):
        if a == b:
            continue
        if not a or not b:
            return not a
        for separator in "-.":
            if separator in (a, b):
                return a == separator
        if a.isdigit() or b.isdigit():
            return int(a if a.isdigit() else 0) < int(b if b.isdigit() else 0)
        return a < b
    return False


def test_a_commit_has_its_time_and_name_after_the_release(repository: Path) -> None:
    head = git(repository, "rev-parse", "HEAD")
    assert version.find(repository, {}) == f"0.2.0-20260131.235959.g{head[:12]}"


def test_a_tagged_commit_has_the_releases_version(repository: Path) -> None:
    git(repository, "tag", "v0.2.0")
    assert version.find(repository, {}) == "0.2.0"


def test_a_tag_that_says_another_version_is_refused(repository: Path) -> None:
    git(repository, "tag", "v0.3.0")
    with pytest.raises(BuildError, match=r"tag v0.3.0: initd/version.py says 0.2.0"):
        version.find(repository, {})


def test_what_is_changed_is_no_release_and_says_so(repository: Path) -> None:
    git(repository, "tag", "v0.2.0")
    (repository / "new").write_text("is not of it yet")
    assert version.find(repository, {}) == "0.2.0"
    with (repository / "initd/version.py").open("a") as file:
        file.write("# changed\n")
    assert version.find(repository, {}).endswith(".changed")


def test_a_clone_without_history_has_the_same_version(repository: Path, tmp_path: Path) -> None:
    (repository / "more").write_text("more")
    git(repository, "add", "more")
    git(repository, "commit", "--quiet", "--message", "two", date="2026-02-01T01:00:00+01:00")
    shallow = tmp_path / "shallow"
    git(tmp_path, "clone", "--quiet", "--depth=1", f"file://{repository}", str(shallow))
    assert version.find(shallow, {}) == version.find(repository, {})
    assert "-20260201.000000.g" in version.find(shallow, {})


def test_an_archive_has_the_releases_version_also_in_anothers_repository(repository: Path) -> None:
    inside = project(repository / "vendor/aurae", "0.4.1")
    assert version.find(inside, {}) == "0.4.1"


def test_without_git_it_is_the_releases(
    repository: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert version.find(repository, {}) == "0.2.0"


def test_a_given_version_goes_before_all(repository: Path) -> None:
    assert version.find(repository, {"VERSION": "9.9.9-test"}) == "9.9.9-test"


@pytest.mark.parametrize(
    "bad", ["v1", "1+2", "1/2", "1 2", "1..2", "1A", "1" * 65, "-1", "1~rc1", "1_2"]
)
def test_what_no_files_name_can_have_is_refused(repository: Path, bad: str) -> None:
    with pytest.raises(BuildError, match="cannot stand in a file's name"):
        version.find(repository, {"VERSION": bad})


def test_later_is_later_for_the_boot_loader() -> None:
    first, second = Commit(NAME, 1_800_000_000), Commit(NAME[::-1], 1_800_000_001)
    ascending = [
        "0.1.9",
        version.version_of("0.1.9", second),
        "0.2.0",
        version.version_of("0.2.0", first),
        version.version_of("0.2.0", second),
        "0.2.1",
        "0.10.0",
    ]
    for older, newer in itertools.combinations(ascending, 2):
        assert precedes(older, newer), (older, newer)
        assert not precedes(newer, older), (older, newer)


def test_the_installed_package_says_it(tmp_path: Path) -> None:
    package = project(tmp_path) / "initd"
    version.write(package, "0.2.0-20260131.235959.g0123456789ab")
    said = (package / "version.py").read_text()
    assert said == 'VERSION: Final = "0.2.0-20260131.235959.g0123456789ab"\n'
