"""The plugin's ways with a machine that is lost, on a pytest of its own."""

import pytest

# Stands for a machine whose kernel died of QEMU's emulation: that comes when it will.
CONFTEST = """
from types import SimpleNamespace
import pytest
from testkit.plugin import MACHINES

@pytest.fixture(scope="session")
def machines(pytestconfig, monkeypatch_session):
    machine = SimpleNamespace(
        check=lambda: None,
        qemu=SimpleNamespace(console=SimpleNamespace(text="")),
    )
    pytestconfig.stash[MACHINES] = SimpleNamespace(running=[machine])
    yield machine
    del pytestconfig.stash[MACHINES]

@pytest.fixture(scope="session")
def monkeypatch_session():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("testkit.machines.save_evidence", lambda machine, folder: None)
        yield

@pytest.fixture(scope="module")
def machine(machines):
    yield machines
    assert machines.qemu.console.text == "", "lost"
"""


def outcomes(pytester: pytest.Pytester, body: str) -> tuple[dict[str, int], str]:
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(body)
    # The fixture that looks after real machines has nothing to look at here.
    result = pytester.runpytest("-p", "no:cacheprovider", "-k", "lost")
    return result.parseoutcomes(), result.stdout.str()


def body(*, said: str, failures: int) -> str:
    return f"""
        runs = []

        def test_lost(request):
            machine = request.getfixturevalue("machine")
            assert machine.qemu.console.text == ""
            runs.append(1)
            if len(runs) <= {failures}:
                machine.qemu.console.text = {said!r}
                assert False
    """


def test_a_test_whose_machine_the_emulation_failed_is_run_once_more_with_another(
    pytester: pytest.Pytester,
) -> None:
    counts, said = outcomes(pytester, body(said="Oops: int3: 0000", failures=1))
    assert counts == {"passed": 1}
    assert "the emulation failed its machine; once more" in said


def test_twice_is_a_failure(pytester: pytest.Pytester) -> None:
    counts, _ = outcomes(pytester, body(said="Oops: int3: 0000", failures=2))
    assert counts["failed"] == 1


def test_any_other_failure_is_one_at_once(pytester: pytest.Pytester) -> None:
    counts, said = outcomes(pytester, body(said="Kernel panic - not syncing", failures=1))
    assert counts["failed"] == 1
    assert "once more" not in said
