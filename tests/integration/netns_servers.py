"""Servers in the router's network namespace: DHCP and router advertisements."""

import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.integration.netns import Node, in_namespace


@contextmanager
def dnsmasq(machine: Node, link: str = "r-eth0", net: str = "10.77.0") -> Iterator[None]:
    """DHCP and router advertisements, by a real server."""
    found = shutil.which("dnsmasq", path=f"{os.environ['PATH']}:/usr/sbin")
    if not found:
        pytest.skip("needs dnsmasq")
    machine.router_ip("addr", "add", f"{net}.1/24", "dev", link)
    machine.router_ip("addr", "add", "fd77::1/64", "dev", link, "nodad")
    options = [
        *("--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--bind-interfaces"),
        *(f"--interface={link}", f"--dhcp-leasefile={machine.folder}/leases", "--no-ping"),
        *(f"--dhcp-range={net}.50,{net}.99,255.255.255.0,2m", "--dhcp-range=fd77::,ra-only"),
        *("--enable-ra", f"--dhcp-option=option:dns-server,{net}.1", "--dhcp-option=26,1400"),
        *("--dhcp-option=option6:dns-server,[fd77::53]", "--dhcp-authoritative"),
        "--dhcp-option=option:domain-search,a.example,b.example",
        "--dhcp-option=option6:domain-search,six.example",
        f"--dhcp-option=121,0.0.0.0/0,{net}.1,192.168.9.0/24,{net}.3",
    ]
    log = machine.folder / "dnsmasq.log"
    with in_namespace(machine.router, [found, *options, f"--log-facility={log}.1"], log):
        yield


@contextmanager
def own_server(
    machine: Node, seconds: int, link: str = "r-eth0", net: str = "10.78.0"
) -> Iterator[Path]:
    """Our own, for leases shorter than real servers give. Yields its folder."""
    folder = machine.folder / f"dhcp-{link}"
    folder.mkdir(exist_ok=True)
    machine.router_ip("addr", "replace", f"{net}.1/24", "dev", link)
    behave(folder, seconds=seconds, address=f"{net}.50")
    program = str(Path(__file__).with_name("dhcp_server.py"))
    command = [sys.executable, program, link, str(folder), f"{net}.1"]
    with in_namespace(machine.router, command, folder / "log"):
        machine.wait("the DHCP server", (folder / "ready").exists)
        yield folder


def behave(
    folder: Path, *, seconds: int = 600, answer: str = "ack", address: str = "10.78.0.50"
) -> None:
    new = folder / "behaviour.new"
    new.write_text(json.dumps({"seconds": seconds, "answer": answer, "address": address}))
    new.replace(folder / "behaviour")


def heard(folder: Path) -> list[str]:
    path = folder / "heard"
    return path.read_text().splitlines() if path.exists() else []
