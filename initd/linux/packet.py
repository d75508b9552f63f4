"""Packet sockets: what Python's `socket` lacks."""

import socket
from array import array
from collections.abc import Sequence
from struct import pack
from typing import Final

# asm-generic/socket.h
SO_ATTACH_FILTER: Final = 26


def attach_filter(sock: socket.socket, program: Sequence[tuple[int, int, int, int]]) -> None:
    """Let the kernel drop what this classic BPF program returns 0 for: (code, jt, jf, k) a line."""
    instructions = array("B", b"".join(pack("=HBBI", *line) for line in program))
    address, _ = instructions.buffer_info()
    # struct sock_fprog: a length in instructions, a pointer; the kernel copies what it points to.
    sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, pack("@HP", len(program), address))
