from pathlib import Path

import pytest

from image.stages import Stage, fingerprint, run


class Kitchen:
    """Two stages on real files; says which of them ran."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ran: list[str] = []
        for name in ("flour", "sugar"):
            (folder / name).write_text(name)

    def run(self) -> list[str]:
        self.ran.clear()
        stages = [self._stage("dough", "flour"), self._stage("cake", "sugar")]
        assert run(stages, self.folder / "stamps") == bool(self.ran)
        return list(self.ran)

    def _stage(self, name: str, ingredient: str) -> Stage:
        def make(_: str) -> None:
            self.ran.append(name)
            (self.folder / name).touch()

        return Stage(name, name, (self.folder / ingredient,), (self.folder / name,), make)


@pytest.fixture
def kitchen(tmp_path: Path) -> Kitchen:
    return Kitchen(tmp_path)


def test_what_is_up_to_date_is_not_made_again(kitchen: Kitchen) -> None:
    assert kitchen.run() == ["dough", "cake"]
    assert kitchen.run() == []


def test_a_change_runs_its_stage_and_all_after_it(kitchen: Kitchen) -> None:
    kitchen.run()
    (kitchen.folder / "flour").write_text("rye")
    assert kitchen.run() == ["dough", "cake"]


def test_a_change_leaves_the_stages_before_it_alone(kitchen: Kitchen) -> None:
    kitchen.run()
    (kitchen.folder / "sugar").write_text("brown")
    assert kitchen.run() == ["cake"]


def test_a_file_that_is_touched_but_the_same_changes_nothing(kitchen: Kitchen) -> None:
    kitchen.run()
    (kitchen.folder / "flour").write_text("flour")
    assert kitchen.run() == []


def test_a_product_that_was_removed_is_made_again(kitchen: Kitchen) -> None:
    kitchen.run()
    (kitchen.folder / "cake").unlink()
    assert kitchen.run() == ["cake"]


def test_a_stage_that_failed_runs_again(tmp_path: Path) -> None:
    (tmp_path / "input").touch()
    (tmp_path / "output").touch()

    def fail(_: str) -> None:
        raise RuntimeError("burnt")

    stage = Stage("cake", "cake", (tmp_path / "input",), (tmp_path / "output",), fail)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="burnt"):
            run([stage], tmp_path / "stamps")


def test_a_folder_counts_with_names_and_contents_but_without_compiled_python(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "package"
    (folder / "__pycache__").mkdir(parents=True)
    (folder / "a.py").write_text("1")
    first = fingerprint("", [folder])
    (folder / "__pycache__/a.pyc").write_text("x")
    assert fingerprint("", [folder]) == first
    (folder / "a.py").rename(folder / "b.py")
    assert fingerprint("", [folder]) != first


def test_a_missing_input_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="gone"):
        fingerprint("", [tmp_path / "gone"])
