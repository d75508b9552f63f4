"""The node's identity from a SPIFFE agent, such as SPIRE's, over its Workload API.

SPIFFE_Workload_API, sections 4 and 5. What the agent gives is kept in memory only: after a restart
of the runtime it is asked again.
"""

import asyncio
import base64
import logging
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from typing import TYPE_CHECKING, Final

from runtime import imports
from runtime.identity.spiffe import SCHEME, SpiffeId, parse_trust_domain
from runtime.observe.wakeups import Wakeups
from runtime.trust import material
from runtime.trust.material import Material, Names, Unusable
from runtime.trust.trust import Trust

if TYPE_CHECKING:
    from aurae.spiffe import workload_pb2

log = logging.getLogger(__name__)

# Seconds between two tries: at first, and at most.
PAUSE: Final = (0.1, 5.0)
# Section 5.2: by it the agent knows that no browser was led to it.
HEADER: Final = (("workload.spiffe.io", "true"),)
OPTIONS: Final = (
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_receive_message_length", 4 * 1024 * 1024),
)
_LINE: Final = 64


class Agent:
    """`address` is as SPIFFE_ENDPOINT_SOCKET has it, `unix:/PATH`."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._said = ""

    def read(self) -> Material:
        """Raises Unusable: nothing is known before the agent was asked."""
        raise Unusable(
            f"identity: comes from the SPIFFE agent at {self.address}, asked from now on"
        )

    async def run(self, trust: Trust, _wakeups: Wakeups) -> None:
        """Have `trust` follow the agent. While that is away, what it gave last counts."""
        pause, most = PAUSE
        while True:
            try:
                async with aclosing(self._answers()) as answers:
                    async for answer in answers:
                        pause = PAUSE[0]
                        await self._take(trust, answer)
                why = "it ended the stream"
            except OSError as e:
                why = str(e)
            self._complain(trust, why)
            await asyncio.sleep(pause)
            pause = min(2 * pause, most)

    async def _answers(self) -> AsyncGenerator["workload_pb2.X509SVIDResponse"]:
        """Raises OSError."""
        imports.calling()
        from aurae.spiffe import workload_pb2, workload_pb2_grpc
        from grpc import aio

        # A new channel each time: an old one waits ever longer until it connects again.
        async with aio.insecure_channel(self.address, OPTIONS) as channel:
            stub = workload_pb2_grpc.SpiffeWorkloadAPIStub(channel)
            try:
                async for answer in stub.FetchX509SVID(
                    workload_pb2.X509SVIDRequest(), metadata=HEADER
                ):
                    yield answer
            except aio.AioRpcError as e:
                raise OSError(f"{e.code().name}: {e.details()}") from e

    async def _take(self, trust: Trust, answer: "workload_pb2.X509SVIDResponse") -> None:
        try:
            found = parse(answer, self.address)
            expired = await asyncio.to_thread(_verify, found)
        except Unusable as e:
            log.error("%s", e)
            return
        except Exception:
            # Others made it: what nobody has thought of must not end the API.
            log.exception("SPIFFE agent at %s: its answer cannot be read", self.address)
            return
        self._said = ""
        if expired:
            log.warning(
                "%s: is not valid at this node's time; check the clock", found.names.certificate
            )
        if trust.update(found):
            log.info("%s from %s: takes effect", found.identity, found.source)

    def _complain(self, trust: Trust, why: str) -> None:
        if why == self._said:
            return
        self._said = why
        now = trust.current
        kept = f"the node goes on as {now.identity}" if now is not None else "the node has none yet"
        log.warning("SPIFFE agent at %s: %s; %s", self.address, why, kept)


def parse(answer: "workload_pb2.X509SVIDResponse", address: str) -> Material:
    """What the agent gives first is what is meant (section 5.2.1). Raises Unusable."""
    name = f"SVID of the SPIFFE agent at {address}"
    if not answer.svids:
        raise Unusable(f"{name}: there is none")
    svid = answer.svids[0]
    try:
        chain, roots = pem("CERTIFICATE", svid.x509_svid), pem("CERTIFICATE", svid.bundle)
        key = pem("PRIVATE KEY", svid.x509_svid_key)
        claimed = SpiffeId.parse(svid.spiffe_id)
        bundles = {claimed.trust_domain: roots}
        for other, content in sorted(answer.federated_bundles.items()):
            domain = parse_trust_domain(other.removeprefix(SCHEME))
            bundles.setdefault(domain, pem("CERTIFICATE", content))
        crls = b"".join(pem("X509 CRL", each) for each in answer.crl)
    except ValueError as e:
        raise Unusable(f"{name}: {e}") from e
    if material.identity(chain, name) != claimed:
        raise Unusable(f"{name}: is not of {claimed}")
    names = Names(name, f"key of the {name}", f"bundle of the SPIFFE agent at {address}")
    return Material(claimed, chain, key, bundles, crls, address, names)


def pem(kind: str, content: bytes) -> bytes:
    """DER elements, one after the other, as PEM. Raises ValueError."""
    blocks = []
    for element in _elements(content):
        text = base64.b64encode(element).decode()
        lines = [text[at : at + _LINE] for at in range(0, len(text), _LINE)]
        blocks.append("\n".join([f"-----BEGIN {kind}-----", *lines, f"-----END {kind}-----", ""]))
    return "".join(blocks).encode()


def _elements(content: bytes) -> Iterator[bytes]:
    """Each with its tag and length (X.690, 8.1)."""
    at = 0
    while at < len(content):
        length, head = content[at + 1 : at + 2], 2
        if not length:
            raise ValueError("DER that is cut short")
        size = length[0]
        if size & 0x80:
            count = size & 0x7F
            size, head = int.from_bytes(content[at + 2 : at + 2 + count], "big"), 2 + count
        if at + head + size > len(content):
            raise ValueError("DER that is cut short")
        yield content[at : at + head + size]
        at += head + size


def _verify(found: Material) -> bool:
    from runtime.trust import usable

    usable.parse_crls(found.crls)
    for trust_domain, bundle in found.bundles.items():
        usable.verify_bundle(trust_domain, bundle)
    return usable.verify(found)
