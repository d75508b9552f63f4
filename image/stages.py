"""A build is a chain of stages; each is run only when what it is made from has changed.

What counts is the content of its inputs and everything before it in the chain, never a time.
"""

import hashlib
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Stage:
    """One step: what it is made from, what it leaves, and how. `make` is given the stage's key."""

    name: str
    title: str
    inputs: tuple[Path, ...]
    outputs: tuple[Path, ...]
    make: Callable[[str], None]


def fingerprint(before: str, inputs: Iterable[Path]) -> str:
    """A key for these inputs (files, or folders with all in them) after the stage keyed `before`.

    Compiled Python does not count. A missing input is a `FileNotFoundError`.
    """
    digest = hashlib.sha256(before.encode())
    for given in inputs:
        for path in [given] if given.is_file() else sorted(_sources(given)):
            digest.update(f"\0{path.relative_to(given.parent)}\0".encode())
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def run(stages: Sequence[Stage], stamps: Path) -> bool:
    """Bring every stage up to date, saying what is done. Returns whether anything was."""
    stamps.mkdir(parents=True, exist_ok=True)
    key = ""
    changed = False
    for number, stage in enumerate(stages, 1):
        key = fingerprint(key, stage.inputs)
        stamp = stamps / f"{stage.name}.key"
        done = stamp.exists() and stamp.read_text() == key
        if done and all(output.exists() for output in stage.outputs):
            continue
        changed = True
        print(f"==> [{number}/{len(stages)}] {stage.title}", flush=True)
        stamp.unlink(missing_ok=True)
        started = time.monotonic()
        stage.make(key)
        stamp.write_text(key)
        print(f"    {stage.name}: {time.monotonic() - started:.1f} s", flush=True)
    return changed


def _sources(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: an input of the build is missing")
    return [p for p in folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts]
