"""The process owner's operations of the control socket."""

from collections.abc import Callable
from typing import Final

from initd.errors import InvalidArgument
from initd.processes import wire
from initd.processes.processes import Processes
from initd.processes.wire import Object

# A page of `list` ends with the process that brings it past this many bytes.
_PAGE: Final = 64 * 1024

# The class has an operation named list.
Descriptors = list[int]
Objects = list[Object]


class ProcessOperations:
    """Each takes the request, its descriptors and the peer's pid."""

    def __init__(self, processes: Processes) -> None:
        self._processes = processes

    def table(self) -> dict[str, Callable[[Object, Descriptors, int], Object]]:
        """Each by its name on the control socket."""
        return {
            "spawn": self.spawn,
            "signal": self.signal,
            "stop": self.stop,
            "list": self.list,
            "finish": self.finish,
            "forget": self.forget,
        }

    def spawn(self, request: Object, fds: Descriptors, _pid: int) -> Object:
        spawn = wire.spawn_from_object(request)
        mapping = wire.descriptors(request, len(fds))
        passed = {child: fds[index] for child, index in mapping.items()}
        return {"process": wire.process_to_object(self._processes.spawn(spawn, passed))}

    def signal(self, request: Object, _fds: Descriptors, _pid: int) -> Object:
        number = request.get("signal")
        if type(number) is not int:
            raise InvalidArgument("signal: must be a number")
        self._processes.signal(wire.identifier(request), number)
        return {}

    def stop(self, request: Object, _fds: Descriptors, _pid: int) -> Object:
        grace = request.get("grace", 0)
        if type(grace) not in (int, float):
            raise InvalidArgument("grace: must be a number of seconds")
        process = self._processes.stop(wire.identifier(request), grace)
        return {"process": wire.process_to_object(process)}

    def list(self, request: Object, _fds: Descriptors, _pid: int) -> Object:
        after = request.get("after", 0)
        if type(after) is not int:
            raise InvalidArgument("after: must be a serial number")
        page: Objects = []
        length = 0
        for process in self._processes.list():
            if process.serial <= after:
                continue
            if length > _PAGE:
                return {"processes": page, "more": True}
            page.append(wire.process_to_object(process))
            length += len(wire.encode(page[-1]))
        return {"processes": page, "more": False}

    def finish(self, request: Object, _fds: Descriptors, _pid: int) -> Object:
        self._processes.finish(wire.identifier(request))
        return {}

    def forget(self, request: Object, _fds: Descriptors, _pid: int) -> Object:
        self._processes.forget(wire.identifier(request))
        return {}
