"""Identities of cells from SPIRE, by delegation: the Delegated Identity API of its agent.

The agent is asked for whoever has the cell's selector; which SPIFFE IDs that makes is said by the
registration entries of the SPIRE server. What the agent gives is kept in memory only.
"""

import asyncio
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from aurae.spire import delegatedidentity_pb2, delegatedidentity_pb2_grpc, types_pb2
from cryptography import x509
from grpc import StatusCode, aio

from initd.errors import InvalidArgument, PermissionDenied, Unavailable
from initd.values import NamedTuple
from runtime import imports
from runtime.identity import svid
from runtime.identity.spiffe import SCHEME, SpiffeId, parse_trust_domain
from runtime.trust import agent
from runtime.workload import tokens
from runtime.workload.model import Claims, Keys, Svids, Token, Trust, X509Svid, check_own

imports.calling()
log = logging.getLogger(__name__)

# The type of the selectors, and how their value begins; the cell's name follows.
SELECTOR: Final = ("aurae", "cell:")
# Seconds that a caller waits for the agent.
WAIT: Final = 3.0
# Seconds that a cell's identities are followed after it was last asked for them. Who listens asks
# each minute (runtime.workload.service).
IDLE: Final = 300.0
SWEEP: Final = 60.0
OPTIONS: Final = (
    *agent.OPTIONS,
    # Seconds are too long where the agent is on this node: it is tried as often as we ask.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
)

_Bundles = Mapping[str, bytes]


class _Answer(NamedTuple):
    """What the agent said last of a cell."""

    svids: Sequence[X509Svid]
    federated: frozenset[str]
    """The foreign trust domains that it is to know."""

    @property
    def domains(self) -> frozenset[str]:
        return self.federated | {one.id.trust_domain for one in self.svids}


class _Cell:
    """A cell that has asked."""

    def __init__(self) -> None:
        self.answer: _Answer | None = None
        self.changed = asyncio.Event()
        self.asked = time.monotonic()
        self.task: asyncio.Task[None] | None = None

    def tell(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()


class Delegation:
    """Follows the agent for each cell that has asked: from then on, until the cell is freed or has
    not asked for long. While the agent is away, what it gave last counts for as long as it is
    valid.

    `address` is that of the agent's admin socket, `unix:/PATH`.
    """

    def __init__(
        self, address: str, now: Callable[[], float] = time.time, *, wait: float = WAIT
    ) -> None:
        self._address = address
        self._now = now
        self._wait = wait
        self._cells: dict[str, _Cell] = {}
        self._roots: _Bundles | None = None
        self._keys: _Bundles | None = None
        self._stub: delegatedidentity_pb2_grpc.DelegatedIdentityAsyncStub | None = None
        self._tasks: asyncio.TaskGroup | None = None
        self._closed = False
        self._said = ""

    async def follow(self) -> None:
        """Ask the agent, until cancelled."""
        async with (
            aio.insecure_channel(self._address, OPTIONS) as channel,
            asyncio.TaskGroup() as tasks,
        ):
            stub: Any = delegatedidentity_pb2_grpc.DelegatedIdentityStub(channel)
            self._stub, self._tasks = stub, tasks
            try:
                roots = delegatedidentity_pb2.SubscribeToX509BundlesRequest()
                tasks.create_task(
                    self._keep(lambda: stub.SubscribeToX509Bundles(roots), self._take_roots)
                )
                keys = delegatedidentity_pb2.SubscribeToJWTBundlesRequest()
                tasks.create_task(
                    self._keep(lambda: stub.SubscribeToJWTBundles(keys), self._take_keys)
                )
                log.info("workloads get identities from the SPIRE agent at %s", self._address)
                while True:
                    await asyncio.sleep(SWEEP)
                    self.sweep()
            finally:
                self._tasks = None

    def sweep(self) -> None:
        """Leave those alone that nobody has asked for in a while."""
        for cell, held in list(self._cells.items()):
            if held.asked < time.monotonic() - IDLE:
                self.drop(cell)

    async def svids(self, cell: str) -> Svids:
        answer = await self._entitled(cell)
        valid = [one for one in answer.svids if self._now() < one.expires]
        if not valid:
            raise Unavailable(
                "cell: its SVIDs have expired, and SPIRE has given no others yet; try again"
            )
        trust = self._trust(answer)
        if any(one.id.trust_domain not in trust.bundles for one in valid):
            raise Unavailable("cell: SPIRE has not given its trust bundle yet; try again")
        return Svids(valid, trust, min(one.expires for one in valid))

    async def trust(self, cell: str) -> Trust:
        return self._trust(await self._entitled(cell))

    async def tokens(
        self, cell: str, audience: Sequence[str], wanted: SpiffeId | None
    ) -> Sequence[Token]:
        own = list(dict.fromkeys(one.id for one in (await self._entitled(cell)).svids))
        check_own(wanted, own)
        request = delegatedidentity_pb2.FetchJWTSVIDsRequest(
            audience=audience, selectors=[_selector(cell)]
        )
        assert self._stub is not None, "it has answered"
        try:
            answer = await self._stub.FetchJWTSVIDs(request, timeout=self._wait)
        except aio.AioRpcError as e:
            if e.code() is StatusCode.PERMISSION_DENIED:
                raise PermissionDenied(f"cell: SPIRE gives it no token ({e.details()})") from e
            log.warning("SPIRE agent at %s: gives no token: %s", self._address, _why(e))
            raise Unavailable("cell: SPIRE gives it no token now; try again") from e
        # The agent's answer may have identities that are not for workloads; those it leaves out
        # among the X.509-SVIDs.
        meant = [wanted] if wanted is not None else own
        try:
            found = [one for one in map(_token, answer.svids) if one.id in meant]
        except ValueError as e:
            log.warning("SPIRE agent at %s: gives no usable token: %s", self._address, e)
            found = []
        if not found:
            raise Unavailable("cell: SPIRE gives it no token now; try again")
        return found

    async def keys(self, cell: str) -> Keys:
        answer = await self._entitled(cell)
        await self._until(self._cell(cell), lambda: self._keys is not None)
        return Keys(_of(answer.domains, self._keys), float("inf"))

    async def verify(self, cell: str, token: str, audience: str) -> Claims:
        known = (await self.keys(cell)).bundles
        try:
            domain = tokens.claimed(token).trust_domain
            if domain not in known:
                raise ValueError(f"is of {domain}, which the cell's identity does not know")
            return tokens.verify(token, audience, domain, _jwks(known[domain]), self._now())
        except ValueError as e:
            raise InvalidArgument(f"svid: {e}") from e

    def changed(self, cell: str) -> asyncio.Event:
        return self._cell(cell).changed

    def drop(self, cell: str) -> None:
        held = self._cells.pop(cell, None)
        if held is not None and held.task is not None:
            held.task.cancel()

    def close(self) -> None:
        self._closed = True
        self._tell()

    def _cell(self, cell: str) -> _Cell:
        """Followed from now on. Raises Unavailable."""
        if self._closed:
            raise Unavailable("the Workload API is stopping; try again when it is back")
        if self._tasks is None:
            raise Unavailable("node: does not ask SPIRE for workloads yet; try again")
        held = self._cells.get(cell)
        if held is None:
            held = self._cells[cell] = _Cell()
            held.task = self._tasks.create_task(self._follow_cell(cell, held))
        held.asked = time.monotonic()
        return held

    async def _follow_cell(self, cell: str, held: _Cell) -> None:
        stub: Any = self._stub
        request = delegatedidentity_pb2.SubscribeToX509SVIDsRequest(selectors=[_selector(cell)])

        async def take(message: delegatedidentity_pb2.SubscribeToX509SVIDsResponse) -> None:
            held.answer = await asyncio.to_thread(_answer, message, self._now())
            held.tell()

        await self._keep(lambda: stub.SubscribeToX509SVIDs(request), take)

    async def _entitled(self, cell: str) -> _Answer:
        """What the cell has, once that is known. Raises Unavailable and PermissionDenied."""
        held = self._cell(cell)
        await self._until(held, lambda: held.answer is not None and self._roots is not None)
        answer = held.answer
        assert answer is not None, "it was waited for"
        if not answer.svids:
            raise PermissionDenied(
                f"cell: SPIRE has no identity for it; make an entry with the selector "
                f"{':'.join(SELECTOR)}{cell}"
            )
        return answer

    async def _until(self, held: _Cell, true: Callable[[], bool]) -> None:
        """Raises Unavailable: not in time."""
        try:
            async with asyncio.timeout(self._wait):
                while not true():
                    await held.changed.wait()
                    if self._closed:
                        break
        except TimeoutError:
            raise Unavailable("node: SPIRE has not answered for the cell; try again") from None
        if self._closed:
            raise Unavailable("the Workload API is stopping; try again when it is back")

    def _trust(self, answer: _Answer) -> Trust:
        return Trust(answer.svids[0].id.trust_domain, _of(answer.domains, self._roots))

    async def _take_roots(
        self, message: delegatedidentity_pb2.SubscribeToX509BundlesResponse
    ) -> None:
        self._roots = await asyncio.to_thread(_roots, message.ca_certificates)
        self._tell()

    async def _take_keys(
        self, message: delegatedidentity_pb2.SubscribeToJWTBundlesResponse
    ) -> None:
        for jwks in message.bundles.values():
            _jwks(jwks)
        self._keys = {_domain(name): jwks for name, jwks in message.bundles.items()}
        self._tell()

    async def _keep(self, ask: Callable[[], Any], take: Callable[[Any], Any]) -> None:
        """Take what comes, and ask again whenever that ends."""
        pause, most = agent.PAUSE
        while True:
            answers = ask()
            try:
                async for answer in answers:
                    await take(answer)
                    pause, self._said = agent.PAUSE[0], ""
                why = "it ended the stream"
            except aio.AioRpcError as e:
                why = _why(e)
            except ValueError as e:
                why = f"what it gave is not usable, and what was there is kept: {e}"
            finally:
                answers.cancel()
            self._complain(why)
            await asyncio.sleep(pause)
            pause = min(2 * pause, most)

    def _complain(self, why: str) -> None:
        if why != self._said:
            self._said = why
            log.warning("SPIRE agent at %s, asked for workloads: %s", self._address, why)

    def _tell(self) -> None:
        for held in self._cells.values():
            held.tell()


def _selector(cell: str) -> types_pb2.Selector:
    kind, begin = SELECTOR
    return types_pb2.Selector(type=kind, value=begin + cell)


def _why(error: aio.AioRpcError) -> str:
    return f"{error.code().name}: {error.details()}"


def _of(domains: frozenset[str], bundles: _Bundles | None) -> _Bundles:
    return {name: content for name, content in (bundles or {}).items() if name in domains}


def _domain(text: str) -> str:
    return parse_trust_domain(text.removeprefix(SCHEME))


def _id(given: types_pb2.SPIFFEID) -> SpiffeId:
    found = SpiffeId(given.trust_domain, given.path)
    if not found.path:
        raise ValueError(f"{found}: is a trust domain and no workload")
    return found


def _token(given: types_pb2.JWTSVID) -> Token:
    own = _id(given.id)
    if tokens.claimed(given.token) != own:
        raise ValueError(f"token of {own}: is another's")
    return Token(own, given.token, given.hint)


def _answer(message: delegatedidentity_pb2.SubscribeToX509SVIDsResponse, now: float) -> _Answer:
    """Raises ValueError."""
    return _Answer(
        tuple(_svid(one, now) for one in message.x509_svids),
        frozenset(_domain(name) for name in message.federates_with),
    )


@svid.only_value_errors
def _svid(given: delegatedidentity_pb2.X509SVIDWithKey, now: float) -> X509Svid:
    """Its parts belong together. Whether they lead to the bundle is not asked: that comes in
    another stream, before or after."""
    own = _id(given.x509_svid.id)
    der = b"".join(given.x509_svid.cert_chain)
    chain = agent.pem("CERTIFICATE", der)
    leaf = svid.certificates(chain)[0]
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    if names.get_values_for_type(x509.UniformResourceIdentifier) != [str(own)]:
        raise ValueError(f"certificate of {own}: is another's")
    svid.match_key(chain, agent.pem("PRIVATE KEY", given.x509_svid_key))
    expires = leaf.not_valid_after_utc.timestamp()
    return X509Svid(
        id=own,
        chain=der,
        key=given.x509_svid_key,
        issued=now,
        due=expires,
        expires=expires,
        hint=given.x509_svid.hint,
    )


def _roots(bundles: Mapping[str, bytes]) -> _Bundles:
    """Without those that nobody could read."""
    found = {}
    for name, der in bundles.items():
        try:
            svid.certificates(agent.pem("CERTIFICATE", der))
            found[_domain(name)] = der
        except ValueError as e:
            log.warning("bundle of %s from the SPIRE agent: is left out: %s", name, e)
    return found


def _jwks(content: bytes) -> list[tokens.Jwk]:
    """Those that tokens can be verified with here. Raises ValueError: it is no JWK Set."""
    try:
        found = json.loads(content)
    except RecursionError as e:
        raise ValueError("keys: are nested too deeply") from e
    keys = found.get("keys") if isinstance(found, dict) else None
    if not isinstance(keys, list):
        raise ValueError("keys: are no JWK Set")
    return [one for one in keys if tokens.usable(one)]
