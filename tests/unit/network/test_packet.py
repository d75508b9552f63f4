"""The packets around DHCP, and the filter that the kernel runs."""

import socket
from ipaddress import IPv4Address

import pytest

from initd.linux.packet import attach_filter
from initd.network.dhcp.packet import ACCEPT_DHCP, Arp, arp_of, arp_request, conflicts, unwrap, wrap

MAC = bytes.fromhex("525400123456")
OTHER = bytes.fromhex("020000000009")
ADDRESS = IPv4Address("192.0.2.50")
NOBODY = IPv4Address(0)
# From the server's port to the client's.
REPLY = bytes.fromhex(
    "45000020000000004011f7cac0000201c00002320043004400 0cda5964617461".replace(" ", "")
)


def test_a_broadcast_has_right_checksums() -> None:
    packet = wrap(b"data!", ADDRESS)
    header, udp = packet[:20], packet[20:]
    assert header[12:] == ADDRESS.packed + b"\xff" * 4
    assert udp[:6] == bytes((0, 68, 0, 67, 0, 13))
    # With the checksum in it, every sum is a multiple of 0xffff.
    assert int.from_bytes(header, "big") % 0xFFFF == 0
    pseudo = header[12:] + bytes((0, 17, 0, 13))
    assert int.from_bytes(pseudo + udp + b"\0", "big") % 0xFFFF == 0


def test_a_reply_is_unwrapped_without_what_pads_it() -> None:
    assert unwrap(REPLY + bytes(14)) == b"data"


@pytest.mark.parametrize(
    ("packet", "fault"),
    [
        (b"", "cut off"),
        (REPLY[:19], "cut off"),
        (REPLY[:-1], "cut off"),
        (b"\x65" + REPLY[1:], "not UDP over IPv4"),
        (b"\x41" + REPLY[1:], "not UDP over IPv4"),
        (REPLY[:9] + b"\x06" + REPLY[10:], "not UDP"),
        (REPLY[:23] + b"\x45" + REPLY[24:], "not for the DHCP client"),
        (REPLY[:24] + b"\x00\x07" + REPLY[26:], "not for the DHCP client"),
        (REPLY[:24] + b"\x00\x0d" + REPLY[26:], "not for the DHCP client"),
    ],
)
def test_what_is_no_reply_is_refused(packet: bytes, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        unwrap(packet)


def test_the_kernel_lets_only_replies_through() -> None:
    """Unix sockets run the same filters, and need no root."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with ours, theirs:
        attach_filter(ours, ACCEPT_DHCP)
        to_other_port = REPLY[:23] + b"\x45" + REPLY[24:]
        tcp = REPLY[:9] + b"\x06" + REPLY[10:]
        fragment = REPLY[:6] + b"\x00\x01" + REPLY[8:]
        for packet in (to_other_port, tcp, fragment, REPLY):
            theirs.send(packet)
        ours.setblocking(False)
        assert ours.recv(2048) == REPLY
        with pytest.raises(BlockingIOError):
            ours.recv(2048)


def test_a_probe_is_the_bytes_of_the_standard() -> None:
    packet = arp_request(Arp(MAC, NOBODY, ADDRESS))
    assert packet == bytes.fromhex(
        "0001080006040001" + "525400123456" + "00000000" + "000000000000" + "c0000232"
    )
    assert arp_of(packet + bytes(18)) == Arp(MAC, NOBODY, ADDRESS)


@pytest.mark.parametrize("packet", [b"", bytes(28), arp_request(Arp(MAC, NOBODY, ADDRESS))[:27]])
def test_what_is_no_arp_is_refused(packet: bytes) -> None:
    with pytest.raises(ValueError, match="ARP"):
        arp_of(packet)


def test_an_address_is_taken_by_who_has_it_or_is_about_to() -> None:
    assert conflicts(Arp(OTHER, ADDRESS, IPv4Address("192.0.2.1")), ADDRESS, MAC)
    assert conflicts(Arp(OTHER, NOBODY, ADDRESS), ADDRESS, MAC)
    assert not conflicts(Arp(OTHER, IPv4Address("192.0.2.1"), ADDRESS), ADDRESS, MAC)
    assert not conflicts(Arp(MAC, NOBODY, ADDRESS), ADDRESS, MAC)
