"""The packets that DHCP travels in before there is an address: IPv4 and UDP, and ARP."""

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Final

CLIENT_PORT: Final = 68
SERVER_PORT: Final = 67
ETHERTYPE_IP: Final = 0x0800
ETHERTYPE_ARP: Final = 0x0806
BROADCAST: Final = IPv4Address("255.255.255.255")
IP: Final = struct.Struct("!BBHHHBBH4s4s")
UDP: Final = struct.Struct("!HHHH")
ARP: Final = struct.Struct("!HHBBH6s4s6s4s")
PROTOCOL_UDP: Final = 17

# Classic BPF for a packet socket without link header, one (code, jt, jf, k) a line: UDP to port 68
# only, whole packets, none with a VLAN tag (they belong to another link). Without it, every packet
# of the link would wake us.
ACCEPT_DHCP: Final = (
    (0x30, 0, 0, 0xFFFFF030),  # A = VLAN tag present (SKF_AD_OFF + SKF_AD_VLAN_TAG_PRESENT)
    (0x15, 0, 8, 0),
    (0x30, 0, 0, 9),  # A = protocol
    (0x15, 0, 6, PROTOCOL_UDP),
    (0x28, 0, 0, 6),  # A = fragment offset
    (0x45, 4, 0, 0x1FFF),
    (0xB1, 0, 0, 0),  # X = length of the IP header
    (0x48, 0, 0, 2),  # A = destination port
    (0x15, 0, 1, CLIENT_PORT),
    (0x06, 0, 0, 0xFFFF),
    (0x06, 0, 0, 0),
)


def wrap(payload: bytes, source: IPv4Address) -> bytes:
    """An IP packet from the client's port to every server on the link."""
    length = UDP.size + len(payload)
    pseudo = source.packed + BROADCAST.packed + struct.pack("!HH", PROTOCOL_UDP, length)
    bare = UDP.pack(CLIENT_PORT, SERVER_PORT, length, 0) + payload
    # 0 means "no checksum" in UDP (RFC 768).
    checksum = _checksum(pseudo + bare) or 0xFFFF
    udp = UDP.pack(CLIENT_PORT, SERVER_PORT, length, checksum) + payload

    def header(checksum: int) -> bytes:
        ends = (source.packed, BROADCAST.packed)
        return IP.pack(0x45, 0, IP.size + length, 0, 0, 64, PROTOCOL_UDP, checksum, *ends)

    return header(_checksum(header(0))) + udp


def unwrap(packet: bytes) -> bytes:
    """What a UDP packet to the client's port carries; ValueError where it is none.

    The UDP checksum is not looked at: between machines of one host it is not computed.
    """
    if len(packet) < IP.size:
        raise ValueError("IP header: cut off")
    version, _, total, _, _, _, protocol, _, _, _ = IP.unpack_from(packet)
    start = (version & 0xF) * 4
    if version >> 4 != 4 or start < IP.size or protocol != PROTOCOL_UDP:
        raise ValueError("not UDP over IPv4")
    if not start + UDP.size <= total <= len(packet):
        raise ValueError("IP packet: cut off")
    _, port, length, _ = UDP.unpack_from(packet, start)
    if port != CLIENT_PORT or not UDP.size <= length <= total - start:
        raise ValueError("not for the DHCP client")
    return packet[start + UDP.size : start + length]


def _checksum(data: bytes) -> int:
    """RFC 1071."""
    total: int = sum(struct.unpack(f"!{(len(data) + 1) // 2}H", data + b"\0" * (len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


@dataclass(frozen=True, slots=True)
class Arp:
    mac: bytes
    sender: IPv4Address
    target: IPv4Address


def arp_request(arp: Arp) -> bytes:
    """A probe where the sender is 0.0.0.0, an announcement where sender and target are one."""
    ends = (arp.mac, arp.sender.packed, bytes(6), arp.target.packed)
    return ARP.pack(1, ETHERTYPE_IP, 6, 4, 1, *ends)


def arp_of(packet: bytes) -> Arp:
    """ValueError where it is no ARP for IPv4 on Ethernet."""
    if len(packet) < ARP.size:
        raise ValueError("ARP: cut off")
    hardware, protocol, mac_size, size, operation, mac, sender, _, target = ARP.unpack_from(packet)
    if (hardware, protocol, mac_size, size) != (1, ETHERTYPE_IP, 6, 4) or operation not in (1, 2):
        raise ValueError("not ARP for IPv4 on Ethernet")
    return Arp(mac, IPv4Address(sender), IPv4Address(target))


def conflicts(arp: Arp, address: IPv4Address, mac: bytes) -> bool:
    """Whether somebody else has the address, or is about to take it (RFC 5227, section 2.1.1)."""
    probing = arp.sender == IPv4Address(0) and arp.target == address
    return arp.mac != mac and (arp.sender == address or probing)
