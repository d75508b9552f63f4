"""Write initramfs archives: the newc format of the kernel's `buffer-format.rst`.

Owner, time and inode numbers do not come from the host, so the same content gives the same bytes,
and device nodes need no root.
"""

import os
import shutil
import stat
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Final

_MAGIC: Final = "070701"
_TRAILER: Final = "TRAILER!!!"


class Archive:
    """An open archive. Folders above an entry are made when they are first needed."""

    def __init__(self, output: BinaryIO) -> None:
        self._output = output
        self._inode = 0
        self._folders = {PurePosixPath("/")}

    def folder(self, path: PurePosixPath, mode: int = 0o755) -> None:
        if path in self._folders:
            return
        self.folder(path.parent)
        self._folders.add(path)
        self._header(path, stat.S_IFDIR | mode)

    def data(self, path: PurePosixPath, content: bytes, mode: int = 0o644) -> None:
        self.folder(path.parent)
        self._header(path, stat.S_IFREG | mode, size=len(content))
        self._output.write(content)
        self._pad(len(content))

    def file(self, path: PurePosixPath, source: Path, mode: int | None = None) -> None:
        """Add the file's content, without holding it in memory."""
        self.folder(path.parent)
        with source.open("rb") as content:
            status = os.fstat(content.fileno())
            kept = stat.S_IMODE(status.st_mode) if mode is None else mode
            self._header(path, stat.S_IFREG | kept, size=status.st_size)
            shutil.copyfileobj(content, self._output, 1 << 20)
        self._pad(status.st_size)

    def symlink(self, path: PurePosixPath, target: str) -> None:
        self.folder(path.parent)
        self._header(path, stat.S_IFLNK | 0o777, size=len(target.encode()))
        self._output.write(target.encode())
        self._pad(len(target.encode()))

    def character_device(self, path: PurePosixPath, major: int, minor: int, mode: int) -> None:
        self.folder(path.parent)
        self._header(path, stat.S_IFCHR | mode, device=(major, minor))

    def tree(self, path: PurePosixPath, source: Path) -> None:
        """Add a folder of the host with all that is in it, in the order of names."""
        self.folder(path)
        for entry in sorted(source.iterdir()):
            target = path / entry.name
            if entry.is_symlink():
                self.symlink(target, str(entry.readlink()))
            elif entry.is_dir():
                self.tree(target, entry)
            else:
                self.file(target, entry)

    def close(self) -> None:
        """End the archive. Another one may follow it in the same file, from a multiple of 4 on."""
        self._header(PurePosixPath("/") / _TRAILER, 0)

    def _header(
        self, path: PurePosixPath, mode: int, *, size: int = 0, device: tuple[int, int] = (0, 0)
    ) -> None:
        self._inode += 1
        name = str(path.relative_to("/")).encode() + b"\0"
        links = 2 if stat.S_ISDIR(mode) else 1
        # inode, mode, uid, gid, links, mtime, size, device of the file, device of the node,
        # length of the name, checksum (unused)
        fields = (self._inode, mode, 0, 0, links, 0, size, 0, 0, *device, len(name), 0)
        header = _MAGIC + "".join(f"{field:08X}" for field in fields)
        self._output.write(header.encode() + name)
        self._pad(len(header) + len(name))

    def _pad(self, length: int) -> None:
        self._output.write(b"\0" * (-length % 4))
