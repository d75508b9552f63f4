"""Each command against a real server: the request that arrives, what is printed, how it exits."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from aurae.cells.v0 import cells_pb2
from aurae.discovery.v0 import discovery_pb2 as discovery
from aurae.node.v0 import node_pb2 as node_v0
from aurae.observe.v0 import observe_pb2
from google.protobuf.text_format import Parse
from grpc_health.v1 import health_pb2

from aer.cli import parse

from .conftest import Node, Result

Aer = Callable[..., Result]

# A message takes a dict where its type declares a message only.
cells: Any = cells_pb2
observe: Any = observe_pb2
node_pb2: Any = node_v0

REQUESTS = [
    (
        "cell allocate web",
        cells.CellServiceAllocateRequest,
        'cell { name: "web" }',
    ),
    (
        """cell allocate web/api --cpu-weight 100 --cpu-max 50000 --cpu-period 100000
        --cpuset-cpus 0-1 --cpuset-mems 0 --memory-min 0 --memory-low 4K --memory-high 2g
        --memory-max 64M --isolate-process --isolate-network""",
        cells.CellServiceAllocateRequest,
        """cell {
            name: "web/api"
            cpu { weight: 100 max: 50000 period: 100000 }
            cpuset { cpus: "0-1" mems: "0" }
            memory { min: 0 low: 4096 high: 2147483648 max: 67108864 }
            isolate_process: true isolate_network: true
        }""",
    ),
    (
        "cell allocate web --memory-max -1",
        cells.CellServiceAllocateRequest,
        'cell { name: "web" memory { max: -1 } }',
    ),
    ("cell free web", cells.CellServiceFreeRequest, 'cell_name: "web"'),
    (
        "cell free web --grace 1.5s",
        cells.CellServiceFreeRequest,
        'cell_name: "web" grace { seconds: 1 nanos: 500000000 }',
    ),
    (
        "cell start web sleeper sleep",
        cells.CellServiceStartRequest,
        'cell_name: "web" executable { name: "sleeper" command: "sleep" }',
    ),
    (
        "cell start _system sleeper sleep --uid 0",
        cells.CellServiceStartRequest,
        'executable { name: "sleeper" command: "sleep" } uid: 0',
    ),
    (
        """cell start web x run --uid 1000 --gid 100 --env A=1 --env B=x=y --cwd /tmp
        --description said -- one --two -- three""",
        cells.CellServiceStartRequest,
        """cell_name: "web" uid: 1000 gid: 100
        executable {
            name: "x" command: "run" description: "said" working_directory: "/tmp"
            args: "one" args: "--two" args: "--" args: "three"
            environment { key: "A" value: "1" } environment { key: "B" value: "x=y" }
        }""",
    ),
    (
        "cell stop web sleeper --grace 0",
        cells.CellServiceStopRequest,
        'cell_name: "web" executable_name: "sleeper" grace {}',
    ),
    (
        "cell stop _system sleeper",
        cells.CellServiceStopRequest,
        'executable_name: "sleeper"',
    ),
    ("cell list", cells.CellServiceListRequest, ""),
    (
        "cell wait web/api sleeper",
        cells.CellServiceWaitRequest,
        'cell_name: "web/api" executable_name: "sleeper"',
    ),
    (
        "cell wait web sleeper --ready",
        cells.CellServiceWaitRequest,
        'cell_name: "web" executable_name: "sleeper" ready: true',
    ),
    ("cell events", cells.CellServiceWatchRequest, ""),
    (
        """cell start web server httpd --restart on_failure --backoff 500ms --max-backoff 1m
        --restart-limit 5 --restart-window 1h --after db/db --after migrate --ready listen
        --listen 8080 --ready-timeout 30s""",
        cells.CellServiceStartRequest,
        """cell_name: "web" executable {
            name: "server" command: "httpd"
            restart {
                mode: RESTART_MODE_ON_FAILURE backoff { nanos: 500000000 }
                max_backoff { seconds: 60 } limit: 5 window { seconds: 3600 }
            }
            after: "db/db" after: "migrate"
            readiness {
                kind: READINESS_KIND_LISTEN listen: "8080" timeout { seconds: 30 }
            }
        }""",
    ),
    (
        "observe daemon-log --no-follow",
        observe.GetAuraeDaemonLogStreamRequest,
        "no_follow: true",
    ),
    (
        "observe subprocess web/api/sleeper --channel stderr",
        observe.GetSubProcessStreamRequest,
        """cell_name: "web/api" executable_name: "sleeper" batch: true
        channel_type: LOG_CHANNEL_TYPE_STDERR""",
    ),
    (
        "observe subprocess --pid 812 --no-follow",
        observe.GetSubProcessStreamRequest,
        "process_id: 812 no_follow: true batch: true",
    ),
    (
        "observe signals web",
        observe.GetPosixSignalsStreamRequest,
        'workload { id: "web" workload_type: WORKLOAD_TYPE_CELL }',
    ),
    (
        "observe signals web --type pod_sandbox",
        observe.GetPosixSignalsStreamRequest,
        'workload { id: "web" workload_type: WORKLOAD_TYPE_POD_SANDBOX }',
    ),
    (
        "logs web/sleeper",
        observe.GetSubProcessStreamRequest,
        'cell_name: "web" executable_name: "sleeper" batch: true no_follow: true',
    ),
    (
        "logs sleeper -f",
        observe.GetSubProcessStreamRequest,
        'executable_name: "sleeper" batch: true',
    ),
    (
        "cell stop _self sleeper",
        cells.CellServiceStopRequest,
        'executable_name: "sleeper"',
    ),
    (
        "logs _system/sleeper -f",
        observe.GetSubProcessStreamRequest,
        'executable_name: "sleeper" batch: true',
    ),
    (
        "cell allocate t --isolate-process --pids-max 9 --io-weight 7 --io-max 8:0,rbps=1M,wiops=3",
        cells.CellServiceAllocateRequest,
        """cell { name: "t" isolate_process: true pids { max: 9 }
        io { weight: 7 max { device: "8:0" rbps: 1048576 wiops: 3 } } }""",
    ),
    (
        "cell allocate t --profile restricted --isolate-network",
        cells.CellServiceAllocateRequest,
        """cell { name: "t" isolate_network: true
        security { profile: SECURITY_PROFILE_RESTRICTED } }""",
    ),
    (
        "cell allocate t --no-new-privileges --keep-capability CAP_KILL --seccomp default",
        cells.CellServiceAllocateRequest,
        """cell { name: "t" security { no_new_privileges: true
        keep_capabilities: "CAP_KILL" seccomp: SECCOMP_PROFILE_DEFAULT } }""",
    ),
    ("discovery discover", discovery.DiscoverRequest, ""),
    ("health check", health_pb2.HealthCheckRequest, ""),
    (
        "health check aurae.cells.v0.CellService",
        health_pb2.HealthCheckRequest,
        'service: "aurae.cells.v0.CellService"',
    ),
    ("node reboot --no-wait", node_pb2.ShutdownRequest, "mode: SHUTDOWN_MODE_REBOOT"),
    ("node kexec --no-wait", node_pb2.ShutdownRequest, "mode: SHUTDOWN_MODE_KEXEC"),
    ("node reload-daemon", node_pb2.ReloadDaemonRequest, ""),
]

ANSWERS: dict[str, Any] = {
    "Allocate": cells.CellServiceAllocateResponse(cell_name="web", cgroup_v2=True),
    "Free": cells.CellServiceFreeResponse(),
    "Start": cells.CellServiceStartResponse(pid=812, uid=1000, gid=100),
    "Stop": cells.CellServiceStopResponse(),
    "List": cells.CellServiceListResponse(),
    "Wait": cells.CellServiceWaitResponse(status={"exit_code": 3, "pid": 812}),
    "Watch": [],
    "GetAuraeDaemonLogStream": [],
    "GetSubProcessStream": [],
    "GetPosixSignalsStream": [],
    "Discover": discovery.DiscoverResponse(healthy=True, version="1.2.3"),
    "Check": health_pb2.HealthCheckResponse(status="SERVING"),
    "Shutdown": node_pb2.ShutdownResponse(),
    "ReloadDaemon": node_pb2.ReloadDaemonResponse(version="1.2.3", pause={"nanos": 123_400_000}),
}


@pytest.fixture(autouse=True)
def _answers(node: Node) -> None:
    for name, answer in ANSWERS.items():
        node.answers[name] = lambda *_, answer=answer: (
            iter(answer) if isinstance(answer, list) else answer
        )


@pytest.mark.parametrize(("words", "kind", "text"), REQUESTS, ids=[r[0][:40] for r in REQUESTS])
def test_a_command_line_becomes_a_request(
    aer: Aer, node: Node, words: str, kind: type, text: str
) -> None:
    done = aer(*words.split())
    assert done.err == ""
    assert done.status == 0
    assert node.requests == [Parse(text, kind())]


def test_a_limit_that_is_not_given_is_absent_and_zero_is_a_value(aer: Aer, node: Node) -> None:
    aer("cell", "allocate", "web", "--memory-min", "0")
    (request,) = node.requests
    assert request.cell.memory.HasField("min")
    assert not request.cell.memory.HasField("max")
    assert not request.cell.HasField("cpu")


SAID = [
    ("cell allocate web", "web: allocated"),
    ("cell free web", "web: freed"),
    ("cell start web sleeper x", "web/sleeper: started, pid 812, uid 1000, gid 100"),
    ("cell start _system sleeper x", "_system/sleeper: started, pid 812, uid 1000, gid 100"),
    ("cell stop web sleeper", "web/sleeper: stopped"),
    ("cell wait web sleeper", "web/sleeper: ended with exit code 3"),
    ("cell list", "no cells"),
    ("health check", "node: serving"),
    ("health check x.Y", "x.Y: serving"),
]


@pytest.mark.parametrize(("words", "line"), SAID)
def test_a_person_reads_one_line(aer: Aer, words: str, line: str) -> None:
    assert aer(*words.split()).out == line + "\n"


def test_discover_and_reload_name_the_node(aer: Aer, node: Node) -> None:
    assert aer("discovery", "discover").out == f"{node.address}: auraed 1.2.3, healthy\n"
    said = f"{node.address}: PID 1 is auraed 1.2.3 now, 123 ms without it\n"
    assert aer("node", "reload-daemon").out == said


def test_a_node_that_goes_down_is_asked_what_it_waits_for(
    aer: Aer, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aer.node._LOOK", 0.0)
    running = {"executable": {"name": "x"}, "pid": 812, "state": "EXECUTABLE_STATE_STOPPING"}
    ended = {**running, "state": "EXECUTABLE_STATE_ENDED"}
    cell = {"cell": {"name": "web"}, "executables": [running, {**ended, "pid": 5}]}
    child = {"cell": {"name": "web/api"}, "executables": [running]}
    lists: list[Any] = [
        {"cells": [{**cell, "children": [child]}]},
        {"cells": [cell]},
        {"cells": [cell]},
        {"cells": [{**cell, "executables": [ended]}]},
    ]

    def answer(_request: Any, context: grpc.ServicerContext) -> cells.CellServiceListResponse:
        if not lists:
            context.abort(grpc.StatusCode.UNAVAILABLE, "the API is stopping")
        return cells.CellServiceListResponse(**lists.pop(0))

    node.answers["List"] = answer
    done = aer("node", "halt")
    assert (done.status, done.err) == (0, "")
    assert done.out.splitlines() == [
        f"{node.address}: goes down (halt)",
        f"{node.address}: waits for web/x, web/api/x",
        f"{node.address}: waits for web/x",
        f"{node.address}: waits for its services",
    ]


def test_a_program_reads_the_protos_field_names(aer: Aer) -> None:
    wanted = {"pid": 812, "uid": 1000, "gid": 100, "ns_pid": 0}
    words = ("cell", "start", "web", "sleeper", "x")
    assert json.loads(aer(*words, "-o", "json").out) == wanted
    assert json.loads(aer("--output", "json", *words).out) == wanted
    assert yaml.safe_load(aer(*words, "--output=yaml").out) == wanted


def test_a_program_reads_zeros_but_nothing_that_is_absent(aer: Aer, node: Node) -> None:
    node.answers["Wait"] = lambda *_: cells.CellServiceWaitResponse(status={"exit_code": 0})
    status = json.loads(aer("cell", "wait", "web", "x", "-o", "json").out)["status"]
    assert status["exit_code"] == 0
    assert status["pid"] == 0
    assert "signal" not in status


@pytest.mark.parametrize(
    ("how", "plain", "asked"),
    [({"exit_code": 0}, 0, 0), ({"exit_code": 3}, 0, 3), ({"signal": 9}, 0, 137)],
)
def test_wait_exits_as_the_executable_did_if_asked(
    aer: Aer, node: Node, how: dict[str, int], plain: int, asked: int
) -> None:
    node.answers["Wait"] = lambda *_: cells.CellServiceWaitResponse(status=how)
    assert aer("cell", "wait", "web", "x").status == plain
    assert aer("cell", "wait", "web", "x", "--exit-code").status == asked


def test_wait_names_the_signal(aer: Aer, node: Node) -> None:
    node.answers["Wait"] = lambda *_: cells.CellServiceWaitResponse(status={"signal": 9})
    assert aer("cell", "wait", "web", "x").out == "web/x: killed by SIGKILL\n"


def test_health_that_is_bad_exits_1(aer: Aer, node: Node) -> None:
    node.answers["Check"] = lambda *_: health_pb2.HealthCheckResponse(status="NOT_SERVING")
    done = aer("health", "check")
    assert (done.status, done.out) == (1, "node: not serving\n")


def test_health_list_names_every_service(aer: Aer, node: Node) -> None:
    serving = health_pb2.HealthCheckResponse(status="SERVING")
    node.answers["List"] = lambda *_: health_pb2.HealthListResponse(
        statuses={"": serving, "aurae.cells.v0.CellService": serving}
    )
    assert aer("health", "list").out == (
        "SERVICE                     STATE\n"
        "aurae.cells.v0.CellService  serving\n"
        "node                        serving\n"
    )


def test_health_watch_prints_changes_until_the_node_goes(aer: Aer, node: Node) -> None:
    node.answers["Watch"] = lambda *_: iter(
        health_pb2.HealthCheckResponse(status=status) for status in ("SERVING", "NOT_SERVING")
    )
    done = aer("health", "watch")
    assert done.out == "node: serving\nnode: not serving\n"
    assert done.status == 1


def test_a_unary_call_has_30_seconds_and_the_grace(aer: Aer, node: Node) -> None:
    aer("cell", "list")
    aer("cell", "stop", "web", "x", "--grace", "1m")
    aer("cell", "list", "--timeout", "5s")
    aer("cell", "wait", "web", "x")
    aer("logs", "web/x")
    listed, stopped, quick, waited, read = node.deadlines
    assert listed == pytest.approx(30, abs=2)
    assert stopped == pytest.approx(90, abs=2)
    assert quick == pytest.approx(5, abs=2)
    # grpcio says "no deadline" by a time beyond anybody's patience.
    assert waited is None or waited > 1e6
    assert read is None or read > 1e6


REFUSALS = [
    (grpc.StatusCode.NOT_FOUND, "(aer cell list shows what there is)\n"),
    (grpc.StatusCode.INVALID_ARGUMENT, ""),
    (grpc.StatusCode.ALREADY_EXISTS, ""),
    (grpc.StatusCode.FAILED_PRECONDITION, ""),
    (grpc.StatusCode.UNIMPLEMENTED, ""),
    (grpc.StatusCode.INTERNAL, "(aer observe daemon-log may say more)\n"),
]


@pytest.mark.parametrize(("code", "hint"), REFUSALS, ids=[code.name for code, _ in REFUSALS])
def test_a_refusal_is_the_nodes_message_and_status_1(
    aer: Aer, node: Node, code: grpc.StatusCode, hint: str
) -> None:
    def refuse(_: object, context: grpc.ServicerContext) -> None:
        context.abort(code, "cell web/api: allocate web first")

    node.answers["Allocate"] = refuse
    done = aer("cell", "allocate", "web/api")
    assert (done.status, done.out) == (1, "")
    assert done.err == f"aer: cell web/api: allocate web first\n{hint}"


def test_permission_denied_says_where_to_see_who_one_is(aer: Aer, node: Node) -> None:
    def refuse(_: object, context: grpc.ServicerContext) -> None:
        context.abort(grpc.StatusCode.PERMISSION_DENIED, "spiffe://x/node/y: is no person")

    node.answers["List"] = refuse
    done = aer("cell", "list")
    assert "aer auth whoami says who you are" in done.err


USAGE = [
    ("", "no command given\n(aer --help)"),
    ("bogus", "invalid choice: 'bogus'"),
    ("cell", "required: COMMAND\n(aer cell --help)"),
    ("cell bogus", "invalid choice: 'bogus'"),
    ("cell start web", "required: EXECUTABLE, COMMAND\n(aer cell start --help)"),
    ("cell list extra", "unrecognized arguments: extra"),
    ("cell list -- extra", "takes nothing after --"),
    ("cell allocate web --cpu-weight x", "--cpu-weight: 'x' is no whole number"),
    ("cell allocate web --cpu-weight -1", "--cpu-weight: Value out of range"),
    ("cell allocate web --memory-max 5X", "'5X' is no size"),
    ("cell allocate web --memory-max 9999999999G", "--memory-max: Value out of range"),
    ("cell start web x y --env A", "'A' is no assignment"),
    ("cell stop web x --grace soon", "'soon' is no duration"),
    ("cell list --output xml", "invalid choice: 'xml'"),
    ("cell list --outp json", "unrecognized arguments"),
    ("cell list --timeout never", "--timeout: 'never' is no duration"),
    ("cell list --socket node", "'node' is neither a path (with a /) nor host:port"),
    ("cell list --socket ::1:8080", "in brackets, [::1]:8080"),
    ("node", "required: COMMAND"),
    ("observe subprocess", "give an executable or --pid"),
    ("observe subprocess web/x --pid 5", "give an executable or --pid"),
    ("logs web/", "'web/' names no executable"),
]


@pytest.mark.parametrize(("words", "said"), USAGE)
def test_a_wrong_command_line_exits_2_and_asks_nothing(
    aer: Aer, node: Node, words: str, said: str
) -> None:
    done = aer(*words.split())
    assert (done.status, done.out, node.requests) == (2, "", [])
    assert said in done.err


def test_a_set_is_read_from_a_file_and_each_entry_is_told(
    aer: Aer, node: Node, tmp_path: Path
) -> None:
    file = tmp_path / "set.json"
    file.write_text(
        '{"cells": [{"name": "web"}], "executables": [{"cellName": "web", '
        '"executable": {"name": "e", "command": "true", "after": ["x"]}}]}'
    )
    refusal = {"name": "web/e", "outcome": 3, "code": 3, "error": "executable.after: no"}
    results = [{"name": "web/", "outcome": "APPLY_OUTCOME_UNCHANGED"}, refusal]
    node.answers["Apply"] = lambda *_: cells.CellServiceApplyResponse(results=results)
    done = aer("cell", "apply", str(file))
    assert done.out == "web/: unchanged\nweb/e: refused: executable.after: no\n"
    assert done.status == 1
    text = """cells { name: "web" } executables {
        cell_name: "web" executable { name: "e" command: "true" after: "x" } }"""
    assert node.requests == [Parse(text, cells.CellServiceApplyRequest())]
    file.write_text('{"cells": [{"nam": "web"}]}')
    done = aer("cell", "apply", str(file))
    assert done.status == 2
    assert 'no field named "nam"' in done.err
    assert aer("cell", "apply", str(tmp_path / "none")).status == 2


def test_a_start_waits_for_readiness_if_asked(aer: Aer, node: Node) -> None:
    status = {"pid": 5, "ready": True, "state": "EXECUTABLE_STATE_RUNNING"}
    node.answers["Start"] = lambda *_: cells.CellServiceStartResponse()
    node.answers["Wait"] = lambda *_: cells.CellServiceWaitResponse(status=status)
    done = aer("cell", "start", "web", "e", "x", "--after", "db", "--after", "q", "--wait-ready")
    assert done.out == "web/e: waits for db, q\nweb/e: ready, pid 5\n"
    wanted = cells.CellServiceWaitRequest(cell_name="web", executable_name="e", ready=True)
    assert node.requests[1] == wanted


def test_a_group_of_commands_has_no_say_in_the_settings() -> None:
    assert parse(["node", "config", "show"]).config is None
    assert parse(["node", "config", "show", "--config", "/x"]).config == Path("/x")
    assert parse(["--config", "/x", "node", "config", "show"]).config == Path("/x")
