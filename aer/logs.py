"""`aer logs`: the output of an executable, by its shortest name."""

from typing import Final

from aer import observe, parse
from aer.command import Argument, Call, Command


def logs(call: Call) -> int:
    from aurae.observe.v0 import observe_pb2

    request = call.request(observe_pb2.GetSubProcessStreamRequest())
    request.no_follow = not call["follow"]
    return observe.follow(call, request)


COMMANDS: Final = (
    Command(
        words=("logs",),
        help="show the output of an executable",
        text="What is kept of it, from the first line on. Its stdout goes to stdout and its "
        "stderr to stderr.",
        run=logs,
        rpc="aurae.observe.v0.ObserveService.GetSubProcessStream",
        fixed={"batch": "as in observe subprocess", "no_follow": "unless --follow is given"},
        arguments=(
            Argument(
                name="executable",
                help="CELL/EXECUTABLE, or EXECUTABLE alone in the system's own cell",
                fields=("cell_name", "executable_name"),
                parse=parse.executable,
            ),
            Argument(
                name="--follow",
                short="-f",
                help="wait for more, until the executable has ended",
                switch=True,
            ),
            observe.CHANNEL,
            observe.TIMESTAMPS,
        ),
    ),
)
