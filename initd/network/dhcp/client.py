"""The DHCP client of one link: a state machine without any input or output of its own.

It is told what happened and at what time, and answers with what is to be done. The caller looks at
`lease` (what the link has), `deadline` (when to call `timeout`), `listening` and `probing` (what
to receive) after each call.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from ipaddress import IPv4Address
from random import Random
from typing import Final, TypeAlias

from initd.network.dhcp.message import (
    UNSPECIFIED,
    Kind,
    Message,
    Option,
    lease_of,
    server_of,
)
from initd.network.model import Lease

# RFC 3442 wants the classless routes asked for before the router.
WANTED: Final = bytes(
    (
        *(Option.MASK, Option.ROUTES, Option.ROUTER, Option.DNS, Option.HOSTNAME),
        *(Option.DOMAIN, Option.MTU, Option.SECONDS, Option.SERVER),
        *(Option.RENEW, Option.REBIND, Option.SEARCH, Option.NTP),
    )
)
# What a server may send us; a whole Ethernet packet.
SIZE: Final = (1500).to_bytes(2, "big")
RETRANSMIT_FIRST: Final = 2.0
RETRANSMIT_MAX: Final = 64.0
REQUEST_TRIES: Final = 4
REBOOT_TRIES: Final = 3
# RFC 2131 section 4.4.5: not more often than each minute; less for leases of a few minutes.
RENEW_AGAIN: Final = 60.0
RENEW_AGAIN_PART: Final = 1 / 16
# RFC 5227 probes for seconds; an answer on a LAN takes milliseconds, and a boot waits for this.
PROBE_WAIT: Final = 0.2
DECLINE_WAIT: Final = 10.0
NAK_WAIT: Final = 1.0


class State(Enum):
    """Where the client stands.

    ==============  =============================================================================
    state           leaves it when
    ==============  =============================================================================
    ``STOPPED``     there is carrier: ``REBOOTING`` with a lease, else ``SELECTING``
    ``SELECTING``   an offer is good: ``REQUESTING``
    ``REQUESTING``  ACK: ``PROBING``; NAK: ``WAITING``; no answer: ``SELECTING``
    ``PROBING``     nobody else has the address: ``BOUND``; somebody has: ``WAITING``
    ``REBOOTING``   ACK: ``BOUND``; NAK: ``WAITING``; no answer: ``SELECTING``
    ``BOUND``       T1: ``RENEWING``
    ``RENEWING``    ACK: ``BOUND``; NAK: ``WAITING``; T2: ``REBINDING``
    ``REBINDING``   ACK: ``BOUND``; NAK: ``WAITING``; the lease ends: ``SELECTING``
    ``WAITING``     the wait is over: ``SELECTING``
    ==============  =============================================================================

    Carrier lost goes to ``STOPPED`` from each. A lease is kept in every state until it ends, is
    refused by a NAK, or another takes its place.
    """

    STOPPED = auto()
    SELECTING = auto()
    REQUESTING = auto()
    PROBING = auto()
    REBOOTING = auto()
    BOUND = auto()
    RENEWING = auto()
    REBINDING = auto()
    WAITING = auto()


@dataclass(frozen=True, slots=True)
class Send:
    """From `message.client`; to everybody on the link where `to` is None."""

    message: Message
    to: IPv4Address | None = None


@dataclass(frozen=True, slots=True)
class Probe:
    """Ask by ARP who has the address."""

    address: IPv4Address


@dataclass(frozen=True, slots=True)
class Announce:
    """Tell by ARP that we have the address."""

    address: IPv4Address


@dataclass(frozen=True, slots=True)
class Note:
    """For the log."""

    text: str
    warning: bool = False


Output: TypeAlias = Send | Probe | Announce | Note
Outputs: TypeAlias = Iterator[Output]

AWAITING_ACK: Final = (State.REQUESTING, State.REBOOTING, State.RENEWING, State.REBINDING)


class Client:
    """Every method is to be iterated to its end: it does the next thing when asked for it."""

    def __init__(self, mac: bytes, random: Random, *, lease: Lease | None = None) -> None:
        self.mac = mac
        self.hostname: str | None = None
        self.lease = lease
        self.state = State.STOPPED
        self._random = random
        self._timer: float | None = None
        self._xid = 0
        self._began = 0.0
        self._requested = 0.0
        self._tries = 0
        self._refusals = 0
        self._offer: Lease | None = None
        self._conflict = False

    @property
    def deadline(self) -> float | None:
        ends = self.lease.expires if self.lease else None
        return min((time for time in (self._timer, ends) if time is not None), default=None)

    @property
    def listening(self) -> bool:
        return self.state is State.SELECTING or self.state in AWAITING_ACK

    @property
    def probing(self) -> IPv4Address | None:
        if self._offer and self.state in (State.REQUESTING, State.PROBING):
            return self._offer.address.ip
        return None

    def adopt(self, now: float) -> Outputs:
        """Go on with the lease of a former run, as if there had been no stop."""
        if self.lease is None or (self.lease.expires is not None and self.lease.expires <= now):
            self.lease = None
            yield from self._discover(now)
            return
        ends = self.lease.expires
        left = "without end" if ends is None else f"ends in {ends - now:.0f} s"
        yield Note(f"going on with {self.lease.address} by DHCP, lease {left}")
        self._to(State.BOUND, self.lease.renew)
        if self._timer is not None and self._timer <= now:
            yield from self._renew(now)

    def carrier_found(self, now: float) -> Outputs:
        """It may be another network: ask whether the lease is still good there."""
        if self.lease is None:
            yield from self._discover(now)
            return
        self._restart(State.REBOOTING, now)
        yield self._request(now)

    def carrier_lost(self) -> None:
        self._offer = None
        self._to(State.STOPPED, None)

    def timeout(self, now: float) -> Outputs:
        """To be called at `deadline`; before it, nothing happens."""
        if self.lease and self.lease.expires is not None and self.lease.expires <= now:
            yield Note(f"lease of {self.lease.address} has ended, address removed", warning=True)
            self.lease = None
            if self.state in (State.BOUND, State.RENEWING, State.REBINDING, State.REBOOTING):
                yield from self._discover(now)
        if self._timer is not None and self._timer <= now:
            yield from self._next(now)

    def received(self, message: Message, now: float) -> Outputs:
        """A message from the wire; what is not an answer to our last one is dropped."""
        if not (message.reply and message.xid == self._xid and message.mac == self.mac):
            return
        if message.kind is Kind.OFFER and self.state is State.SELECTING:
            yield from self._offered(message, now)
        elif message.kind is Kind.ACK and self.state in AWAITING_ACK:
            yield from self._acknowledged(message, now)
        elif message.kind is Kind.NAK and self.state in AWAITING_ACK:
            yield from self._refused(message, now)

    def conflict(self, mac: bytes, now: float) -> Outputs:
        """The host with this MAC answered our probe: it has the address we were to get."""
        address = self.probing
        if address is None or self._conflict:
            return
        self._conflict = True
        yield Note(f"{address} is in use by {mac.hex(':')}, declined", warning=True)
        if self.state is State.PROBING:
            yield from self._decline(now)

    def _next(self, now: float) -> Outputs:
        match self.state:
            case State.SELECTING:
                yield self._again(self._message(Kind.DISCOVER, now), now)
            case State.REQUESTING | State.REBOOTING:
                limit = REQUEST_TRIES if self.state is State.REQUESTING else REBOOT_TRIES
                if self._tries < limit:
                    yield self._request(now)
                else:
                    yield from self._discover(now)
            case State.PROBING:
                yield from self._bind()
            case State.BOUND:
                yield from self._renew(now)
            case State.RENEWING | State.REBINDING:
                yield self._extend(now)
            case State.WAITING:
                yield from self._discover(now)
            case State.STOPPED:
                self._timer = None

    def _to(self, state: State, timer: float | None) -> None:
        self.state = state
        self._timer = timer

    def _restart(self, state: State, now: float) -> None:
        """A new exchange, with a transaction of its own."""
        self._xid = self._random.getrandbits(32)
        self._began = now
        self._tries = 0
        self._offer = None
        self._conflict = False
        self._to(state, now)

    def _discover(self, now: float) -> Outputs:
        self._restart(State.SELECTING, now)
        yield self._again(self._message(Kind.DISCOVER, now), now)

    def _renew(self, now: float) -> Outputs:
        self._restart(State.RENEWING, now)
        yield self._extend(now)

    def _again(self, message: Message, now: float) -> Send:
        """Set when to send it again: 2 s, 4 s, … 64 s, each a second more or less."""
        wait = min(RETRANSMIT_FIRST * 2**self._tries, RETRANSMIT_MAX)
        self._tries += 1
        self._timer = now + wait + self._random.uniform(-1, 1)
        return Send(message)

    def _extend(self, now: float) -> Send:
        """Ask our server until T2, then every server until the lease ends."""
        lease = self.lease
        assert lease is not None
        assert lease.seconds is not None
        assert lease.rebind is not None
        if self.state is State.RENEWING and now >= lease.rebind:
            self._restart(State.REBINDING, now)
        renewing = self.state is State.RENEWING
        end = lease.rebind if renewing else lease.obtained + lease.seconds
        pause = min(RENEW_AGAIN, lease.seconds * RENEW_AGAIN_PART)
        self._timer = min(end, now + max((end - now) / 2, pause))
        self._requested = now
        message = self._message(Kind.REQUEST, now, client=lease.address.ip)
        return Send(message, lease.server if renewing else None)

    def _request(self, now: float) -> Send:
        """For what was offered, or to have our lease confirmed."""
        self._requested = now
        if self._offer:
            wanted = self._offer.address.ip
            server = {int(Option.SERVER): self._offer.server.packed}
        else:
            assert self.lease is not None
            wanted, server = self.lease.address.ip, {}
        options = {int(Option.ADDRESS): wanted.packed, **server}
        return self._again(self._message(Kind.REQUEST, now, options), now)

    def _message(
        self,
        kind: Kind,
        now: float,
        options: Mapping[int, bytes] | None = None,
        client: IPv4Address = UNSPECIFIED,
    ) -> Message:
        all_options: dict[int, bytes] = {Option.CLIENT: b"\x01" + self.mac, **(options or {})}
        if kind is not Kind.DECLINE:
            all_options[Option.WANTED] = WANTED
            all_options[Option.SIZE] = SIZE
            if self.hostname:
                all_options[Option.HOSTNAME] = self.hostname.encode()
        return Message(
            kind=kind,
            xid=self._xid,
            mac=self.mac,
            seconds=int(now - self._began),
            client=client,
            options=all_options,
        )

    def _offered(self, message: Message, now: float) -> Outputs:
        try:
            offer = lease_of(message, now)
        except ValueError as e:
            yield Note(f"DHCP offer ignored: {e}")
            return
        self._to(State.REQUESTING, None)
        self._tries = 0
        self._offer = offer
        yield self._request(now)
        if not self._has(offer.address.ip):
            yield Probe(offer.address.ip)

    def _acknowledged(self, message: Message, now: float) -> Outputs:
        try:
            lease = lease_of(message, self._requested)
        except ValueError as e:
            yield Note(f"DHCP answer ignored: {e}", warning=True)
            return
        fresh = not self._has(lease.address.ip)
        self._offer = lease
        if not fresh:
            yield from self._bind()
        elif self._conflict:
            yield from self._decline(now)
        else:
            self._to(State.PROBING, now + PROBE_WAIT)
            yield Probe(lease.address.ip)

    def _has(self, address: IPv4Address) -> bool:
        return self.lease is not None and self.lease.address.ip == address

    def _bind(self) -> Outputs:
        lease, former = self._offer, self.lease
        assert lease is not None
        self.lease, self._offer = lease, None
        self._refusals = 0
        self._to(State.BOUND, lease.renew)
        if former is None or former.address != lease.address or former.server != lease.server:
            ends = "without end" if lease.seconds is None else f"{lease.seconds} s"
            yield Note(f"address {lease.address} by DHCP from {lease.server}, lease {ends}")
        if former is None or former.address.ip != lease.address.ip:
            yield Announce(lease.address.ip)

    def _refused(self, message: Message, now: float) -> Outputs:
        try:
            server = server_of(message)
        except ValueError:
            return
        if self._offer and server != self._offer.server:
            return
        wanted = self._offer or self.lease
        assert wanted is not None
        yield Note(f"DHCP server {server} refused {wanted.address.ip}", warning=True)
        # The NAK is about what was asked for: an offer refused leaves an older lease as it is.
        if self._offer is None or self._has(self._offer.address.ip):
            self.lease = None
        self._wait(NAK_WAIT, now)

    def _decline(self, now: float) -> Outputs:
        assert self._offer is not None
        options: dict[int, bytes] = {
            Option.ADDRESS: self._offer.address.ip.packed,
            Option.SERVER: self._offer.server.packed,
        }
        yield Send(self._message(Kind.DECLINE, now, options))
        self._wait(DECLINE_WAIT, now)

    def _wait(self, seconds: float, now: float) -> None:
        """Longer with each refusal in a row, so that nobody is flooded."""
        wait = min(seconds * 2**self._refusals, max(seconds, RETRANSMIT_MAX))
        self._refusals += 1
        self._offer = None
        self._to(State.WAITING, now + wait)
