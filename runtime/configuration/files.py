"""What is kept of a configuration: the stored document, and one that is on trial."""

import time
from pathlib import Path

from initd.configuration.channels import STORED, TRIAL
from runtime.configuration.model import Trial
from runtime.durable import put


def now() -> float:
    """Seconds that go on while the machine sleeps, and begin anew with each boot."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Files:
    """`run` is gone after a boot, `state` may not be. So what is on trial lies in the first."""

    def __init__(self, run: Path, state: Path) -> None:
        self.stored_path = state / STORED
        self.trial_path = run / TRIAL

    def stored(self) -> str | None:
        """OSError; a document that is no text is read as far as it is one."""
        try:
            return self.stored_path.read_bytes().decode(errors="replace")
        except FileNotFoundError:
            return None

    def store(self, text: str) -> None:
        """All of it or nothing, also over a power cut. OSError."""
        put(self.stored_path, text.encode())

    def trial(self) -> Trial | None:
        """One that cannot be read is none. OSError."""
        try:
            return Trial.from_json(self.trial_path.read_text())
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError):
            self.end_trial()
            return None

    def begin_trial(self, trial: Trial) -> None:
        put(self.trial_path, trial.to_json().encode())

    def end_trial(self) -> None:
        self.trial_path.unlink(missing_ok=True)
