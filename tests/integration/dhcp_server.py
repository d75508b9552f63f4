"""A DHCP server for tests: leases of seconds, and refusals at a word.

`python dhcp_server.py LINK FOLDER ADDRESS`. FOLDER/behaviour holds a JSON object: `address`,
`seconds`, and `answer`, one of `ack`, `nak`, `nothing`. FOLDER/heard gets a line for each message.
"""

import json
import socket
import sys
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

from initd.network.dhcp.message import Kind, Message, Option, decode, encode

MASK = bytes((255, 255, 255, 0))


def serve(link: str, folder: Path, server: IPv4Address) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, link.encode())
        sock.bind(("", 67))
        (folder / "ready").touch()
        while True:
            data, (sender, _) = sock.recvfrom(4096)
            message = decode(data)
            with (folder / "heard").open("a") as heard:
                heard.write(f"{message.kind.name} from {sender}\n")
            answer = answer_to(message, server, json.loads((folder / "behaviour").read_text()))
            if answer:
                # What is no DHCP message at all comes first: it must hurt nobody.
                for junk in (b"", encode(answer)[:240], encode(replace(answer, options={}))):
                    sock.sendto(junk, ("255.255.255.255", 68))
                sock.sendto(encode(answer), ("255.255.255.255", 68))


def answer_to(
    message: Message, server: IPv4Address, behaviour: dict[str, object]
) -> Message | None:
    kinds = {Kind.DISCOVER: Kind.OFFER, Kind.REQUEST: Kind.ACK}
    if behaviour["answer"] == "nothing" or message.kind not in kinds:
        return None
    kind = kinds[message.kind]
    if kind is Kind.ACK and behaviour["answer"] == "nak":
        kind = Kind.NAK
    seconds = int(str(behaviour["seconds"]))
    options = {
        Option.SERVER: server.packed,
        Option.MASK: MASK,
        Option.ROUTER: server.packed,
        Option.SECONDS: seconds.to_bytes(4, "big"),
        Option.HOSTNAME: b"by-dhcp",
    }
    return Message(
        kind=kind,
        xid=message.xid,
        mac=message.mac,
        reply=True,
        yours=IPv4Address(str(behaviour["address"])),
        options={int(code): value for code, value in options.items()},
    )


if __name__ == "__main__":
    serve(sys.argv[1], Path(sys.argv[2]), IPv4Address(sys.argv[3]))
