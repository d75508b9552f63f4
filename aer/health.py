"""`aer health`: is a service of the node serving? By gRPC's own health protocol."""

from typing import Final

from aer import output
from aer.command import Argument, Call, Command
from aer.errors import AerError


def check(call: Call) -> int:
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    from aer.session import session

    request = call.request(health_pb2.HealthCheckRequest())
    with session(call) as node:
        answer = node.unary(health_pb2_grpc.HealthStub(node.channel).Check, request)
    word = _word(answer.status)
    output.show(node.config.output, answer, lambda: [f"{_service(call)}: {word}"])
    return 0 if answer.status == health_pb2.HealthCheckResponse.SERVING else 1


def watch(call: Call) -> int:
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    from aer.session import session

    request = call.request(health_pb2.HealthCheckRequest())
    with session(call) as node:
        stub = health_pb2_grpc.HealthStub(node.channel)
        for answer in node.unbounded(stub.Watch, request):
            if node.config.output == "table":
                print(f"{_service(call)}: {_word(answer.status)}", flush=True)
            else:
                output.show_item(node.config.output, answer)
    # The node ends this stream only by going away.
    raise AerError(f"{node.config.socket}: ended the watch", "is the node going down?")


def list_services(call: Call) -> int:
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    from aer.session import session

    with session(call) as node:
        stub = health_pb2_grpc.HealthStub(node.channel)
        answer = node.unary(stub.List, health_pb2.HealthListRequest())
        rows = sorted((name or "node", _word(one.status)) for name, one in answer.statuses.items())
        output.show(node.config.output, answer, lambda: output.table(("SERVICE", "STATE"), rows))
    return 0


def _service(call: Call) -> str:
    return call["service"] or "node"


def _word(status: int) -> str:
    from grpc_health.v1 import health_pb2

    name: str = health_pb2.HealthCheckResponse.ServingStatus.Name(status)
    return name.lower().replace("_", " ")


_NAME: Final = Argument(
    name="service",
    help="such as aurae.cells.v0.CellService; default: the node as a whole",
    fields=("service",),
    optional=True,
)

COMMANDS: Final = (
    Command(
        words=("health", "check"),
        help="ask once; exit status 0 if it serves, else 1",
        run=check,
        rpc="grpc.health.v1.Health.Check",
        arguments=(_NAME,),
    ),
    Command(
        words=("health", "list"),
        help="list the services and how they are",
        run=list_services,
        rpc="grpc.health.v1.Health.List",
    ),
    Command(
        words=("health", "watch"),
        help="say it now and at every change",
        run=watch,
        rpc="grpc.health.v1.Health.Watch",
        arguments=(_NAME,),
    ),
)
