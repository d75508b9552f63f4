"""A router's network namespace and a node's, joined by veth pairs; needs root.

The node's veth ends count as hardware because its `--sys` folder says so.
"""

import json
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

REPOSITORY: Final = Path(__file__).parents[2]
PATIENCE: Final = 30.0


def run(*command: str) -> str:
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return done.stdout


@dataclass
class Node:
    """The service and what the kernel of its namespace says."""

    folder: Path
    router: str
    name: str
    command_line: str = ""
    process: "subprocess.Popen[bytes] | None" = None
    links: list[str] = field(default_factory=list)

    @property
    def log(self) -> str:
        path = self.folder / "log"
        return path.read_text() if path.exists() else ""

    @property
    def resolv_conf(self) -> str:
        path = self.folder / "run/resolv.conf"
        return path.read_text() if path.exists() else ""

    def ip(self, *arguments: str) -> str:
        return run("ip", "-n", self.name, *arguments)

    def router_ip(self, *arguments: str) -> str:
        return run("ip", "-n", self.router, *arguments)

    def plug(self, link: str) -> None:
        """A new card, with a cable to the router, where it is called `r-LINK`."""
        (self.folder / "sys/class/net" / link / "device").mkdir(parents=True, exist_ok=True)
        peer = f"r-{link}"
        self.router_ip(
            "link", "add", peer, "type", "veth", "peer", "name", link, "netns", self.name
        )
        self.router_ip("link", "set", peer, "up")

    @property
    def status(self) -> dict[str, Any]:
        """What the service says of each link, by name."""
        path = self.folder / "run/network/status.json"
        links = json.loads(path.read_text())["links"] if path.exists() else []
        return {link["name"]: link for link in links}

    def configure(self, text: str) -> None:
        """The document, which is TOML here, as auraed hands it on."""
        run = self.folder / "run"
        run.mkdir(exist_ok=True)
        new = run / ".config.json.new"
        new.write_text(json.dumps({"values": tomllib.loads(text), "origin": {}}))
        new.replace(run / "config.json")

    def start(self) -> None:
        (self.folder / "cmdline").write_text(self.command_line)
        places = (f"--{name}={self.folder / name}" for name in ("cmdline", "run", "sys"))
        options = [part for place in places for part in place.split("=", 1)]
        with (self.folder / "log").open("ab") as log:
            # A UTS namespace of its own: it sets the hostname.
            self.process = subprocess.Popen(
                [
                    *("ip", "netns", "exec", self.name, "unshare", "--uts"),
                    *(sys.executable, "-I", "-m", "initd.network", *options),
                ],
                stderr=log,
                cwd="/",
            )

    def stop(self, *, kill: bool = False) -> None:
        if self.process is None:
            return
        if kill:
            self.process.kill()
        else:
            self.process.terminate()
        code = self.process.wait(10)
        self.process = None
        assert kill or code == 0, self.log

    def wait(self, what: str, true: Callable[[], object], patience: float = PATIENCE) -> None:
        deadline = time.monotonic() + patience
        while not true():
            running = self.process is None or self.process.poll() is None
            if time.monotonic() > deadline or not running:
                state = self.ip("addr") + self.ip("route") + self.resolv_conf
                raise AssertionError(f"waited for {what}\n{self.log}\n{state}")
            time.sleep(0.05)

    def wait_for_line(self, line: str, patience: float = PATIENCE) -> None:
        self.wait(f"the line {line!r}", lambda: line in self.log, patience)


@contextmanager
def node(folder: Path, number: int) -> Iterator[Node]:
    """Removed with all that is in it; nothing may be left."""
    made = Node(folder, f"aurae-r{number}", f"aurae-n{number}")
    with ExitStack() as cleanup:
        for name in (made.router, made.name):
            run("ip", "netns", "add", name)
            cleanup.callback(run, "ip", "netns", "del", name)
            run("ip", "-n", name, "link", "set", "lo", "up")
        cleanup.callback(made.stop, kill=True)
        yield made


@contextmanager
def in_namespace(name: str, command: list[str], log: Path) -> Iterator[None]:
    """A server that runs until the block ends."""
    with log.open("ab") as out:
        whole = ["ip", "netns", "exec", name, *command]
        process = subprocess.Popen(whole, stdout=out, stderr=out, cwd=REPOSITORY)
        try:
            yield
        finally:
            process.terminate()
            process.wait(10)
