"""The audit log as the API writes it: loaded when there is something to write, or to be read."""

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtime.audit.decided import Decided

if TYPE_CHECKING:
    from runtime.audit.log import AuditLog


class Recorder:
    """`lasting`: `folder` is on a disk, and not in memory."""

    def __init__(self, folder: Path, *, lasting: bool) -> None:
        self._folder = folder
        self._lasting = lasting

    @cached_property
    def log(self) -> "AuditLog":
        # An API that nobody has asked yet is there sooner without it.
        from runtime.audit.log import SIZE, SIZE_IN_MEMORY, AuditLog

        return AuditLog(self._folder, size=SIZE if self._lasting else SIZE_IN_MEMORY)

    def record(self, **decided: Any) -> None:
        """See `AuditLog.record`."""
        self.log.record(**decided)

    def record_soon(self, decided: Callable[[], Decided]) -> None:
        """See `AuditLog.record_soon`."""
        self.log.record_soon(decided)
