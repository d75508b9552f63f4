"""The configuration while the node runs: checked, stored, on trial, gone back from."""

import asyncio
import errno
import json
import os
import socket
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from initd.configuration.tables import Problem
from initd.errors import FailedPrecondition, InvalidArgument
from runtime.configuration import configurations as module
from runtime.configuration.configurations import Configurations
from runtime.configuration.files import Files, now
from runtime.configuration.model import Trial, revision_of, settings
from runtime.observe.wakeups import Wakeups


class Place:
    """The folders of a node, and configurations on them as a runtime has."""

    def __init__(self, folder: Path) -> None:
        self.run, self.state = folder / "run", folder / "disk"
        self.sysctls = folder / "sys"
        for made in (self.run, self.state, self.sysctls / "vm", folder / "credentials"):
            made.mkdir(parents=True)
        (self.run / "cmdline").write_text("")
        (self.sysctls / "vm/swappiness").write_text("60\n")
        self.credentials = folder / "credentials"
        self.changes = 0
        self.restarts = 0
        self.happened = asyncio.Event()

    def configurations(self, *, lasting: bool = True, **options: Any) -> Configurations:
        def check_policy(given: Any) -> Iterable[Problem]:
            if "bad" in given:
                yield Problem("policy.bad", "is bad")

        def changed() -> None:
            self.changes += 1
            self.happened.set()

        def restart() -> None:
            self.restarts += 1
            self.happened.set()

        return Configurations(
            self.run,
            self.state,
            lasting=lasting,
            checks={"policy": check_policy},
            on_change=changed,
            restart=restart,
            cmdline=str(self.run / "cmdline"),
            sysctls=self.sysctls,
            credentials=str(self.credentials),
            **options,
        )

    @property
    def merged(self) -> dict[str, Any]:
        found = json.loads((self.run / "config.json").read_text())
        assert isinstance(found, dict)
        return found

    @property
    def swappiness(self) -> str:
        return (self.sysctls / "vm/swappiness").read_text().strip()


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setattr(socket, "sethostname", lambda name: None)
    return Place(tmp_path)


SWAPPY = '[sysctls]\n"vm.swappiness" = 10\n'


async def run_until(place: Place, one: Configurations, done: Callable[[], bool]) -> None:
    """Run it until that has become true by something that it told of."""
    with Wakeups() as wakeups:
        async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
            running = tasks.create_task(one.run(wakeups))
            while not done():
                place.happened.clear()
                await place.happened.wait()
            running.cancel()


def test_what_is_applied_is_stored_and_in_effect(place: Place) -> None:
    one = place.configurations()
    assert asyncio.run(one.apply(SWAPPY)) == ()
    assert (place.state / "config.toml").read_text() == SWAPPY
    assert (place.state / "config.toml").stat().st_mode & 0o777 == 0o600
    assert place.merged["origin"] == {'sysctls."vm.swappiness"': "stored"}
    assert place.swappiness == "10"
    assert place.changes == 1


def test_what_was_before_a_document_comes_back_after_it(place: Place) -> None:
    asyncio.run(place.configurations().apply(SWAPPY))
    asyncio.run(place.configurations().apply(""))
    assert place.swappiness == "60"
    assert place.merged["values"] == {}


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("hostnme = 'a'", "configuration: hostnme: is not known; did you mean hostname?"),
        ("a = ", "configuration: is not TOML"),
        ("[policy]\nbad = 1", "configuration: policy.bad: is bad"),
        ("x = 1\ny = 2", "configuration: x: is not known; .*; y: is not known"),
    ],
)
def test_what_is_wrong_is_refused_and_nothing_changes(place: Place, text: str, wanted: str) -> None:
    one = place.configurations()
    with pytest.raises(InvalidArgument, match=wanted.replace("?", r"\?")):
        asyncio.run(one.apply(text, trial=60))
    assert not (place.state / "config.toml").exists()
    assert {path.name for path in place.run.iterdir()} == {"cmdline"}


def test_a_node_without_a_disk_says_that_it_would_forget(place: Place) -> None:
    one = place.configurations(lasting=False)
    with pytest.raises(FailedPrecondition, match="has no data disk"):
        asyncio.run(one.apply(SWAPPY))
    asyncio.run(one.apply(SWAPPY, volatile=True))
    assert place.swappiness == "10"


def test_a_guest_is_configured_by_its_host(place: Place) -> None:
    with pytest.raises(FailedPrecondition, match="configuration: is somebody else's"):
        asyncio.run(place.configurations(refusal="is somebody else's").apply(SWAPPY))


def test_only_the_revision_that_somebody_saw_is_replaced(place: Place) -> None:
    one = place.configurations()
    asyncio.run(one.apply(SWAPPY, if_revision=""))
    with pytest.raises(FailedPrecondition, match=f"stored is revision {revision_of(SWAPPY)}"):
        asyncio.run(one.apply("", if_revision=""))
    asyncio.run(one.apply("", if_revision=revision_of(SWAPPY)))


def test_keys_of_a_higher_channel_and_of_the_next_boot_are_told(place: Place) -> None:
    (place.run / "cmdline").write_text("aurae.hostname=fixed")
    notes = asyncio.run(
        place.configurations().apply(
            'hostname = "mine"\nlisten = "[::]:9000"\n[sysctls]\n"no.such" = 1\n'
            '[disks.data]\ndevice = "LABEL=x"'
        )
    )
    assert {note.path: note.message.partition(";")[0] for note in notes[:4]} == {
        "hostname": "is hidden: cmdline has another value, which goes before",
        "disks.data.device": ("is needed before what is stored can be read, so it does not count"),
        "listen": "takes effect at the next boot",
        'sysctls."no.such"': "is no setting of this kernel",
    }
    assert str(notes[4]) == "sysctls.\"no.such\": cannot be set to '1': No such file or directory"


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ("ip=eth0:dhcp", "network.links.eth0"),
        ("ip=10.0.0.2::10.0.0.1:24", "network.links"),
        ("ip=eth1:dhcp", ""),
        ("ip=dhcp", ""),
    ],
)
def test_links_that_the_command_line_has_are_told(place: Place, given: str, path: str) -> None:
    (place.run / "cmdline").write_text(given)
    checked = asyncio.run(place.configurations().check("[network.links.eth0]\ndhcp = false"))
    assert [note.path for note in checked.notes] == [path] * bool(path)


def test_a_trial_ends_by_itself(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TRIALS", (0.0, 60.0))
    asyncio.run(place.configurations().apply('hostname = "old"'))

    async def work() -> None:
        one = place.configurations()
        await one.apply(SWAPPY, trial=0.2)
        assert place.swappiness == "10"
        await run_until(place, one, lambda: place.swappiness == "60")

    asyncio.run(work())
    assert place.swappiness == "60"
    assert place.merged["values"] == {"hostname": "old"}
    assert (place.state / "config.toml").read_text() == 'hostname = "old"'


def test_a_trial_that_is_confirmed_is_stored(place: Place) -> None:
    async def work() -> None:
        one = place.configurations()
        await one.apply(SWAPPY, trial=60)
        assert not (place.state / "config.toml").exists()
        with pytest.raises(FailedPrecondition, match=r"is on trial for (60|5\d) s more"):
            await one.apply("")
        with pytest.raises(FailedPrecondition, match=r"on trial is revision .*, not 123"):
            await one.confirm("123")
        assert await one.confirm(revision_of(SWAPPY)) == revision_of(SWAPPY)
        with pytest.raises(FailedPrecondition, match="nothing is on trial"):
            await one.confirm()

    asyncio.run(work())
    assert (place.state / "config.toml").read_text() == SWAPPY
    assert place.swappiness == "10"


def test_one_can_go_back_at_once(place: Place) -> None:
    async def work() -> None:
        one = place.configurations()
        await one.apply(SWAPPY, trial=60)
        assert await one.revert() == ""

    asyncio.run(work())
    assert place.swappiness == "60"


@pytest.mark.parametrize("seconds", [1.0, -1.0, 4000.0])
def test_a_trial_has_bounds(place: Place, seconds: float) -> None:
    with pytest.raises(InvalidArgument, match=r"trial: .* is not from 5 s to 3600 s"):
        asyncio.run(place.configurations().apply(SWAPPY, trial=seconds))


def test_another_runtime_goes_on_with_a_trial(place: Place) -> None:
    asyncio.run(place.configurations().apply(SWAPPY, trial=60))
    found = asyncio.run(place.configurations().get())
    assert found.trial is not None
    assert found.document == SWAPPY
    # Its time is over when the next one comes.
    over = found.trial._replace(deadline=now() - 1)
    Files(place.run, place.state).begin_trial(over)
    asyncio.run(run_until(place, place.configurations(), lambda: place.swappiness == "60"))


@pytest.mark.parametrize("step", ["trial written", "trial removed", "stored"])
def test_a_runtime_that_dies_on_the_way_leaves_work_that_the_next_finishes(
    place: Place, step: str
) -> None:
    files = Files(place.run, place.state)
    trial = Trial(SWAPPY, now() + 60, volatile=False)
    if step == "trial written":
        files.begin_trial(trial)
        (place.run / "config.json").write_text("")
    else:
        asyncio.run(place.configurations().apply(SWAPPY, trial=60))
        if step == "stored":
            files.store(SWAPPY)
        else:
            files.end_trial()

    async def work() -> None:
        one = place.configurations()
        with Wakeups() as wakeups, suppress(TimeoutError):
            async with asyncio.timeout(0.3):
                await one.run(wakeups)

    asyncio.run(work())
    assert place.swappiness == ("60" if step == "trial removed" else "10")


def test_effects_that_a_runtime_did_not_come_to_are_those_of_the_next(place: Place) -> None:
    one = place.configurations()

    def dies(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(one._effects, "take", dies)
        with pytest.raises(KeyboardInterrupt):
            one._take(SWAPPY, 60.0, volatile=False)
    assert place.swappiness == "60"
    asyncio.run(run_until(place, place.configurations(), lambda: place.swappiness == "10"))


def test_going_back_is_tried_until_it_succeeds(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TRIALS", (0.0, 60.0))
    monkeypatch.setattr(module, "AGAIN", 0.05)
    fails = iter([OSError(errno.ENOSPC, "No space left on device")] * 3)

    async def work() -> None:
        one = place.configurations()
        await one.apply(SWAPPY, trial=0.1)
        settle = one._settle

        def full() -> list[Problem]:
            for error in fails:
                raise error
            return settle()

        monkeypatch.setattr(one, "_settle", full)
        await run_until(place, one, lambda: place.swappiness == "60")

    asyncio.run(work())


def test_nothing_is_made_where_nobody_has_configured_anything(place: Place) -> None:
    async def work() -> None:
        with Wakeups() as wakeups, suppress(TimeoutError):
            async with asyncio.timeout(0.2):
                await place.configurations().run(wakeups)

    asyncio.run(work())
    assert os.listdir(place.run) == ["cmdline"]  # noqa: PTH208


def test_what_comes_by_url_is_taken_and_may_start_the_runtime_again(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work() -> None:
        one = place.configurations()
        looked, loop, look = asyncio.Event(), asyncio.get_running_loop(), one._look

        def told() -> float | None:
            left = look()
            loop.call_soon_threadsafe(looked.set)
            return left

        monkeypatch.setattr(one, "_look", told)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(run_until(place, one, lambda: place.swappiness == "10"))
            # It has found nothing, and waits.
            await looked.wait()
            fresh = place.run / "fresh"
            fresh.write_text(f'listen = "[::]:9000"\n{SWAPPY}')
            fresh.rename(place.run / "config.url.toml")

    asyncio.run(work())
    boot = json.loads((place.run / "config.boot.json").read_text())
    assert boot["values"]["listen"] == "[::]:9000"
    assert boot["origin"]["listen"] == "url"
    assert place.restarts == 1


def test_who_a_document_says_the_node_is_by_url_becomes_credentials(place: Place) -> None:
    pem = "-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n"
    (place.run / "config.url.toml").write_text(f'[identity]\nbundle = """{pem}"""')

    async def work() -> None:
        with Wakeups() as wakeups, suppress(TimeoutError):
            async with asyncio.timeout(0.3):
                await place.configurations().run(wakeups)

    asyncio.run(work())
    assert (place.credentials / "aurae.ca.crt").read_text() == pem
    assert place.restarts == 1


def test_secrets_are_not_shown(place: Place) -> None:
    pem = "-----BEGIN PRIVATE KEY-----\nsecret\n"
    asyncio.run(place.configurations().apply(f'[identity]\nkey = """{pem}"""'))
    found = asyncio.run(place.configurations().get())
    shown = {one.key: one for one in settings(found.merged)}
    assert shown["identity.key"].secret
    assert shown["identity.key"].value == ""
    assert shown["listen"].origin == "default"
