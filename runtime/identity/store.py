"""Keys and certificates on a disk. What is there is overwritten by nobody but a `replace`."""

import errno
import os
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from runtime.identity import svid
from runtime.identity.authority import Pair

_FOLDER: Final = 0o700
_KEY: Final = 0o600
_CERTIFICATE: Final = 0o644


@dataclass(frozen=True, slots=True)
class PairFiles:
    """Where a certificate and its key lie. The pair exists if and only if the certificate does."""

    certificate: Path
    key: Path

    @classmethod
    def at(cls, path: Path) -> Self:
        """`path` without a suffix. A name may have dots, so this is no `with_suffix`."""
        return cls(path.parent / f"{path.name}.crt", path.parent / f"{path.name}.key")

    def load(self) -> Pair:
        """Raises OSError."""
        return Pair(self.certificate.read_bytes(), self.key.read_bytes())

    @property
    def _next_key(self) -> Path:
        return self.key.parent / f"{self.key.name}.next"

    def replace(self, pair: Pair) -> None:
        """Put `pair` in the place of the one that is there: it is the old one or the new one.

        The certificate's rename decides. A new key lies beside it before; what a crash leaves,
        `settle` ends.
        """
        replace(self._next_key, pair.key, _KEY)
        replace(self.certificate, pair.certificate, _CERTIFICATE)
        self._next_key.rename(self.key)
        _sync(self.key.parent)

    def settle(self) -> None:
        """Finish or undo a `replace` that a crash cut off. Raises OSError."""
        if not self._next_key.exists():
            return
        try:
            svid.match_key(self.certificate.read_bytes(), self._next_key.read_bytes())
        except ValueError:
            self._next_key.unlink()
        else:
            self._next_key.rename(self.key)
        _sync(self.key.parent)

    def leftover_key(self) -> bytes | None:
        """A key without a certificate: what a crash in `write` leaves. Finish that pair with it.

        Raises FileExistsError if the certificate is there.
        """
        if os.path.lexists(self.certificate):
            raise FileExistsError(errno.EEXIST, "exists already", str(self.certificate))
        with suppress(FileNotFoundError):
            return self.key.read_bytes()
        return None

    def write(self, pair: Pair) -> None:
        """Put both on the disk, the key first; a key that lies there already is left as it is.

        No file is ever seen half written, and none is overwritten: FileExistsError. On an error
        nothing new stays. A crash between the two leaves a key that `leftover_key` finds.
        """
        self.key.parent.mkdir(mode=_FOLDER, parents=True, exist_ok=True)
        created = self._write_key(pair.key)
        try:
            create(self.certificate, pair.certificate, _CERTIFICATE)
        except FileExistsError:
            # Somebody was faster, and took our key for it.
            raise
        except BaseException:
            if created:
                self.key.unlink()
            raise

    def _write_key(self, key: bytes) -> bool:
        """Whether the file is new."""
        try:
            create(self.key, key, _KEY)
        except FileExistsError:
            if self.key.read_bytes() != key:
                raise
            return False
        return True


def create(path: Path, content: bytes, mode: int) -> None:
    """Make a new file at once with all its content, on the disk when this returns."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fchmod(descriptor, mode)
            os.fsync(descriptor)
        # link(2) and not rename(2): it refuses a name that is taken.
        try:
            os.link(temporary, path)
        except FileExistsError as e:
            raise FileExistsError(e.errno, "exists already", str(path)) from None
    finally:
        Path(temporary).unlink()
    _sync(path.parent)


def replace(path: Path, content: bytes, mode: int) -> None:
    """Put a file with `content` in the place of what is there, if anything, at once."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fchmod(descriptor, mode)
            os.fsync(descriptor)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink()
        raise
    _sync(path.parent)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
