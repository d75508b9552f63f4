"""pytest fixtures: machines that run the image. See docs/testing.md.

Imports stay inside the fixtures: every run of pytest loads the plugin, also where no QEMU is.
"""

from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from _pytest.runner import runtestprotocol

if TYPE_CHECKING:
    from testkit.machines import Machine, Machines
    from testkit.trust import TrustDomain

MACHINES: "Final" = pytest.StashKey["Machines"]()
EMULATOR_FAILED: "Final" = pytest.StashKey[bool]()

OPTIONS: Final = (
    ("image", "build", "folder with vmlinuz, initramfs and aurae.img"),
    ("overlay", "", "further initramfs archives laid over the image's, separated by spaces"),
    ("evidence", "build/evidence", "folder for what failed tests leave"),
    ("memory", "1024", "memory of a machine in MiB"),
    ("cpus", "2", "processors of a machine"),
    ("acceleration", "", "kvm or tcg; default: tried out once"),
)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("aurae", "machines that run aurae.img")
    for name, default, text in OPTIONS:
        parser.addini(f"aurae_{name}", text, default=default)
        group.addoption(f"--aurae-{name}", dest=f"aurae_{name}", help=text, metavar="VALUE")


@pytest.fixture(scope="session")
def trust_domain(tmp_path_factory: pytest.TempPathFactory) -> "TrustDomain":
    """The trust domain of this run's machines: a node and the person `tester`."""
    from testkit.trust import TrustDomain

    return TrustDomain.make(tmp_path_factory.mktemp("pki"))


@pytest.fixture(scope="session")
def machines(
    pytestconfig: pytest.Config,
    tmp_path_factory: pytest.TempPathFactory,
    trust_domain: "TrustDomain",
) -> "Iterator[Machines]":
    """How machines are started in this run."""
    from image.acceleration import Acceleration, find_acceleration
    from image.machine import QEMU
    from testkit.machines import Machines

    artifacts = _path(pytestconfig, "image")
    for product in ("vmlinuz", "initramfs-micro", "root.erofs"):
        if not (artifacts / product).exists():
            pytest.exit(f"{artifacts / product}: does not exist; make image, or --aurae-image DIR")
    chosen = _option(pytestconfig, "acceleration")
    made = Machines(
        artifacts=artifacts,
        overlays=tuple(
            pytestconfig.rootpath / name for name in _option(pytestconfig, "overlay").split()
        ),
        acceleration=Acceleration(chosen)
        if chosen
        else find_acceleration(QEMU, artifacts / "vmlinuz", artifacts / "acceleration"),
        trust=trust_domain,
        folder=tmp_path_factory.mktemp("machines"),
        memory=int(_option(pytestconfig, "memory")),
        cpus=int(_option(pytestconfig, "cpus")),
    )
    pytestconfig.stash[MACHINES] = made
    yield made
    for machine in tuple(made.running):
        made.close(machine)
    del pytestconfig.stash[MACHINES]


@pytest.fixture(scope="module")
def machine(machines: "Machines") -> "Iterator[Machine]":
    """A booted machine, shared by the tests of a module. At the end it must power off cleanly."""
    booted = machines.start()
    try:
        yield booted
        booted.check()
        booted.poweroff()
    finally:
        machines.close(booted)


@pytest.fixture
def boot(machines: "Machines") -> "Iterator[Callable[..., Machine]]":
    """A function that boots a machine of this test's own; the arguments are `Machines.start`'s."""
    mine: list[Machine] = []

    def start(**arguments: Any) -> "Machine":
        before = set(map(id, machines.running))
        try:
            return machines.start(**arguments)
        finally:
            mine.extend(m for m in machines.running if id(m) not in before)

    yield start
    for machine in mine:
        machines.close(machine)


@pytest.fixture(autouse=True)
def _nothing_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test leaves the shared machine as it found it: nothing of its own, nothing missing."""
    if "machine" not in request.fixturenames:
        yield
        return
    from testkit.machines import clean, leftovers

    shared: Machine = request.getfixturevalue("machine")
    shared.check()
    before = leftovers(shared) if shared.found is None else shared.found
    yield
    shared.check()
    after = leftovers(shared)
    if after != before:
        clean(shared)
    shared.found = before
    assert after == before, "the test did not leave the machine as it found it"


def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool:
    """Run a test once more, with everything made anew, whose machine died of its emulation."""
    said = {"nodeid": item.nodeid, "location": item.location}
    item.ihook.pytest_runtest_logstart(**said)
    reports = runtestprotocol(item, log=False, nextitem=nextitem)
    if item.stash.get(EMULATOR_FAILED, False):
        if (terminal := item.config.pluginmanager.get_plugin("terminalreporter")) is not None:
            terminal.write_line(f"{item.nodeid}: the emulation failed its machine; once more")
        # What ends with a machine that is lost is bound to complain of that.
        with suppress(Exception):
            item.session._setupstate.teardown_exact(None)
        reports = runtestprotocol(item, log=False, nextitem=nextitem)
    for report in reports:
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(**said)
    return True


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """A machine that is lost is the story, whatever the test saw of it."""
    try:
        return (yield)
    except Exception:
        if (made := item.config.stash.get(MACHINES, None)) is not None:
            for machine in made.running:
                machine.check()
        raise


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    made = item.config.stash.get(MACHINES, None)
    if report.failed and made is not None:
        from image.acceleration import emulator_failed
        from testkit.machines import save_evidence

        if any(emulator_failed(machine.qemu.console.text) for machine in made.running):
            item.stash[EMULATOR_FAILED] = True
        kept = _path(item.config, "evidence") / _file_name(item.nodeid)
        for number, machine in enumerate(made.running, 1):
            save_evidence(machine, kept / str(number))
        report.sections.append(("evidence", str(kept)))
    return report


def _option(config: pytest.Config, name: str) -> str:
    given = config.getoption(f"aurae_{name}")
    return str(given if given is not None else config.getini(f"aurae_{name}"))


def _path(config: pytest.Config, name: str) -> Path:
    return config.rootpath / _option(config, name)


def _file_name(nodeid: str) -> str:
    return "".join(c if c.isalnum() or c in "._-" else "-" for c in nodeid)[-150:].strip("-")
