"""The API for callers with certificates: over TCP, and on a Unix socket that anybody may open.

It is a gRPC server of its own, since one opens no further ports once it serves, and a node may come
to have an identity later. Each connection is made with what the node is known by at that moment.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Final

import grpc
from grpc import aio

from runtime.server.callers import Callers
from runtime.server.relay import Find, Relay, share
from runtime.server.settings import Settings
from runtime.trust.material import Material, Unusable
from runtime.trust.trust import Trust

log = logging.getLogger(__name__)

# Seconds until another try where the port is taken.
AGAIN: Final = 5.0


class Secure:
    """`make` makes a server with all services."""

    def __init__(
        self,
        settings: Settings,
        trust: Trust,
        make: Callable[[], aio.Server],
        callers: Callers,
        find: Find,
    ) -> None:
        self.port: int | None = None
        """None: nothing listens, or not on TCP."""
        self._settings = settings
        self._trust = trust
        self._make = make
        self._callers = callers
        self._find = find
        self._server: aio.Server | None = None
        self._relay: Relay | None = None
        self._said = ""
        self._changed = asyncio.Event()
        trust.listen(lambda _: self._changed.set())

    @property
    def where(self) -> str:
        """Where it listens and as whom; nothing if it does not."""
        material = self._trust.current
        if self.port is None or material is None:
            return ""
        host = self._settings.listen.rpartition(":")[0]
        return f"{host}:{self.port} as {material.identity}"

    async def open(self) -> bool:
        """Whether it listens. Why it does not is logged once."""
        material = self._trust.current
        if self._server is not None or material is None:
            return self._server is not None
        server = self._make()
        try:
            port = self._listen(server, material)
        except RuntimeError:
            await server.stop(None)
            await self._complain(material)
            return False
        await server.start()
        self._server, self.port = server, port
        self._relay = Relay(
            share(self._settings.shared, self._settings.tls_socket),
            self._settings.internal_tls,
            self._callers,
            self._find,
        )
        self._relay.__enter__()
        return True

    async def keep(self) -> None:
        """Open it as soon as the node has an identity and the port is free."""
        while self._server is None:
            self._changed.clear()
            if self._trust.current is None:
                await self._changed.wait()
            else:
                await asyncio.sleep(AGAIN)
            if await self.open() and self.where:
                log.info("serving on %s", self.where)

    def drop(self, cell: str) -> None:
        """End what the processes of a cell have opened."""
        if self._relay is not None:
            self._relay.drop(cell)

    async def close(self, seconds: float) -> None:
        """Once the calls are done: let the last answers leave, then cut the connections."""
        if self._server is None or self._relay is None:
            return
        await self._server.stop(seconds)
        await self._relay.drain(seconds)
        self._relay.__exit__(None, None, None)

    def _listen(self, server: aio.Server, material: Material) -> int | None:
        """Raises RuntimeError: gRPC does not say why."""
        server.add_secure_port(f"unix:{self._settings.internal_tls}", self._credentials(material))
        if self._settings.credentials is None and not self._settings.spiffe:
            return None
        return server.add_secure_port(self._settings.listen, self._credentials(material))

    def _credentials(self, material: Material) -> grpc.ServerCredentials:
        """For one port: gRPC remembers for each what it was told last."""
        told = material

        def fetch() -> Any:
            # Called by threads of gRPC, one at a time, before each handshake. None: no change.
            nonlocal told
            current = self._trust.current
            if current is None or current is told:
                return None
            told = current
            return _configuration(current)

        return grpc.dynamic_ssl_server_credentials(_configuration(material), fetch, True)

    async def _complain(self, material: Material) -> None:
        why = await asyncio.to_thread(_fault, material) or (
            f"cannot listen on {self._settings.listen}: free the port, or set aurae.listen="
        )
        if why != self._said:
            self._said = why
            log.error("%s. Until then the API is on the Unix socket only", why)


def _configuration(material: Material) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration(
        [(material.key, material.certificate)], root_certificates=material.roots
    )


def _fault(material: Material) -> str:
    """What is wrong with it, in words."""
    from runtime.trust import usable

    try:
        usable.verify(material)
    except Unusable as e:
        return str(e)
    return ""
