"""`aer image`: images of nodes, on this side."""

from pathlib import Path
from typing import Final

from aer import parse
from aer.command import Argument, Call, Command


def sign(call: Call) -> int:
    from aer.bundle import Bundle

    bundle = Bundle.read(Path(call["bundle"]))
    bundle.sign(Path(call["key"]))
    print(f"{bundle.signature}: version {bundle.manifest.version}, signed")
    return 0


COMMANDS: Final = (
    Command(
        words=("image", "sign"),
        help="sign a bundle, for nodes to be upgraded with",
        text="Writes BUNDLE.sig. A node believes the keys that its image was built with "
        "(UPGRADE_KEYS, a folder of public keys); `openssl genpkey -algorithm ed25519` makes one, "
        "and `openssl pkey -pubout` its public key.",
        run=sign,
        arguments=(
            Argument(
                name="bundle",
                help="the aurae_VERSION.bundle that make image has left",
                metavar="BUNDLE",
                parse=parse.path,
                complete="file",
            ),
            Argument(
                name="--key",
                help="an Ed25519 key, PEM",
                metavar="FILE",
                parse=parse.path,
                required=True,
                complete="file",
            ),
        ),
    ),
)
