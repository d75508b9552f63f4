"""What `auraed` takes as arguments where it is not PID 1."""

from typing import Any

import pytest

from initd import __main__ as auraed
from initd import guest


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[guest.Options]:
    seen: list[guest.Options] = []

    def run(options: guest.Options) -> int:
        seen.append(options)
        return 0

    monkeypatch.setattr(guest, "run", run)
    return seen


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["auraed", *arguments])
    return auraed.main()


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        ((), {}),
        (("--stay",), {"stay": True}),
        (("--listen", "[::]:1", "--credentials", "c"), {"listen": "[::]:1", "credentials": "c"}),
        (
            ("--listen", "[::]:1", "--stay", "--credentials", "c"),
            {"listen": "[::]:1", "credentials": "c", "stay": True},
        ),
    ],
)
def test_a_daemon_is_as_asked_for(
    monkeypatch: pytest.MonkeyPatch,
    served: list[guest.Options],
    arguments: tuple[str, ...],
    options: dict[str, Any],
) -> None:
    assert run(monkeypatch, "daemon", *arguments) == 0
    assert served == [guest.Options(container=False, **options)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("daemon", "--stay", "--stay"), "unknown, see auraed --help"),
        (("daemon", "--listen"), "unknown, see auraed --help"),
        (("daemon", "--listen", "[::]:1"), "go together: give both, or neither"),
        (("daemon", "--port", "1"), "unknown, see auraed --help"),
        (("spawn",), "unknown, see auraed --help"),
        (("stop",), "stop: unknown, see auraed --help"),
    ],
)
def test_what_it_does_not_know_is_refused(
    monkeypatch: pytest.MonkeyPatch,
    served: list[guest.Options],
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    message: str,
) -> None:
    assert run(monkeypatch, *arguments) == 2
    assert served == []
    assert message in capsys.readouterr().err
