import errno
import gc
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from initd.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    Unavailable,
)
from initd.linux import prctl
from initd.logs.model import index_path, read_header
from initd.processes.model import Log, Spawn, State
from tests.unit.initd.owner import Owner

PATH = {"PATH": os.environ.get("PATH", "/usr/bin:/bin")}


def sh(script: str, name: str = "web", **fields: Any) -> Spawn:
    command = ("sh", "-c", script)
    return Spawn(**{"id": name, "argv": command, "cgroup": name, "env": PATH, **fields})


def test_a_process_runs_and_its_exit_code_is_kept(owner: Owner) -> None:
    started = owner.processes.spawn(sh("exit 7"), {})
    assert started.state is State.RUNNING
    ended = owner.until_ended("web")
    assert (ended.code, ended.signal, ended.serial) == (7, None, 1)
    assert ended.ended is not None
    assert ended.started <= ended.ended


def test_a_signal_that_ended_a_process_is_kept(owner: Owner) -> None:
    owner.processes.spawn(sh("kill -9 $$"), {})
    ended = owner.until_ended("web")
    assert (ended.code, ended.signal) == (None, signal.SIGKILL)


def test_output_is_complete_when_the_end_is_told(owner: Owner) -> None:
    owner.processes.spawn(sh("echo out; echo err >&2"), {})
    ended = owner.until_ended("web")
    assert owner.output(ended) == b"out\n"
    assert owner.output(ended, "stderr") == b"err\n"


def test_100000_lines_are_kept_to_the_last(owner: Owner) -> None:
    owner.processes.spawn(sh("i=0; seq 100000"), {})
    ended = owner.until_ended("web")
    assert owner.output(ended).splitlines() == [str(n).encode() for n in range(1, 100001)]


def test_the_environment_is_exactly_what_was_asked_for(owner: Owner) -> None:
    env = {"A": "1", "B": "two words"}
    owner.processes.spawn(sh("/usr/bin/env", argv=("/usr/bin/env",), env=env), {})
    assert owner.output(owner.until_ended("web")) == b"A=1\nB=two words\n"


def test_a_process_leads_a_session_and_has_no_descriptor_of_ours(owner: Owner) -> None:
    # What the test was itself started with is not of our making; ls opens the folder as 3.
    open_now = {int(entry.name) for entry in Path("/proc/self/fd").iterdir()} - {0, 1, 2, 3}
    ours = {fd for fd in open_now if not _is_inheritable(fd)}
    script = "ps -o sid= -p $$ >&2; echo $$ >&2; ls /proc/self/fd"
    owner.processes.spawn(sh(script), {})
    ended = owner.until_ended("web")
    assert not ours & set(map(int, owner.output(ended).split()))
    session, pid = owner.output(ended, "stderr").split()
    assert session == pid


def test_signals_of_a_process_have_their_default_and_none_is_blocked(owner: Owner) -> None:
    owner.processes.spawn(sh("grep -E 'Sig(Blk|Ign)' /proc/self/status"), {})
    output = owner.output(owner.until_ended("web"))
    # 32 and 33 are glibc's own: no program can set them, so they are as this host left them.
    ours = ~(1 << 31 | 1 << 32)
    assert [int(line.split()[1], 16) & ours for line in output.splitlines()] == [0, 0]


def test_a_process_has_the_working_folder_asked_for(owner: Owner, tmp_path: Path) -> None:
    owner.processes.spawn(sh("pwd", cwd=str(tmp_path)), {})
    assert owner.output(owner.until_ended("web")).decode().strip() == str(tmp_path)


def test_standard_input_is_empty(owner: Owner) -> None:
    owner.processes.spawn(sh("cat; echo end"), {})
    assert owner.output(owner.until_ended("web")) == b"end\n"


def test_descriptors_are_passed_under_the_numbers_asked_for(owner: Owner) -> None:
    read, write = os.pipe()
    try:
        owner.processes.spawn(sh("echo hello >&7"), {7: write})
        owner.until_ended("web")
        assert os.read(read, 100) == b"hello\n"
    finally:
        os.close(read)
        os.close(write)


def test_a_passed_standard_output_replaces_the_log(owner: Owner) -> None:
    read, write = os.pipe()
    try:
        owner.processes.spawn(sh("echo hello"), {1: write})
        assert owner.output(owner.until_ended("web")) == b""
        assert os.read(read, 100) == b"hello\n"
    finally:
        os.close(read)
        os.close(write)


@pytest.mark.skipif(os.getuid() != 0, reason="only root may become another user")
def test_user_and_group_are_taken_and_all_other_groups_left(owner: Owner) -> None:
    owner.processes.spawn(sh("id -u; id -G", uid=1234, gid=2345), {})
    assert owner.output(owner.until_ended("web")) == b"1234\n2345\n"


def test_what_the_first_process_leaves_behind_ends_with_it(owner: Owner) -> None:
    owner.processes.spawn(sh("sleep 1000 & echo $!"), {})
    left = int(owner.output(owner.until_ended("web")))
    owner.until(lambda: not _runs(left))


def test_the_leaf_is_gone_when_the_end_is_told(owner: Owner) -> None:
    owner.processes.spawn(sh("true"), {})
    owner.until_ended("web")
    assert not (owner.root / "web").exists()


def test_stop_ends_a_process_by_sigterm(owner: Owner) -> None:
    owner.processes.spawn(sh("exec sleep 1000"), {})
    assert owner.processes.stop("web", 100).state is State.STOPPING
    assert owner.until_ended("web").signal == signal.SIGTERM
    states = [process.state for process in owner.events]
    assert states == [State.RUNNING, State.STOPPING, State.ENDED]


def test_stop_kills_after_the_grace_what_ignores_sigterm(owner: Owner) -> None:
    owner.processes.spawn(sh("trap '' TERM; echo ready; while :; do sleep 0.1; done"), {})
    owner.until(lambda: owner.output(owner.process("web")) == b"ready\n")
    owner.processes.stop("web", 0.05)
    assert owner.until_ended("web").signal == signal.SIGKILL


def test_stop_again_with_less_grace_ends_it_earlier(owner: Owner) -> None:
    owner.processes.spawn(sh("trap '' TERM; echo ready; while :; do sleep 0.1; done"), {})
    owner.until(lambda: owner.output(owner.process("web")) == b"ready\n")
    owner.processes.stop("web", 1000)
    owner.processes.stop("web", 0)
    assert owner.until_ended("web").signal == signal.SIGKILL


def test_stop_of_an_ended_process_changes_nothing(owner: Owner) -> None:
    owner.processes.spawn(sh("exit 3"), {})
    ended = owner.until_ended("web")
    assert owner.processes.stop("web", 1) == ended


def test_a_signal_goes_to_the_first_process(owner: Owner) -> None:
    owner.processes.spawn(sh("trap 'exit 42' USR1; echo ready; while :; do sleep 0.01; done"), {})
    owner.until(lambda: owner.output(owner.process("web")) == b"ready\n")
    owner.processes.signal("web", signal.SIGUSR1)
    assert owner.until_ended("web").code == 42


def test_an_id_in_use_is_refused_and_free_again_after_the_end(owner: Owner) -> None:
    owner.processes.spawn(sh("exec sleep 1000"), {})
    with pytest.raises(AlreadyExists, match="process web: runs already"):
        owner.processes.spawn(sh("true", cgroup="other"), {})
    owner.processes.stop("web", 100)
    first = owner.until_ended("web")
    again = owner.processes.spawn(sh("true"), {})
    assert again.serial == first.serial + 1
    assert not (owner.logs / str(first.serial)).exists()


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"argv": ("no-such-command",)}, NotFound, "command no-such-command: not found in PATH"),
        ({"argv": ("/no/such",)}, NotFound, "command /no/such: no such file"),
        ({"argv": ("/etc/passwd",)}, InvalidArgument, "command /etc/passwd: not an executable"),
        ({"argv": ("/etc",)}, InvalidArgument, "command /etc: not an executable file"),
        ({"cwd": "/no/such"}, NotFound, "cwd /no/such: no such folder"),
        ({"cwd": "/etc/passwd"}, InvalidArgument, "cwd /etc/passwd: not a folder"),
        ({"cgroup": "no/such"}, NotFound, "cgroup no/such: its parent does not exist"),
        ({"argv": ("sh", "x" * 200_000)}, OSError, "Argument list too long"),
    ],
)
def test_a_spawn_that_fails_leaves_nothing(
    owner: Owner, fields: dict[str, Any], error: type[Exception], message: str
) -> None:
    # What tests before this one have left goes now, and not while it counts.
    gc.collect()
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(error, match=message):
        owner.processes.spawn(sh("true", **fields), {})
    assert owner.processes.list() == []
    assert list(owner.root.iterdir()) == []
    assert not owner.logs.exists() or list(owner.logs.iterdir()) == []
    assert len(list(Path("/proc/self/fd").iterdir())) == descriptors
    assert owner.processes.spawn(sh("true"), {}).serial == 1


@pytest.mark.parametrize("content", [b"#!/no/such/interpreter\n", b"\x7fELF no"])
def test_a_file_that_cannot_be_executed_says_so_in_its_output(
    owner: Owner, tmp_path: Path, content: bytes
) -> None:
    program = tmp_path / "program"
    program.write_bytes(content)
    program.chmod(0o755)
    owner.processes.spawn(sh("", argv=(str(program),)), {})
    ended = owner.until_ended("web")
    assert ended.code in (126, 127)
    assert str(program).encode() in owner.output(ended, "stderr")


def test_a_process_lies_in_its_leaf_before_its_command_runs(owner: Owner) -> None:
    command = 'grep -c "^$$\\$" ' + str(owner.root / "web" / "cgroup.procs")
    owner.processes.spawn(sh(command), {})
    assert owner.output(owner.until_ended("web")) == b"1\n"


def test_a_process_that_cannot_enter_its_leaf_is_not_left_running(
    owner: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    pids: list[int] = []

    def full(path: str, pid: int) -> None:
        pids.append(pid)
        raise OSError(errno.ENOSPC, "No space left on device", path)

    monkeypatch.setattr(owner.cgroups, "enter", full)
    with pytest.raises(OSError, match="No space"):
        owner.processes.spawn(sh("sleep 1000"), {})
    owner.until(lambda: not Path(f"/proc/{pids[0]}").exists())
    assert owner.processes.list() == []


def test_forget_drops_an_ended_process_and_its_output(owner: Owner) -> None:
    owner.processes.spawn(sh("echo out"), {})
    with pytest.raises(FailedPrecondition, match="has not ended"):
        owner.processes.forget("web")
    ended = owner.until_ended("web")
    owner.processes.forget("web")
    assert owner.processes.list() == []
    assert not (owner.logs / str(ended.serial)).exists()
    with pytest.raises(NotFound, match="process web: does not exist"):
        owner.processes.forget("web")


def test_only_the_newest_1024_ended_processes_are_kept(
    owner: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("initd.processes.processes.ENDED_LIMIT", 3)
    for number in range(5):
        owner.processes.spawn(sh("true", f"p{number}"), {})
        owner.until_ended(f"p{number}")
    assert [process.id for process in owner.processes.list()] == ["p2", "p3", "p4"]


def test_closed_it_starts_nothing(owner: Owner) -> None:
    owner.processes.close()
    with pytest.raises(Unavailable, match="going down"):
        owner.processes.spawn(sh("true"), {})


def test_readers_of_the_output_see_that_no_more_will_come(owner: Owner) -> None:
    owner.processes.spawn(sh("echo out; read line <&0; exec sleep 1000"), {})
    process = owner.process("web")
    index = os.open(index_path(owner.logs / str(process.serial) / "stdout"), os.O_RDONLY)
    try:
        assert not read_header(index).closed
        owner.processes.stop("web", 0)
        owner.until_ended("web")
        assert read_header(index).closed
    finally:
        os.close(index)


def test_orphans_are_reaped(owner: Owner) -> None:
    prctl.set_child_subreaper()
    owner.processes.spawn(sh("(sh -c 'sleep 0.05' &) ; sleep 0.2"), {})
    owner.until_ended("web")
    owner.until(lambda: not Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text())


def test_200_processes_run_at_once(owner: Owner) -> None:
    for number in range(200):
        owner.processes.spawn(sh(f"echo {number}", f"p{number}"), {})
    owner.until(lambda: not list(owner.processes.living()))
    outputs = {int(owner.output(process)) for process in owner.processes.list()}
    assert outputs == set(range(200))


def _is_inheritable(fd: int) -> bool:
    try:
        return os.get_inheritable(fd)
    except OSError:
        return True


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_an_open_log_goes_on_in_the_next_run_and_is_closed_when_it_is_finished(
    owner: Owner,
) -> None:
    first = owner.processes.spawn(sh("printf one; echo err >&2", log=Log.OPEN), {})
    index = index_path(owner.logs / "1" / "stdout")
    owner.until_ended("web")
    second = owner.processes.spawn(sh("echo two", log=Log.APPEND), {})
    assert (first.serial, first.log, second.serial, second.log) == (1, 1, 2, 1)
    assert not closed(index)
    owner.until_ended("web")
    # A line that had no newline ends where the next run begins.
    assert (owner.logs / "1" / "stdout").read_bytes() == b"one\ntwo\n"
    assert (owner.logs / "1" / "stderr").read_bytes() == b"err\n"
    assert not closed(index)
    owner.processes.finish("web")
    owner.processes.finish("web")
    assert closed(index)
    assert [folder.name for folder in owner.logs.iterdir()] == ["1"]
    # What is closed stays so: another run has a log of its own.
    third = owner.processes.spawn(sh("echo three", log=Log.APPEND), {})
    owner.until_ended("web")
    assert third.log == 3
    assert [folder.name for folder in owner.logs.iterdir()] == ["3"]
    owner.processes.forget("web")
    assert list(owner.logs.iterdir()) == []


def test_a_run_that_cannot_be_started_leaves_the_open_log_as_it_is(owner: Owner) -> None:
    owner.processes.spawn(sh("echo one", log=Log.OPEN), {})
    owner.until_ended("web")
    # What tests before this one have left goes now, and not while it counts.
    gc.collect()
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    (owner.root / "taken").mkdir()
    for _ in range(3):
        with pytest.raises(NotFound):
            owner.processes.spawn(sh("true", cwd="/no/such", log=Log.APPEND), {})
        with pytest.raises(AlreadyExists):
            owner.processes.spawn(sh("true", cgroup="taken", log=Log.APPEND), {})
    (owner.root / "taken").rmdir()
    assert len(list(Path("/proc/self/fd").iterdir())) == descriptors
    owner.processes.spawn(sh("echo two", log=Log.APPEND), {})
    owner.until_ended("web")
    assert (owner.logs / "1" / "stdout").read_bytes() == b"one\ntwo\n"


def test_only_what_has_ended_can_be_finished(owner: Owner) -> None:
    owner.processes.spawn(sh("exec sleep 1000", log=Log.OPEN), {})
    with pytest.raises(FailedPrecondition):
        owner.processes.finish("web")
    with pytest.raises(NotFound):
        owner.processes.finish("nobody")


def test_each_change_of_a_process_has_a_higher_revision(owner: Owner) -> None:
    owner.processes.spawn(sh("exec sleep 1000"), {})
    owner.processes.stop("web", 5)
    owner.until_ended("web")
    assert [process.revision for process in owner.events] == [0, 1, 2]


def closed(index: Path) -> bool:
    file = os.open(index, os.O_RDONLY)
    try:
        return read_header(file).closed
    finally:
        os.close(file)
