"""The API as a whole: health, reflection, discovery, limits, drain."""

import os
import signal
import stat
from pathlib import Path
from typing import Any, Final, TypeAlias

import grpc
import pytest
from aurae.audit.v0 import audit_pb2
from aurae.auth.v0 import auth_pb2
from aurae.cells.v0 import cells_pb2
from aurae.discovery.v0 import discovery_pb2
from aurae.identity.v0 import identity_pb2
from aurae.node.v0 import config_pb2, install_pb2, node_pb2, upgrade_pb2
from aurae.observe.v0 import observe_pb2
from google.protobuf.duration_pb2 import Duration
from grpc import StatusCode
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from runtime.server.border import ALWAYS, LOOKING, UNLIMITED
from runtime.server.services import NAMES
from runtime.server.settings import Settings
from tests.unit.runtime import node as nodes
from tests.unit.runtime.node import DEADLINE, Node

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
Raw: TypeAlias = "grpc.UnaryUnaryMultiCallable[bytes, bytes]"
RawStream: TypeAlias = "grpc.StreamStreamMultiCallable[bytes, bytes]"
PROTOS = (
    audit_pb2,
    auth_pb2,
    cells_pb2,
    config_pb2,
    discovery_pb2,
    identity_pb2,
    install_pb2,
    node_pb2,
    upgrade_pb2,
    observe_pb2,
)


HEALTH: Final = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name


def methods(descriptor: Any) -> set[str]:
    return {
        f"/{service.full_name}/{method.name}"
        for service in descriptor.services_by_name.values()
        for method in service.methods
    }


def test_the_first_calls_wait_until_pid_1_has_answered(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("early")
    with nodes.owner(folder) as owner:
        owner.send_signal(signal.SIGSTOP)
        with nodes.program("api", folder, "127.0.0.1:0", log=folder / "api.log"):
            try:
                nodes.appears(folder / "aurae.sock")
                with nodes.client(folder) as there:
                    check = health_pb2.HealthCheckRequest()
                    health = there.health.Check(check, timeout=DEADLINE, wait_for_ready=True)
                    assert health.status == SERVING
                    request = cells_pb2.CellServiceListRequest()
                    asked = there.cells.List.future(request, timeout=DEADLINE)
                    with pytest.raises(grpc.FutureTimeoutError):
                        asked.result(timeout=0.5)
                    owner.send_signal(signal.SIGCONT)
                    assert not asked.result(timeout=DEADLINE).cells
            finally:
                owner.send_signal(signal.SIGCONT)


def test_the_table_has_every_service_of_the_protos_and_no_other() -> None:
    described = {
        service.full_name
        for proto in PROTOS
        for service in proto.DESCRIPTOR.services_by_name.values()
    }
    assert sorted({*described, HEALTH}) == list(NAMES)


def test_the_tables_of_the_border_name_methods_that_exist() -> None:
    known = set().union(*(methods(p.DESCRIPTOR) for p in (*PROTOS, health_pb2, reflection_pb2)))
    assert known >= UNLIMITED | ALWAYS | LOOKING


def test_health_is_told_for_each_service_and_the_node(node: Node) -> None:
    for service in ("", *NAMES):
        request = health_pb2.HealthCheckRequest(service=service)
        assert node.health.Check(request, timeout=DEADLINE).status == SERVING
    listed = node.health.List(health_pb2.HealthListRequest(), timeout=DEADLINE)
    assert set(listed.statuses) == {"", *NAMES}
    with pytest.raises(grpc.RpcError) as caught:
        node.health.Check(health_pb2.HealthCheckRequest(service="none"), timeout=DEADLINE)
    assert caught.value.code() is StatusCode.NOT_FOUND


def test_discovery_tells_version_and_health(node: Node) -> None:
    answer = node.discovery.Discover(discovery_pb2.DiscoverRequest(), timeout=DEADLINE)
    assert (answer.healthy, answer.version) == (True, "1.2.3")


def test_reflection_lists_every_service(node: Node) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(node.channel)
    asked = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
    (answer,) = stub.ServerReflectionInfo(asked, timeout=DEADLINE)
    listed = {service.name for service in answer.list_services_response.service}
    assert listed > {*NAMES, "grpc.health.v1.Health"}


def test_anybody_may_connect_to_the_unix_socket_and_nobody_to_grpcs_own(node: Node) -> None:
    shared = node.folder / "aurae.sock"
    assert shared.readlink() == Path("shared/aurae.sock")
    assert stat.S_ISSOCK(shared.stat().st_mode)
    assert stat.S_IMODE(shared.stat().st_mode) == 0o666
    assert stat.S_IMODE((node.folder / "runtime").stat().st_mode) == 0o700
    shared_with_cells = sorted(entry.name for entry in (node.folder / "shared").iterdir())
    assert shared_with_cells == ["aurae.sock", "spiffe.sock"]
    assert (node.folder / "spiffe.sock").readlink() == Path("shared/spiffe.sock")


def test_an_unknown_method_is_unimplemented(node: Node) -> None:
    call: Raw = node.channel.unary_unary("/aurae.cells.v0.CellService/Sell")
    with pytest.raises(grpc.RpcError) as caught:
        call(b"", timeout=DEADLINE)
    assert caught.value.code() is StatusCode.UNIMPLEMENTED


def test_bytes_that_are_no_message_are_refused(node: Node) -> None:
    call: Raw = node.channel.unary_unary("/aurae.cells.v0.CellService/Allocate")
    with pytest.raises(grpc.RpcError) as caught:
        call(b"\xff\xff\xff", timeout=DEADLINE)
    assert caught.value.code() is StatusCode.INVALID_ARGUMENT
    stream: RawStream = node.channel.stream_stream(
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
    )
    with pytest.raises(grpc.RpcError) as caught:
        list(stream(iter([b"\xff\xff\xff"]), timeout=DEADLINE))
    assert caught.value.code() is StatusCode.INVALID_ARGUMENT
    assert node.list() == {}


def test_a_message_of_ten_megabytes_is_refused(node: Node) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        node.allocate("x" * 10_000_000)
    assert caught.value.code() is StatusCode.RESOURCE_EXHAUSTED


def test_shutdown_asks_pid_1(node: Node) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        node.node.Shutdown(node_pb2.ShutdownRequest(), timeout=DEADLINE)
    assert caught.value.code() is StatusCode.INVALID_ARGUMENT
    assert (caught.value.details() or "").startswith("mode:")
    for mode in ("POWEROFF", "REBOOT", "HALT", "KEXEC"):
        request = node_pb2.ShutdownRequest(mode=f"SHUTDOWN_MODE_{mode}")  # type: ignore[arg-type]
        node.node.Shutdown(request, timeout=DEADLINE)
    asked = [request["how"] for request in node.asked() if request["op"] == "shutdown"]
    assert asked == ["poweroff", "reboot", "halt", "kexec"]


def test_reload_daemon_asks_pid_1(node: Node) -> None:
    answer = node.node.ReloadDaemon(node_pb2.ReloadDaemonRequest(), timeout=DEADLINE)
    assert answer.version == "1.2.3"
    assert answer.pause.ToMilliseconds() == 250
    assert [request for request in node.asked() if request["op"] == "reload"]


def test_pid_1_hears_where_the_api_serves(node: Node) -> None:
    (ready,) = [request for request in node.asked() if request["op"] == "ready"]
    assert ready["message"] == f"serving on {node.folder}/aurae.sock"


def test_without_credentials_the_unix_socket_is_served_and_one_line_says_why(node: Node) -> None:
    errors = [line for line in node.log.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "credential aurae.node.crt: is missing" in errors[0]
    assert "aer pki" in errors[0]


def test_a_drain_tells_watchers_ends_what_waits_and_lets_calls_finish(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("drain")
    with nodes.owner(folder), nodes.client(folder) as there:
        with nodes.api(folder) as process:
            command = "trap '' TERM; echo one; while :; do sleep 0.05; done"
            there.start(None, "deaf", command)
            logs = iter(
                there.observe.GetSubProcessStream(
                    observe_pb2.GetSubProcessStreamRequest(executable_name="deaf"), timeout=DEADLINE
                )
            )
            assert next(logs).item.line == "one"
            watch = iter(there.health.Watch(health_pb2.HealthCheckRequest(), timeout=DEADLINE))
            assert next(watch).status == SERVING
            request = cells_pb2.CellServiceWaitRequest(executable_name="deaf")
            wait = there.cells.Wait.future(request, timeout=DEADLINE)
            stop = cells_pb2.CellServiceStopRequest(
                executable_name="deaf", grace=Duration(seconds=600)
            )
            stopping = there.cells.Stop.future(stop, timeout=DEADLINE)
            # Calls of one connection begin in order: when this one is answered, those have begun.
            there.list()
            process.terminate()
            assert process.wait(DEADLINE) == 0
        assert next(watch).status == NOT_SERVING
        for call in (watch, logs):
            with pytest.raises(grpc.RpcError) as caught:
                next(call)
            assert caught.value.code() is StatusCode.UNAVAILABLE
        for future in (wait, stopping):
            error = future.exception()
            assert isinstance(error, grpc.RpcError)
            assert error.code() is StatusCode.UNAVAILABLE
            assert "stopping" in (error.details() or "")
    assert "stopped" in there.log


def test_a_node_that_goes_down_takes_nothing_new_and_tells_what_it_waits_for(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("down")
    with nodes.node(folder) as there:
        (folder / "goes-down").touch()
        there.start(None, "deaf", "echo one; exec sleep 1000")
        watch = iter(there.health.Watch(health_pb2.HealthCheckRequest(), timeout=DEADLINE))
        assert next(watch).status == SERVING
        request = cells_pb2.CellServiceWaitRequest(executable_name="deaf")
        wait = there.cells.Wait.future(request, timeout=DEADLINE)
        there.node.Shutdown(node_pb2.ShutdownRequest(mode=node_pb2.SHUTDOWN_MODE_HALT))
        assert next(watch).status == NOT_SERVING
        for new in (
            lambda: there.allocate("late"),
            lambda: there.start(None, "late", "true"),
            lambda: there.free("late"),
            lambda: there.node.ReloadDaemon(node_pb2.ReloadDaemonRequest(), timeout=DEADLINE),
        ):
            with pytest.raises(grpc.RpcError) as caught:
                new()
            assert caught.value.code() is StatusCode.UNAVAILABLE
            assert caught.value.details() == "node: goes down (halt), it takes nothing new"
        (executable,) = there.list()["_system"].executables
        assert executable.state == cells_pb2.EXECUTABLE_STATE_RUNNING
        logs = there.observe.GetSubProcessStream(
            observe_pb2.GetSubProcessStreamRequest(executable_name="deaf"), timeout=DEADLINE
        )
        assert next(iter(logs)).item.line == "one"
        # Somebody else ends it, as PID 1 does.
        os.kill(executable.pid, signal.SIGTERM)
        assert wait.result().status.signal == signal.SIGTERM
        assert there.health.Check(health_pb2.HealthCheckRequest()).status == NOT_SERVING


@pytest.mark.parametrize(
    ("cmdline", "listen", "log"),
    [
        ("", "[::]:8080", "info"),
        ("quiet aurae.listen=10.0.0.1:99 root=/dev/vda aurae.log=debug\n", "10.0.0.1:99", "debug"),
        ("aurae.listen=a:1 aurae.listen=b:2", "b:2", "info"),
    ],
)
def test_the_kernels_command_line_says_where_to_listen(cmdline: str, listen: str, log: str) -> None:
    settings = Settings.from_cmdline(cmdline)
    assert (settings.listen, settings.log) == (listen, log)
