"""What a person at the machine sees of it: a screen on the display, a few lines on serial lines.

The display has the first virtual terminal for it, drawn anew at each change; the log of the kernel,
and ours where the display is the console, are on the second (Alt-F2). A serial line is a log that
others read: there a block of lines comes when something has changed and settled, and never often.
"""

import os
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

from initd.boot import booted
from initd.console import Console, open_console
from initd.linux import addresses, terminal
from initd.log import Log
from initd.loop import Loop, Timer
from initd.values import NamedTuple
from initd.version import VERSION

# Seconds: from a change until it is drawn, and between two drawings.
DRAW: Final = 0.5
# Without a change until lines are written; between two blocks of them; and at most for the first.
SETTLE: Final = 3.0
BLOCKS: Final = 20.0
LATEST: Final = 30.0

SCREEN: Final = "/dev/tty1"
LOG: Final = "/dev/tty2"
_LOG_NUMBER: Final = 2
_FLAGS: Final = os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC
_CONSOLES: Final = "/sys/class/tty/console/active"
_DISPLAYS: Final = "/sys/class/vtconsole"
_OS_RELEASE: Final = "/usr/lib/os-release"
_LINKS: Final = "/sys/class/net"
# Where a display says nothing of itself: VGA's text.
_SIZE: Final = (25, 80)
# Words of a fingerprint in a line.
_WORDS: Final = 4
_ADDRESSES: Final = 8
# Of what is routed, here or (fec0::/10) on this site.
_ROUTED: Final = (0, 200)
_ON_LINK: Final = 253
_LABEL: Final = 14
_NAMES: Final = {"runtime": "API"}

_HOME, _CLEAR_LINE, _CLEAR_REST = "\x1b[H", "\x1b[K", "\x1b[J"
_HIDE_CURSOR, _TITLE, _BAD, _PLAIN = "\x1b[?25l", "\x1b[0;7m", "\x1b[0;1;31m", "\x1b[0m"


class Identity(NamedTuple):
    """Who the node is: a SPIFFE ID; or a fingerprint in words, where nobody has claimed it."""

    spiffe_id: str = ""
    fingerprint: str = ""


class Service(NamedTuple):
    """`ready` is what it said of itself, empty: it did not, or does not run."""

    name: str
    ready: str
    runs: bool
    starts: int


class State(NamedTuple):
    """All that is shown."""

    host: str
    version: str
    slot: str
    addresses: tuple[str, ...]
    identity: Identity
    health: tuple[str, ...]
    well: bool
    error: str

    @property
    def title(self) -> str:
        return f"{self.host}: aurae {self.version}, {self.slot}"

    def fields(self) -> list[tuple[str, str]]:
        """Labels and texts, in their order; a label is empty where it is the one before."""
        state = "serves" if self.well else "does not serve"
        return [
            ("state", state),
            *_labelled("addresses", self.addresses or ("none",)),
            *_labelled("identity", _identity(self.identity)),
            *_labelled("health", self.health),
            ("last error", self.error or "none"),
        ]


def _labelled(label: str, texts: Sequence[str]) -> list[tuple[str, str]]:
    return [("" if number else label, text) for number, text in enumerate(texts)]


def _identity(identity: Identity) -> tuple[str, ...]:
    if identity.spiffe_id:
        return (identity.spiffe_id,)
    if not identity.fingerprint:
        return ("none",)
    words = identity.fingerprint.split()
    lines = (words[at : at + _WORDS] for at in range(0, len(words), _WORDS))
    return (
        "nobody has claimed this node (aer node claim); its fingerprint:",
        *(" ".join(line) for line in lines),
    )


def block(state: State) -> list[str]:
    """Lines for a serial line."""
    rest = [f"  {label:<{_LABEL}}{text}" for label, text in state.fields()]
    return [state.title, *rest]


def frame(state: State, rows: int, columns: int) -> str:
    """A whole screen: what was there before is gone, without a flicker."""
    # A line as wide as the screen would begin the next.
    width = max(columns - 1, 1)
    lines = [f"{_TITLE} {printable(state.title)[: width - 1]:<{width - 1}}{_PLAIN}", ""]
    for label, text in state.fields():
        bad = (label == "state" and not state.well) or (label == "last error" and state.error)
        shown = printable(f" {label:<{_LABEL}}{text}")
        before, after = (_BAD, _PLAIN) if bad else ("", "")
        lines += [f"{before}{part}{after}" for part in _folded(shown, width, _LABEL + 1)]
        if label == "state":
            lines.append("")
    lines = lines[: rows - 1]
    return (
        _HIDE_CURSOR + _HOME + "".join(f"{line}{_CLEAR_LINE}\r\n" for line in lines) + _CLEAR_REST
    )


def _folded(text: str, width: int, indent: int) -> list[str]:
    """In lines of `width`, those after the first begin further in."""
    lines, margin = [], ""
    while text:
        room = max(width - len(margin), 1)
        # At a blank, unless that would leave most of the line empty.
        at = text.rfind(" ", room // 2, room + 1) if len(text) > room else -1
        at = at if at > indent - len(margin) else room
        lines.append(margin + text[:at])
        text = text[at:].lstrip(" ")
        margin = " " * min(indent, width // 2)
    return lines


def printable(text: str) -> str:
    """Nobody who had a part in it steers the terminal."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def version(path: str = _OS_RELEASE) -> str:
    """The image's; without one, ours."""
    with suppress(OSError), open(path, encoding="utf-8", errors="replace") as file:  # noqa: PTH123
        for line in file:
            name, _, value = line.strip().partition("=")
            if name == "IMAGE_VERSION" and value.strip('"'):
                return value.strip('"')
    return VERSION


def origin(*, emergency: bool) -> str:
    """What the node runs from."""
    if emergency:
        return "emergency entry"
    told = booted.read()
    if told.slot:
        return f"slot {told.slot}"
    return f"root {told.root}" if told.root else "no slot"


def host_addresses() -> tuple[str, ...]:
    """Links with their addresses: those that are routed; a link's own where there is no other."""
    names: dict[int, list[str]] = {}
    own: dict[int, list[str]] = {}
    with suppress(OSError):
        for address in addresses.addresses():
            if address.scope in (*_ROUTED, _ON_LINK):
                place = own if address.scope == _ON_LINK else names
                place.setdefault(address.interface, []).append(f"{address.text}/{address.prefix}")
    found = [_link(index, texts) for index, texts in sorted((names or own).items())]
    if len(found) > _ADDRESSES:
        found = [*found[: _ADDRESSES - 1], f"and of {len(found) - _ADDRESSES + 1} more links"]
    if names:
        return tuple(found)
    return (*found, *_links())


def _link(index: int, texts: list[str]) -> str:
    try:
        name = socket.if_indextoname(index)
    except OSError:
        name = f"link {index}"
    return f"{name} {' '.join(texts)}"


def _links(folder: str = _LINKS) -> tuple[str, ...]:
    """Where there is no network: what there is of it."""
    found = []
    with suppress(OSError):
        for name in sorted(os.listdir(folder)):  # noqa: PTH208
            if not os.path.exists(f"{folder}/{name}/device"):  # noqa: PTH110
                continue
            up = _read(f"{folder}/{name}/carrier") == "1"
            found.append(f"{name} has a cable, and no address" if up else f"{name} has no cable")
    return tuple(found) or ("no network card",)


def health(services: Sequence[Service], *, going_down: str) -> tuple[tuple[str, ...], bool]:
    """Of each service a line; and whether the node is well."""
    lines = [f"going down: {going_down}"] if going_down else []
    well = not going_down
    for service in services:
        again = f", started {service.starts} times" if service.starts > 1 else ""
        if service.ready:
            lines.append(f"{_NAMES.get(service.name, service.name)}: {service.ready}{again}")
        elif service.name == "runtime":
            lines.append(f"API: does not answer{again}")
            well = False
        elif service.runs:
            lines.append(f"{service.name}: runs{again}")
        else:
            lines.append(f"{service.name}: does not run{again}")
            well = False
    return tuple(lines), well


class Screen:
    """From `start` on; `changed` may be called at any time."""

    def __init__(
        self, loop: Loop, log: Log, look: Callable[[], State], listener: int | None = None
    ) -> None:
        """`listener` is the one of a screen that was here before."""
        self._loop = loop
        self._log = log
        self._look = look
        self._started = False
        self._listener = None if listener is None else socket.socket(fileno=listener)
        self._drawn: State | None = None
        self._written: State | None = None
        self._prepared = False
        self._draw_timer: Timer | None = None
        self._block_timer: Timer | None = None
        self._waits_since = 0.0
        self._last_block = float("-inf")

    def start(self) -> None:
        """Once more does no harm."""
        if self._started:
            return
        self._started = True
        with suppress(OSError):
            listener = self._listener or addresses.listen()
            listener.setblocking(False)
            self._listener = listener
            self._loop.watch(listener.fileno(), lambda _: self._heard(listener))
        self.changed()

    @property
    def listener(self) -> int | None:
        """A descriptor, readable when addresses have changed."""
        return None if self._listener is None else self._listener.fileno()

    def changed(self) -> None:
        """Something that is shown may be another."""
        if not self._started:
            return
        if self._draw_timer is None:
            self._draw_timer = self._loop.later(DRAW, self._draw)
        now = time.monotonic()
        if self._block_timer is None:
            self._waits_since = now
        else:
            self._block_timer.cancel()
        settled = min(now + SETTLE, self._waits_since + LATEST)
        due = max(settled, self._last_block + BLOCKS)
        self._block_timer = self._loop.at(due, self._write)

    def close(self) -> None:
        """Hear of nothing any more."""
        self._started = False
        if self._listener is not None:
            self._loop.unwatch(self._listener.fileno())
            self._listener.close()
            self._listener = None

    def _heard(self, listener: socket.socket) -> None:
        addresses.drain(listener)
        self.changed()

    def _draw(self) -> None:
        self._draw_timer = None
        if not has_display() or (state := self._look()) == self._drawn:
            return
        with suppress(OSError):
            # A virtual terminal takes all at once: it is kept open for nobody.
            display = os.open(SCREEN, _FLAGS)
            try:
                self._prepare(display)
                rows, columns = terminal.size(display)
                text = frame(state, rows or _SIZE[0], columns or _SIZE[1])
                os.write(display, text.encode(errors="replace"))
            finally:
                os.close(display)
            self._drawn = state

    def _write(self) -> None:
        self._block_timer = None
        state = self._look()
        if state == self._written:
            return
        self._written = state
        self._last_block = time.monotonic()
        lines = block(state)
        names = consoles()
        if names and not is_display(names[-1]):
            for line in lines:
                self._log.show("status", line)
        for name in names[:-1]:
            if not is_display(name):
                with suppress(OSError):
                    _write_to(f"/dev/{name}", [f"status: {line}" for line in lines])

    def _prepare(self, display: int) -> None:
        """Have nobody else write on the screen."""
        if self._prepared:
            return
        self._prepared = True
        # The terminal for the log is there once it was opened.
        os.close(os.open(LOG, _FLAGS))
        with suppress(OSError):
            terminal.send_kernel_messages(display, _LOG_NUMBER)
        names = consoles()
        if names and is_display(names[-1]):
            self._log.console = open_console(LOG)


def consoles(path: str = _CONSOLES) -> list[str]:
    """Those that the kernel was told of; the last one is /dev/console."""
    return _read(path).split()


def is_display(name: str) -> bool:
    return name.startswith("tty") and name[3:].isdigit()


def has_display(folder: str = _DISPLAYS) -> bool:
    """Whether virtual terminals are seen anywhere: without a display they are a driver's that
    shows nothing."""
    with suppress(OSError):
        for name in os.listdir(folder):  # noqa: PTH208
            bound = _read(f"{folder}/{name}/bind") == "1"
            if bound and "dummy" not in _read(f"{folder}/{name}/name"):
                return True
    return False


def _write_to(path: str, lines: Sequence[str]) -> None:
    """To a line which is not the console: what it cannot take at once is not shown."""
    fd = os.open(path, _FLAGS)
    try:
        console = Console(fd)
        for line in lines:
            console.write(line)
    finally:
        os.close(fd)


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:  # noqa: PTH123
            return file.read().strip()
    except OSError:
        return ""
