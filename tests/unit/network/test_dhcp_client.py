"""The DHCP client's states, without any clock or wire: a server in a few lines answers it."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from ipaddress import IPv4Address
from random import Random

from initd.network.dhcp.client import Announce, Client, Note, Output, Probe, Send, State
from initd.network.dhcp.message import Kind, Message, Option
from initd.network.model import Lease

MAC = bytes.fromhex("525400123456")
ADDRESS = IPv4Address("192.0.2.1")
GIVEN = IPv4Address("192.0.2.50")
OTHER = bytes.fromhex("020000000009")


@dataclass
class Server:
    """What it answers."""

    address: IPv4Address = ADDRESS
    gives: IPv4Address = GIVEN
    seconds: int = 1000

    def answer(self, asked: Message, kind: Kind) -> Message:
        options: dict[int, bytes] = {
            Option.SERVER: self.address.packed,
            Option.MASK: bytes((255, 255, 255, 0)),
        }
        if kind is not Kind.NAK:
            options[Option.SECONDS] = self.seconds.to_bytes(4, "big")
        return Message(
            kind=kind, xid=asked.xid, mac=asked.mac, reply=True, yours=self.gives, options=options
        )


def sent(outputs: Iterable[Output]) -> Send:
    (found,) = (output for output in outputs if isinstance(output, Send))
    return found


def bound(server: Server | None = None, now: float = 0.0, lease: Lease | None = None) -> Client:
    server = server or Server()
    client = Client(MAC, Random(1), lease=lease)
    discover = sent(client.carrier_found(now)).message
    assert discover.kind is Kind.DISCOVER
    request = sent(client.received(server.answer(discover, Kind.OFFER), now)).message
    list(client.received(server.answer(request, Kind.ACK), now))
    assert client.state.name == "PROBING"
    assert client.deadline is not None
    list(client.timeout(client.deadline))
    assert client.state is State.BOUND
    return client


def at_deadline(client: Client) -> list[Output]:
    assert client.deadline is not None
    return list(client.timeout(client.deadline))


def test_a_lease_comes_by_discover_offer_request_ack() -> None:
    server, client = Server(), Client(MAC, Random(1))
    client.hostname = "node-7"
    discover = sent(client.carrier_found(0.0))
    assert discover.to is None
    assert discover.message.options[Option.CLIENT] == b"\x01" + MAC
    assert discover.message.options[Option.HOSTNAME] == b"node-7"
    outputs = list(client.received(server.answer(discover.message, Kind.OFFER), 0.1))
    request = sent(outputs)
    assert request.to is None
    assert request.message.xid == discover.message.xid
    assert request.message.options[Option.ADDRESS] == server.gives.packed
    assert request.message.options[Option.SERVER] == server.address.packed
    assert Probe(server.gives) in outputs
    outputs = list(client.received(server.answer(request.message, Kind.ACK), 0.2))
    assert outputs == [Probe(server.gives)]
    assert client.lease is None
    assert at_deadline(client) == [
        Note("address 192.0.2.50/24 by DHCP from 192.0.2.1, lease 1000 s"),
        Announce(server.gives),
    ]
    assert client.lease is not None
    assert client.lease.obtained == 0.1
    assert not client.listening


def test_discover_is_sent_again_ever_more_slowly() -> None:
    client = Client(MAC, Random(1))
    list(client.carrier_found(0.0))
    last, waits = 0.0, []
    for _ in range(8):
        assert client.deadline is not None
        waits.append(client.deadline - last)
        last = client.deadline
        assert sent(at_deadline(client)).message.kind is Kind.DISCOVER
    expected = (2, 4, 8, 16, 32, 64, 64, 64)
    assert all(abs(wait - want) <= 1 for wait, want in zip(waits, expected, strict=True))


def test_before_its_deadline_nothing_happens() -> None:
    client = Client(MAC, Random(1))
    list(client.carrier_found(0.0))
    assert list(client.timeout(0.5)) == []


def test_a_request_without_answer_is_repeated_then_given_up() -> None:
    server, client = Server(), Client(MAC, Random(1))
    discover = sent(client.carrier_found(0.0)).message
    list(client.received(server.answer(discover, Kind.OFFER), 0.0))
    kinds = [sent(at_deadline(client)).message.kind for _ in range(4)]
    assert kinds == [Kind.REQUEST, Kind.REQUEST, Kind.REQUEST, Kind.DISCOVER]


def test_answers_to_others_are_dropped() -> None:
    server, client = Server(), Client(MAC, Random(1))
    discover = sent(client.carrier_found(0.0)).message
    offer = server.answer(discover, Kind.OFFER)
    for wrong in (
        replace(offer, xid=offer.xid ^ 1),
        replace(offer, mac=OTHER),
        replace(offer, reply=False),
        replace(offer, kind=Kind.ACK),
        replace(offer, kind=Kind.NAK),
    ):
        assert list(client.received(wrong, 0.0)) == []
    assert client.state is State.SELECTING


def test_an_offer_without_a_lease_time_is_ignored() -> None:
    server, client = Server(), Client(MAC, Random(1))
    discover = sent(client.carrier_found(0.0)).message
    offer = server.answer(discover, Kind.OFFER)
    options: dict[int, bytes] = {Option.SERVER: server.address.packed}
    (note,) = client.received(replace(offer, options=options), 0.0)
    assert note == Note("DHCP offer ignored: lease time missing")
    assert client.state is State.SELECTING


def test_at_t1_its_server_is_asked_and_the_lease_goes_on_silently() -> None:
    server = Server()
    client = bound(server)
    assert client.deadline == 500.0
    renewal = sent(at_deadline(client))
    assert renewal.to == server.address
    assert renewal.message.client == server.gives
    assert Option.SERVER not in renewal.message.options
    assert Option.ADDRESS not in renewal.message.options
    assert client.listening
    assert list(client.received(server.answer(renewal.message, Kind.ACK), 501.0)) == []
    assert client.lease is not None
    assert client.lease.expires == 1500.0


def test_at_t2_every_server_is_asked() -> None:
    server, other = Server(), Server(address=IPv4Address("192.0.2.2"))
    client = bound(server)
    asked = []
    while client.state is not State.REBINDING:
        asked.append(sent(at_deadline(client)))
    assert [one.to for one in asked[:-1]] == [server.address] * (len(asked) - 1)
    assert len(asked) >= 4
    assert asked[-1].to is None
    assert asked[-1].message.client == server.gives
    (note,) = client.received(other.answer(asked[-1].message, Kind.ACK), 900.0)
    assert note == Note("address 192.0.2.50/24 by DHCP from 192.0.2.2, lease 1000 s")
    assert client.state.name == "BOUND"


def test_a_lease_that_nobody_renews_ends_at_its_time() -> None:
    client = bound()
    outputs: list[Output] = []
    while client.lease:
        deadline = client.deadline
        outputs = at_deadline(client)
    assert deadline == 1000.0
    assert outputs[0] == Note("lease of 192.0.2.50/24 has ended, address removed", warning=True)
    assert sent(outputs).message.kind is Kind.DISCOVER


def test_a_nak_while_renewing_ends_the_lease_at_once() -> None:
    server = Server()
    client = bound(server)
    renewal = sent(at_deadline(client)).message
    (note,) = client.received(server.answer(renewal, Kind.NAK), 501.0)
    assert note == Note("DHCP server 192.0.2.1 refused 192.0.2.50", warning=True)
    assert client.lease is None
    assert sent(at_deadline(client)).message.kind is Kind.DISCOVER


def test_naks_in_a_row_slow_it_down() -> None:
    server, client = Server(), Client(MAC, Random(1))
    outputs: Iterable[Output] = list(client.carrier_found(0.0))
    waits = []
    now = 0.0
    for _ in range(4):
        request = sent(client.received(server.answer(sent(outputs).message, Kind.OFFER), now))
        list(client.received(server.answer(request.message, Kind.NAK), now))
        assert client.deadline is not None
        waits.append(client.deadline - now)
        now = client.deadline
        outputs = at_deadline(client)
    assert waits == [1, 2, 4, 8]


def test_an_address_that_another_host_has_is_declined() -> None:
    server, client = Server(), Client(MAC, Random(1))
    discover = sent(client.carrier_found(0.0)).message
    request = sent(client.received(server.answer(discover, Kind.OFFER), 0.0)).message
    list(client.received(server.answer(request, Kind.ACK), 0.0))
    outputs = list(client.conflict(OTHER, 0.1))
    decline = sent(outputs).message
    assert decline.kind is Kind.DECLINE
    assert decline.options == {
        Option.CLIENT: b"\x01" + MAC,
        Option.ADDRESS: server.gives.packed,
        Option.SERVER: server.address.packed,
    }
    assert client.lease is None
    assert client.deadline == 10.1
    assert list(client.conflict(OTHER, 0.2)) == []


def test_a_conflict_before_the_ack_is_declined_after_it() -> None:
    server, client = Server(), Client(MAC, Random(1))
    discover = sent(client.carrier_found(0.0)).message
    request = sent(client.received(server.answer(discover, Kind.OFFER), 0.0)).message
    (note,) = client.conflict(OTHER, 0.1)
    assert note == Note("192.0.2.50 is in use by 02:00:00:00:00:09, declined", warning=True)
    outputs = client.received(server.answer(request, Kind.ACK), 0.2)
    assert sent(outputs).message.kind is Kind.DECLINE


def test_with_carrier_back_the_lease_is_confirmed_and_kept_meanwhile() -> None:
    server = Server()
    client = bound(server)
    client.carrier_lost()
    assert client.lease is not None
    assert not client.listening
    request = sent(client.carrier_found(100.0)).message
    assert request.kind is Kind.REQUEST
    assert request.client == IPv4Address(0)
    assert request.options[Option.ADDRESS] == server.gives.packed
    assert Option.SERVER not in request.options
    assert list(client.received(server.answer(request, Kind.ACK), 100.1)) == []
    assert client.lease.expires == 1100.0


def test_on_another_network_the_lease_is_refused_and_gone() -> None:
    client = bound()
    client.carrier_lost()
    request = sent(client.carrier_found(100.0)).message
    list(
        client.received(Server(address=IPv4Address("198.51.100.1")).answer(request, Kind.NAK), 100)
    )
    assert client.lease is None
    assert client.state is State.WAITING


def test_without_an_answer_the_lease_is_kept_while_another_is_sought() -> None:
    server = Server()
    client = bound(server)
    client.carrier_lost()
    list(client.carrier_found(100.0))
    while client.state is State.REBOOTING:
        outputs = at_deadline(client)
    discover = sent(outputs).message
    assert discover.kind is Kind.DISCOVER
    assert client.lease is not None
    other = Server(address=IPv4Address("198.51.100.1"), gives=IPv4Address("198.51.100.9"))
    request = sent(client.received(other.answer(discover, Kind.OFFER), 120.0)).message
    list(client.received(other.answer(request, Kind.ACK), 120.0))
    at_deadline(client)
    assert client.lease.address.ip == other.gives


def test_without_carrier_a_lease_ends_too() -> None:
    client = bound()
    client.carrier_lost()
    assert client.deadline == 1000.0
    (note,) = at_deadline(client)
    assert isinstance(note, Note)
    assert client.lease is None
    assert client.deadline is None


def test_a_lease_of_a_former_run_goes_on_without_asking_anybody() -> None:
    lease = bound().lease
    client = Client(MAC, Random(2), lease=lease)
    note = Note("going on with 192.0.2.50/24 by DHCP, lease ends in 600 s")
    assert list(client.adopt(400.0)) == [note]
    assert client.lease == lease
    assert client.deadline == 500.0


def test_a_lease_of_a_former_run_past_t1_or_t2_is_renewed_at_once() -> None:
    lease = bound().lease
    renewal = sent(Client(MAC, Random(2), lease=lease).adopt(600.0))
    assert renewal.to == IPv4Address("192.0.2.1")
    rebinding = sent(Client(MAC, Random(2), lease=lease).adopt(900.0))
    assert rebinding.to is None


def test_an_ended_lease_of_a_former_run_is_forgotten() -> None:
    client = Client(MAC, Random(2), lease=bound().lease)
    assert sent(client.adopt(1000.0)).message.kind is Kind.DISCOVER
    assert client.lease is None


def test_a_lease_without_end_is_never_renewed() -> None:
    client = bound(Server(seconds=0xFFFFFFFF))
    assert client.deadline is None
