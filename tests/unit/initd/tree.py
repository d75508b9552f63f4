"""A second maker of hash trees: what dm-verity's documentation says, and nothing of ours."""

import hashlib
import struct

SIZE = 4096


def make(data: bytes, salt: bytes = b"salt", tail: bytes = b"") -> tuple[bytes, str]:
    """The tree of `data`, whole blocks of it, and the root hash. `tail` follows the superblock."""
    levels: list[bytes] = []
    below = data
    while len(below) > SIZE or not levels:
        blocks = (below[at : at + SIZE] for at in range(0, len(below), SIZE))
        hashes = b"".join(hashlib.sha256(salt + block).digest() for block in blocks)
        below = hashes + bytes(-len(hashes) % SIZE)
        levels.append(below)
    superblock = struct.pack(
        "<8sII16s32sIIQH6x256s168x",
        *(b"verity", 1, 1, bytes(16), b"sha256", SIZE, SIZE, len(data) // SIZE),
        *(len(salt), salt),
    )
    head = (superblock + tail).ljust(SIZE, b"\0")
    return head + b"".join(reversed(levels)), hashlib.sha256(salt + below).hexdigest()
