"""The control socket's messages: values to JSON and back, one border for both of its ends."""

import json
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any, Final

from initd import errors
from initd.linux import capability
from initd.linux.spawn import CHILD_DESCRIPTORS
from initd.processes.model import (
    USERS,
    Confinement,
    Isolation,
    Log,
    Process,
    ServiceReport,
    Spawn,
    State,
    Status,
    StepReport,
)

SOCKET: Final = "/run/aurae/initd.sock"
# What a request may measure; an answer may be a little longer, never twice that.
REQUEST_LIMIT: Final = 128 * 1024
ANSWER_LIMIT: Final = 2 * REQUEST_LIMIT
# The kernel's SCM_MAX_FD.
DESCRIPTOR_LIMIT: Final = 253

Object = dict[str, Any]
# sethostname(2).
HOST_NAME_MAX: Final = 64
# Linux uses the highest number for "no change".
_ID_LIMIT: Final = 2**32 - 1

_ERRORS: Final[Mapping[str, type[errors.AuraedError]]] = {
    kind.__name__: kind for kind in errors.AuraedError.__subclasses__()
}


def encode(message: Mapping[str, Any]) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode()


def decode(data: bytes) -> Object:
    """InvalidArgument when it is no JSON object."""
    try:
        message = json.loads(data)
    except ValueError as error:
        raise errors.InvalidArgument(f"message: not JSON ({error})") from error
    except RecursionError as error:
        raise errors.InvalidArgument("message: nested too deeply") from error
    if not isinstance(message, dict):
        raise errors.InvalidArgument("message: not a JSON object")
    return message


def check_request(data: bytes) -> None:
    """InvalidArgument when it is longer than PID 1 takes."""
    if len(data) > REQUEST_LIMIT:
        raise errors.InvalidArgument(
            f"message: {len(data)} bytes, {REQUEST_LIMIT} is the most: shorten argv or env"
        )


def error_answer(error: Exception) -> Object:
    """The answer that tells of a refusal or of a failure of the system."""
    if isinstance(error, OSError) and error.errno is not None:
        return {"error": {"kind": "OSError", "errno": error.errno, "message": describe(error)}}
    kind = type(error).__name__ if type(error).__name__ in _ERRORS else "AuraedError"
    return {"error": {"kind": kind, "message": str(error) or type(error).__name__}}


def result(answer: Object) -> Object:
    """What was answered; raises the error that was answered instead."""
    if "error" not in answer:
        ok = answer.get("ok")
        return ok if isinstance(ok, dict) else {}
    error = answer["error"]
    message = str(error.get("message", ""))
    if error.get("kind") == "OSError":
        raise OSError(int(error["errno"]), message)
    raise _ERRORS.get(str(error.get("kind")), errors.AuraedError)(message)


def describe(error: OSError) -> str:
    """`/path: fact`, without Python's brackets."""
    fact = error.strerror or str(error)
    return f"{error.filename}: {fact}" if error.filename else fact


def spawn_to_object(spawn: Spawn) -> Object:
    return {
        "id": spawn.id,
        "argv": list(spawn.argv),
        "env": dict(spawn.env),
        "cwd": spawn.cwd,
        "uid": spawn.uid,
        "gid": spawn.gid,
        "cgroup": spawn.cgroup,
        "meta": dict(spawn.meta),
        "log": spawn.log.value,
        "inside": spawn.inside,
        "isolation": None if spawn.isolation is None else spawn.isolation._asdict(),
        "confinement": spawn.confinement._asdict(),
    }


def spawn_from_object(message: Object) -> Spawn:
    """Checked: what comes back can be trusted inside. InvalidArgument names field and rule."""
    isolation = _isolation(message.get("isolation"))
    argv = message.get("argv")
    if not isinstance(argv, list) or not (argv or isolation):
        raise errors.InvalidArgument("argv: must be a list with a command")
    env = message.get("env", {})
    if not isinstance(env, dict):
        raise errors.InvalidArgument("env: must be an object")
    for name, value in env.items():
        if not name or "=" in _text("env", name):
            raise errors.InvalidArgument(f"env {name!r}: a name is not empty and has no '='")
        _text(f"env {name}", value)
    meta = message.get("meta", {})
    if not isinstance(meta, dict):
        raise errors.InvalidArgument("meta: must be an object")
    cwd = _text("cwd", message.get("cwd", "/"))
    if not cwd.startswith("/"):
        raise errors.InvalidArgument(f"cwd {cwd}: must be an absolute path")
    command = tuple(_text("argv", argument) for argument in argv)
    if command and not command[0]:
        raise errors.InvalidArgument("argv: the command must not be empty")
    return Spawn(
        id=identifier(message),
        argv=command,
        env=env,
        cwd=cwd,
        uid=_number("uid", message.get("uid", 0)),
        gid=_number("gid", message.get("gid", 0)),
        cgroup=_cgroup(message.get("cgroup")),
        meta=meta,
        log=_log(message.get("log", Log.OWN.value)),
        inside=_text("inside", message.get("inside", "")),
        isolation=isolation,
        confinement=_confinement(message.get("confinement", {})),
    )


def _isolation(value: object) -> Isolation | None:
    if value is None:
        return None
    given = _fields("isolation", value, Isolation._fields)
    hostname = _text("isolation.hostname", given.pop("hostname", ""))
    if not 0 < len(hostname) <= HOST_NAME_MAX:
        raise errors.InvalidArgument(f"isolation.hostname: must have 1 to {HOST_NAME_MAX} bytes")
    cgroup = _cgroup(given.pop("cgroup", None))
    users = _number("isolation.users", given.pop("users", 0))
    if users and users + USERS >= _ID_LIMIT:
        raise errors.InvalidArgument(f"isolation.users {users}: {USERS} IDs must follow it")
    flags = {name: _flag(f"isolation.{name}", flag) for name, flag in given.items()}
    return Isolation(hostname=hostname, cgroup=cgroup, users=users, **flags)


def _confinement(value: object) -> Confinement:
    given = _fields("confinement", value, Confinement._fields)
    kept = given.pop("capabilities", None)
    if kept is not None:
        if not isinstance(kept, list):
            raise errors.InvalidArgument("confinement.capabilities: must be a list or null")
        for name in kept:
            if name not in capability.NAMES:
                raise errors.InvalidArgument(f"confinement.capabilities: {name!r}: unknown")
        kept = tuple(kept)
    flags = {name: _flag(f"confinement.{name}", flag) for name, flag in given.items()}
    return Confinement(capabilities=kept, **flags)


def _fields(where: str, value: object, known: tuple[str, ...]) -> Object:
    """A copy of the object, which has no field that `kind` has not."""
    if not isinstance(value, dict):
        raise errors.InvalidArgument(f"{where}: must be an object")
    if unknown := value.keys() - set(known):
        raise errors.InvalidArgument(f"{where}.{min(unknown)}: unknown")
    return dict(value)


def _flag(where: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise errors.InvalidArgument(f"{where}: must be true or false")
    return value


def identifier(message: Object) -> str:
    """The `id` of a request."""
    value = _text("id", message.get("id", ""))
    if not value:
        raise errors.InvalidArgument("id: must not be empty")
    return value


def descriptors(message: Object, received: int) -> dict[int, int]:
    """`fds`: child descriptor number to index of the received descriptor."""
    fds = message.get("fds", {})
    if not isinstance(fds, dict):
        raise errors.InvalidArgument("fds: must be an object")
    mapping: dict[int, int] = {}
    for child, index in fds.items():
        if not child.isascii() or not child.isdigit() or int(child) >= CHILD_DESCRIPTORS:
            highest = CHILD_DESCRIPTORS - 1
            raise errors.InvalidArgument(f"fds {child}: a descriptor number is 0 to {highest}")
        if type(index) is not int or not 0 <= index < received:
            raise errors.InvalidArgument(f"fds {child}: {received} descriptors came, not {index}")
        mapping[int(child)] = index
    return mapping


def process_to_object(process: Process) -> Object:
    return {
        "serial": process.serial,
        "id": process.id,
        "pid": process.pid,
        "state": process.state.value,
        "started": process.started,
        "ended": process.ended,
        "code": process.code,
        "signal": process.signal,
        "uid": process.uid,
        "gid": process.gid,
        "cgroup": process.cgroup,
        "log": process.log,
        "revision": process.revision,
        "ready": process.ready,
        "status": process.status,
        "meta": dict(process.meta),
        "init": process.init,
        "inside": process.inside,
        "ns_pid": process.ns_pid,
        "error": process.error,
    }


def process_from_object(value: Object) -> Process:
    return Process(**{**value, "state": State(value["state"])})


def status_to_object(status: Status) -> Object:
    return {
        "version": status.version,
        "boot_id": status.boot_id,
        "steps": [
            {"name": step.name, "milliseconds": step.milliseconds, "error": step.error}
            for step in status.steps
        ],
        "services": [
            {
                "name": service.name,
                "pid": service.pid,
                "ready": service.ready,
                "starts": service.starts,
            }
            for service in status.services
        ],
    }


def status_from_object(value: Object) -> Status:
    return Status(
        version=value["version"],
        boot_id=value["boot_id"],
        steps=tuple(StepReport(**step) for step in value["steps"]),
        services=tuple(ServiceReport(**service) for service in value["services"]),
    )


def _text(field: str, value: object) -> str:
    if not isinstance(value, str):
        raise errors.InvalidArgument(f"{field}: must be text")
    if "\0" in value:
        raise errors.InvalidArgument(f"{field}: must not hold a null byte")
    return value


def _number(field: str, value: object) -> int:
    if type(value) is not int or not 0 <= value < _ID_LIMIT:
        raise errors.InvalidArgument(f"{field}: must be a number from 0 to {_ID_LIMIT - 1}")
    return value


def _log(value: Any) -> Log:
    try:
        return Log(value)
    except ValueError as error:
        names = ", ".join(log.value for log in Log)
        raise errors.InvalidArgument(f"log: must be one of {names}") from error


def _cgroup(value: object) -> str:
    path = PurePosixPath(_text("cgroup", value))
    if path.is_absolute() or not path.parts or ".." in path.parts:
        raise errors.InvalidArgument(f"cgroup {path}: must be a path below the cgroup root")
    return str(path)
