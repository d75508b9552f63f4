"""`aer` as a program of its own: signals, pipes, what it imports, completion in a real shell."""

import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from aurae.observe.v0 import observe_pb2 as observe

from .conftest import Node

AER = (sys.executable, "-m", "aer")
ROOT = Path(__file__).parents[3]


def endless(node: Node) -> threading.Event:
    """Lines without end; the event says that the reader has gone."""
    gone = threading.Event()

    def stream(_: object, context: object) -> object:
        context.add_callback(gone.set)  # type: ignore[attr-defined]
        while not gone.is_set():
            yield observe.GetSubProcessStreamResponse(
                item=observe.LogItem(channel="stdout", line="x" * 100)
            )

    node.answers["GetSubProcessStream"] = stream
    return gone


def test_ctrl_c_ends_a_stream_quietly(home: Path, node: Node) -> None:
    gone = endless(node)
    with subprocess.Popen(
        ["env", "--default-signal=INT", *AER, "logs", "web/x", "-f"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
    ) as program:
        assert program.stdout
        assert program.stderr
        assert program.stdout.read(100) == b"x" * 100
        program.send_signal(signal.SIGINT)
        program.stdout.read()
        assert program.stderr.read() == b""
    assert program.returncode == 130
    assert gone.wait(20)


def test_a_reader_that_goes_ends_it_quietly(home: Path, node: Node) -> None:
    gone = endless(node)
    with subprocess.Popen(
        [*AER, "logs", "web/x", "-f"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT
    ) as program:
        assert program.stdout
        assert program.stderr
        assert program.stdout.read(100) == b"x" * 100
        program.stdout.close()
        assert program.stderr.read() == b""
    assert program.returncode == 141
    assert gone.wait(20)


def test_a_full_disk_is_a_failure(home: Path) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*AER, "version"], stdout=full, stderr=subprocess.PIPE, text=True, check=False, cwd=ROOT
        )
    assert done.returncode == 1
    assert "No space left on device" in done.stderr


@pytest.mark.parametrize(
    "words", [["--help"], ["cell", "--help"], ["version"], ["completion", "bash"], ["bogus"]]
)
def test_what_asks_no_node_does_not_load_grpc(words: list[str]) -> None:
    code = f"import sys; from aer.__main__ import main\ntry: main({words})\nexcept SystemExit: pass"
    code += "\nprint(*sys.modules, file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    heavy = {"grpc", "google.protobuf", "cryptography", "asyncio", "yaml"}
    assert not heavy & set(done.stderr.split())


def test_pki_does_not_load_grpc(tmp_path: Path) -> None:
    words = ["pki", "init", "--trust-domain", "x", "--dir", str(tmp_path / "pki")]
    code = f"import sys; from aer.__main__ import main; main({words}); print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert not {"grpc", "google.protobuf"} & set(done.stdout.split())


def completed(line: str) -> set[str]:
    """What bash offers at the end of `line`."""
    script = subprocess.run(
        [*AER, "completion", "bash"], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout
    words = line.split(" ")
    asked = f"""
    {script}
    COMP_WORDS=({" ".join(repr(word) for word in words)})
    COMP_CWORD={len(words) - 1}
    _shtab_aer
    printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(["bash", "-c", asked], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return set(done.stdout.split())


@pytest.mark.parametrize(
    ("line", "offers"),
    [
        ("aer ", {"cell", "logs", "pki", "health"}),
        ("aer cell ", {"allocate", "free", "start", "stop", "list", "wait"}),
        ("aer pki issue ", {"node", "person"}),
        ("aer cell allocate web --memory-m", {"--memory-max", "--memory-min"}),
        ("aer cell list --out", {"--output"}),
        ("aer cell list --output ", {"table", "json", "yaml"}),
        ("aer node ", {"poweroff", "reboot", "halt", "kexec", "reload-daemon"}),
    ],
)
def test_bash_completes(line: str, offers: set[str]) -> None:
    assert offers <= completed(line)


def test_zsh_gets_a_script() -> None:
    done = subprocess.run(
        [*AER, "completion", "zsh"], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.startswith("#compdef aer")
    for word in ("allocate", "daemon-log", "--memory-max"):
        assert word in done.stdout


def test_the_version_is_the_projects() -> None:
    done = subprocess.run([*AER, "--version"], capture_output=True, text=True, cwd=ROOT, check=True)
    again = subprocess.run([*AER, "version"], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout == again.stdout
    assert done.stdout.startswith("aer ")
