"""The configuration that decides: checked, stored, on trial, and gone back from."""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from initd.configuration import channels, document, identity
from initd.configuration.channels import BOOT, FOLDER, MERGED, URL, Merged, Places
from initd.configuration.tables import Problem
from initd.errors import FailedPrecondition, InvalidArgument
from initd.linux import inotify
from initd.values import NamedTuple
from runtime.configuration.effects import SYSCTLS, Effects
from runtime.configuration.files import Files, now
from runtime.configuration.model import (
    Checked,
    Trial,
    boot_notes,
    hidden_notes,
    link_notes,
    revision_of,
)
from runtime.observe.wakeups import Wakeups
from runtime.waiting import to_the_end

log = logging.getLogger(__name__)

# Seconds that a trial may take.
TRIALS: Final = (5.0, 3600.0)
# Of a folder that others watch as well: all must ask for the same.
CHANGES: Final = inotify.CREATE | inotify.CLOSE_WRITE | inotify.MOVED_TO | inotify.DELETE
# As many problems as a message has.
_SAID: Final = 20

# Says what is wrong with what a key holds, by paths from that key on.
Check = Callable[[Any], Iterable[Problem]]


class Now(NamedTuple):
    """What holds."""

    stored: str | None
    trial: Trial | None
    merged: Merged

    @property
    def document(self) -> str:
        return self.trial.document if self.trial else self.stored or ""


class Configurations:
    """What lies on disk and in `run` is what counts: another runtime goes on with it."""

    def __init__(
        self,
        run: Path,
        state: Path,
        *,
        lasting: bool,
        checks: Mapping[str, Check],
        above: Callable[[Mapping[str, Any]], Iterable[Problem]] = lambda _: (),
        on_change: Callable[[], None] = lambda: None,
        restart: Callable[[], None] = lambda: None,
        cmdline: str = "/proc/cmdline",
        sysctls: Path = SYSCTLS,
        refusal: str = "",
        credentials: str = identity.FOLDER,
    ) -> None:
        """`lasting`: what lies in `state` outlives a boot. `checks` are asked about the values of
        these keys, `above` which values something goes before that is no channel. `refusal` is why
        nothing may be applied. `on_change` is called when other values hold, `restart` when the
        runtime must start again for them."""
        self.lasting = lasting
        self._run = run
        self._places = Places(str(run), str(state), cmdline)
        self._files = Files(run, state)
        self._effects = Effects(run, sysctls)
        self._checks = checks
        self._refusal = refusal
        self._above = above
        self._on_change = on_change
        self._restart = restart
        self._credentials = credentials
        self._changed = False
        self._starts_again = False
        self._changing = asyncio.Lock()
        self._woken = asyncio.Event()

    async def get(self) -> Now:
        async with self._changing:
            return await asyncio.to_thread(self._now)

    async def check(self, text: str) -> Checked:
        """What Apply would say. For a document of any size."""
        return await asyncio.to_thread(self._check, text)

    async def apply(
        self,
        text: str,
        *,
        trial: float | None = None,
        if_revision: str | None = None,
        volatile: bool = False,
    ) -> tuple[Problem, ...]:
        """Have it hold, for `trial` seconds or for good; returns notes. Raises InvalidArgument,
        FailedPrecondition, and nothing has changed then."""
        least, most = TRIALS
        if trial is not None and not least <= trial <= most:
            raise InvalidArgument(
                f"trial: {trial:g} s is not from {least:g} s to {most:g} s; give another time"
            )
        async with self._changing:
            checked = await asyncio.to_thread(
                self._admit, text, if_revision=if_revision, volatile=volatile
            )
            failed = await self._to_the_end(lambda: self._take(text, trial, volatile=volatile))
            # To wait for the end of the trial.
            self._woken.set()
            log.info(
                "configuration: revision %s %s",
                revision_of(text),
                "is stored" if trial is None else f"is on trial for {trial:g} s",
            )
            return (*checked.notes, *failed)

    async def confirm(self, revision: str = "") -> str:
        """Store what is on trial; its revision. Raises FailedPrecondition."""
        async with self._changing:
            trial = await asyncio.to_thread(self._on_trial)
            if revision and revision != trial.revision:
                raise FailedPrecondition(
                    f"configuration: on trial is revision {trial.revision}, not {revision}; look "
                    "at it first"
                )
            await self._to_the_end(lambda: self._confirm(trial))
            log.info("configuration: revision %s is confirmed", trial.revision)
            return trial.revision

    async def revert(self) -> str:
        """Go back now; the revision that holds again. Raises FailedPrecondition."""
        async with self._changing:
            await asyncio.to_thread(self._on_trial)
            await self._to_the_end(self._go_back)
            stored = await asyncio.to_thread(self._files.stored)
            return "" if stored is None else revision_of(stored)

    async def run(self, wakeups: Wakeups) -> None:
        """Go on with what an earlier runtime was doing; then go back when a trial is over, and take
        a document that comes by URL."""
        with wakeups.on(self._run, self._woken, CHANGES):
            while True:
                self._woken.clear()
                async with self._changing:
                    left = await self._to_the_end(self._look)
                try:
                    async with asyncio.timeout(left):
                        await self._woken.wait()
                except TimeoutError:
                    continue

    async def _to_the_end(self, work: Callable[[], Any]) -> Any:
        """In a thread, also when the caller leaves: what is on file is what holds."""
        future = asyncio.get_running_loop().run_in_executor(None, work)
        result, cancelled = await to_the_end(future)
        if self._changed:
            self._changed = False
            self._on_change()
        if self._starts_again:
            self._starts_again = False
            self._restart()
        if cancelled:
            raise asyncio.CancelledError
        return result

    # In threads, one at a time

    def _now(self) -> Now:
        stored, trial = self._files.stored(), self._files.trial()
        return Now(stored, trial, self._merged(trial.document if trial else None))

    def _merged(self, stored: str | None) -> Merged:
        return channels.merge(channels.gather(self._places, stored=stored))

    def _boot(self) -> Merged:
        return channels.read(f"{self._run}/{BOOT}")

    def _check(self, text: str) -> Checked:
        problems = list(document.parse(text).problems)
        merged = self._merged(text)
        if not problems:
            problems += self._check_values(merged)
        boot = (
            self._boot().values
            or channels.merge(
                [one for one in channels.gather(self._places) if one.name == "cmdline"]
            ).values
        )
        notes = (
            *hidden_notes(merged.hidden, merged),
            *link_notes(merged.values, Path(self._places.cmdline).read_text(errors="replace")),
            *self._above(merged.values),
            *boot_notes(boot, merged.values),
            *self._effects.unknown(merged.values),
        )
        return Checked(tuple(problems), notes, merged)

    def _check_values(self, merged: Merged) -> Iterable[Problem]:
        """What is wrong with values as others read them, and with channels together."""
        for problem in merged.problems:
            if problem.startswith(("stored: ", "together: ")):
                yield Problem("", problem)
        for key, check in self._checks.items():
            if key in merged.values:
                yield from check(merged.values[key])

    def _admit(self, text: str, *, if_revision: str | None, volatile: bool) -> Checked:
        if self._refusal:
            raise FailedPrecondition(f"configuration: {self._refusal}")
        trial, stored = self._files.trial(), self._files.stored()
        if trial is not None:
            raise FailedPrecondition(
                f"configuration: revision {trial.revision} is on trial for "
                f"{max(0.0, trial.deadline - now()):.0f} s more; confirm it, revert it, or wait"
            )
        revision = "" if stored is None else revision_of(stored)
        if if_revision is not None and if_revision != revision:
            raise FailedPrecondition(
                f"configuration: stored is revision {revision or 'none'}, not "
                f"{if_revision or 'none'}; get it and change that"
            )
        checked = self._check(text)
        if checked.problems:
            raise InvalidArgument(said(checked.problems))
        if not (self.lasting or volatile):
            raise FailedPrecondition(
                "configuration: the node has no data disk, so it would be gone with the next boot; "
                "give it a disk called aurae-data, or allow that (volatile)"
            )
        return checked

    def _take(self, text: str, trial: float | None, *, volatile: bool) -> list[Problem]:
        if trial is None:
            self._files.store(text)
        else:
            self._files.begin_trial(Trial(text, now() + trial, volatile))
        return self._settle()

    def _on_trial(self) -> Trial:
        trial = self._files.trial()
        if trial is None:
            raise FailedPrecondition(
                "configuration: nothing is on trial, the node may have gone back already; apply it "
                "anew"
            )
        return trial

    def _confirm(self, trial: Trial) -> None:
        self._files.store(trial.document)
        self._files.end_trial()
        self._settle()

    def _go_back(self) -> None:
        self._files.end_trial()
        self._settle()

    def _look(self) -> float | None:
        """Bring everything in line; returns in how many seconds to look again."""
        trial = self._files.trial()
        if trial is not None and trial.deadline <= now():
            log.warning(
                "configuration: revision %s was not confirmed in time; going back", trial.revision
            )
            self._go_back()
            return None
        if trial is not None or self._any():
            self._take_url()
            self._settle()
        return None if trial is None else max(0.0, trial.deadline - now())

    def _any(self) -> bool:
        """Whether there is, or was, anything to look at."""
        paths = (self._run / name for name in (MERGED, FOLDER, URL))
        return self._files.stored_path.exists() or any(path.exists() for path in paths)

    def _settle(self) -> list[Problem]:
        """Have in effect what the files say; returns what could not be. OSError."""
        trial = self._files.trial()
        merged = self._merged(trial.document if trial else None)
        if not channels.write(f"{self._run}/{MERGED}", merged):
            return []
        for told in merged.problems:
            log.warning("configuration: %s", told)
        problems = self._effects.take(merged.values, self._boot().values)
        for problem in problems:
            log.warning("configuration: %s", problem)
        self._changed = True
        return problems

    def _take_url(self) -> None:
        """A document by URL comes after boot: what the runtime has started with may be another."""
        if not (self._run / URL).exists():
            return
        merged = self._merged(None)
        before = self._boot()
        if merged.values == before.values:
            return
        channels.write(f"{self._run}/{BOOT}", merged)
        for told in identity.place(merged.values.get("identity", {}), self._credentials):
            log.warning("%s", told)
        for key in ("listen", "log-level", "identity", "cells"):
            if merged.values.get(key) != before.values.get(key):
                log.info("configuration: %s by URL; starting again with it", key)
                self._starts_again = True
                return


def said(problems: Iterable[Problem]) -> str:
    """In one message."""
    lines = [str(problem) for problem in problems]
    more = f"; and {len(lines) - _SAID} more" if len(lines) > _SAID else ""
    return f"configuration: {'; '.join(lines[:_SAID])}{more}"
