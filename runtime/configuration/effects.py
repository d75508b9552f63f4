"""What the runtime changes by a configuration while the node runs: the host name and sysctls.

What was before is noted once, so that a document which is gone leaves nothing behind. The network
service follows `config.json` by itself.
"""

import json
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from initd.configuration.tables import Problem, join
from runtime.durable import put

BEFORE: Final = "config.before.json"
SYSCTLS: Final = Path("/proc/sys")


class Effects:
    def __init__(self, run: Path, sysctls: Path = SYSCTLS) -> None:
        self._path = run / BEFORE
        self._sysctls = sysctls

    def take(self, values: Mapping[str, Any], boot: Mapping[str, Any]) -> list[Problem]:
        """Have them in effect, `boot` being what PID 1 has had; returns what could not be. OSError
        where it cannot be noted what was before."""
        before = self._before()
        problems = list(self._take_sysctls(values, boot, before))
        try:
            self._take_hostname(values, before)
        except OSError as e:
            problems.append(Problem("hostname", f"cannot be set: {e.strerror}"))
        return problems

    def unknown(self, values: Mapping[str, Any]) -> Iterator[Problem]:
        """Settings that this kernel does not have: a module may bring them."""
        for name in values.get("sysctls", {}):
            if not self._path_of(name).is_file():
                yield Problem(join("sysctls", name), "is no setting of this kernel; look at it")

    def _before(self) -> dict[str, Any]:
        try:
            found = json.loads(self._path.read_text())
            return {"hostname": found["hostname"], "sysctls": dict(found["sysctls"])}
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return {"hostname": None, "sysctls": {}}

    def _take_hostname(self, values: Mapping[str, Any], before: dict[str, Any]) -> None:
        now = os.uname().nodename
        wanted = values.get("hostname") or before["hostname"]
        if wanted is None or wanted == now:
            return
        if before["hostname"] is None:
            before["hostname"] = now
            put(self._path, json.dumps(before).encode())
        socket.sethostname(wanted)

    def _take_sysctls(
        self, values: Mapping[str, Any], boot: Mapping[str, Any], before: dict[str, Any]
    ) -> Iterator[Problem]:
        wanted = {name: str(value) for name, value in values.get("sysctls", {}).items()}
        noted = before["sysctls"]
        for name in noted.keys() - wanted.keys():
            yield from self._set(name, noted[name])
        for name, value in wanted.items():
            yield from self._take_sysctl(name, value, before)
        for name in boot.get("sysctls", {}).keys() - wanted.keys() - noted.keys():
            yield Problem(join("sysctls", name), "stays as it is until the next boot")

    def _take_sysctl(self, name: str, value: str, before: dict[str, Any]) -> Iterator[Problem]:
        with suppress(OSError, UnicodeDecodeError):
            now = self._path_of(name).read_text().strip()
            if now.split() == value.split():
                return
            if name not in before["sysctls"]:
                before["sysctls"][name] = now
                put(self._path, json.dumps(before).encode())
        yield from self._set(name, value)

    def _set(self, name: str, value: str) -> Iterator[Problem]:
        path = self._path_of(name)
        try:
            # Never made: where the kernel has no such file, it has no such setting.
            with path.open("r+") as file:
                file.write(value)
        except OSError as e:
            yield Problem(join("sysctls", name), f"cannot be set to {value!a}: {e.strerror}")

    def _path_of(self, name: str) -> Path:
        # Interfaces may have a dot in their name, written as a slash, as sysctl(8) does.
        return self._sysctls / name.replace(".", "\0").replace("/", ".").replace("\0", "/")
