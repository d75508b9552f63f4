"""The bundle: a version of the node in one file, which a node is upgraded with.

`python -m image.bundle FOLDER` makes it of what `make image` left in a folder.
"""

import argparse
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from initd import release
from initd.release import MACHINES, Manifest, Part

_FILES: Final = {"root": "root.erofs", "verity": "root.verity", "uki": "aurae.efi"}
KEYS: Final = "UPGRADE_KEYS"
"""Names the folder with the keys (PEM) whose signatures a node believes."""


def make(folder: Path, output: Path, version: str, architecture: str = "x86_64") -> Manifest:
    """Write a bundle of the root, tree and boot image in `folder`. Raises ValueError."""
    release.check_version(version)
    files = {name: folder / _FILES[name] for name in release.PARTS}
    image = files["uki"].read_bytes()
    machine, found = release.sections(lambda at, length: image[at : at + length], (".cmdline",))
    if machine != MACHINES[architecture]:
        raise ValueError(f"{files['uki']}: is not for {architecture}")
    root_hash = release.roothash_of(found[".cmdline"].rstrip(b"\0").decode())
    content = output.with_name(f"{output.name}.content")
    parts = []
    with content.open("wb") as packed:
        for name, path in files.items():
            before = packed.tell()
            digest = hashlib.sha256()
            for piece in _pieces(path):
                digest.update(piece)
                packed.write(release.compress(piece))
            size = path.stat().st_size
            parts.append(Part(name, size, digest.hexdigest(), packed.tell() - before))
    manifest = Manifest(version, architecture, root_hash, tuple(parts))
    with output.open("wb") as whole, content.open("rb") as packed:
        whole.write(release.head(manifest.encode()))
        while data := packed.read(release.PIECE):
            whole.write(data)
    content.unlink()
    return manifest


def keys() -> tuple[Path, ...]:
    """The keys that the image is to have. Raises ValueError: there is no such folder."""
    given = os.environ.get(KEYS, "")
    if not given:
        return ()
    found = tuple(sorted(Path(given).glob("*.pem")))
    if not found:
        raise ValueError(f"{KEYS}={given}: has no *.pem; make one by openssl genpkey")
    return found


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(release.PIECE):
            yield piece


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m image.bundle", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("version")
    parser.add_argument("output", type=Path)
    given = parser.parse_args()
    manifest = make(given.folder, given.output, given.version)
    print(f"{given.output}: {manifest.version}, {given.output.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
