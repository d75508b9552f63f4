"""The working tree's packages as one more initramfs, for a machine with newer code than the image.

`/overlay/PACKAGE` is laid over the root's package of that name; and the initramfs's own code, with
what of the standard library it has come to need, stands beside in its usual place.
"""

import argparse
import shutil
import tempfile
from pathlib import Path, PurePosixPath

from image import initramfs, pack, python
from image.cpio import Archive

PROJECT = Path(__file__).resolve().parent.parent
ROOT = PROJECT / "build/image/root"
VERSION = "initd/version.py"


def build_overlay(out: Path, root: Path = ROOT, project: Path = PROJECT) -> Path:
    """Write the overlay to `out`: to be appended to an initramfs. Returns `out`.

    `root` is the tree that `make image` leaves; its Python compiles, so that the machine need not.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="aurae-overlay-") as name, out.open("wb") as file:
        tree = Path(name) / "tree"
        packages = tree / python.DIST_PACKAGES
        for source in python.sources_of_ours(project):
            ignored = shutil.ignore_patterns("__pycache__", "*.pyi", "*.pb")
            shutil.copytree(source, packages / source.name, ignore=ignored)
        # The version is the image's.
        shutil.copyfile(root / python.DIST_PACKAGES / VERSION, packages / VERSION)
        python.compile_tree(root, [packages], prefix=tree)
        pack.write_ours(packages, prefix=tree)
        archive = Archive(file)
        archive.tree(PurePosixPath("/overlay"), packages)
        initramfs.add_modules(archive, root, tree, root)
        archive.close()
    return out


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m image.overlay", description=__doc__)
    parser.add_argument("out", type=Path)
    print(build_overlay(parser.parse_args().out))
