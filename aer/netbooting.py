"""`aer netboot serve` at work: dnsmasq, the HTTP server, and what is said of both."""

import json
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, TypeAlias

from aer import dnsmasq, interface, output, payload
from aer.command import Call
from aer.dnsmasq import Offer, Sent, Told
from aer.errors import AerError, UsageError
from aer.netboot import FOLDER, KEY, URL, signer_of
from aer.payload import FIRST, Configurations, Payload
from aer.site import Fetched, Server, Site

# Seconds that dnsmasq has to begin, and to end.
_BEGIN: Final = 10.0
_END: Final = 3.0
# The last of its lines, for when it ends by itself.
_LINES: Final = 20

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """What is served, and where."""

    interface: str
    url: str
    append: str
    mode: str


Event: TypeAlias = Serving | Fetched | Sent | Told


def serve(call: Call) -> int:
    """Until a signal asks for its end. Raises AerError."""
    found = Payload.find((call["folder"] or FOLDER).absolute())
    card = call["interface"] or interface.by_default()
    address = interface.address(card)
    if call["dhcp_range"] and not all(one in address.network for one in call["dhcp_range"]):
        raise UsageError(f"--dhcp-range: is not in {address.network}, the network of {card}")
    signer = signer_of(call["key"]) if call["key"] else None
    configurations = _configurations(call)
    say = _Teller(call["output"])
    with ExitStack() as opened:
        stop = opened.enter_context(_stopped_by(_SIGNALS))
        made = Path(opened.enter_context(tempfile.TemporaryDirectory(prefix="aer-netboot-")))
        # dnsmasq reads it as another user.
        made.chmod(0o755)
        site = Site(found, made, configurations, signer.sign if signer else None)
        server = _listen(str(address.ip), call["port"], site, say)
        opened.callback(server.close)
        base = f"http://{address.ip}:{server.port}"
        words = list(call["append"] or ())
        if configurations:
            words += [f"{URL}={base}/config/${{mac}}"]
            words += [f"{KEY}={signer.public}"] if signer else []
        append = payload.arguments(words)
        _make(site, append, base)
        server.start()
        watched = None
        if not call["http_only"]:
            offer = Offer(
                interface=card,
                address=address,
                script=FIRST,
                uefi=found.uki,
                url=f"{base}/{found.uki}",
                bios=_bios_program(made),
                range=call["dhcp_range"],
            )
            watched = opened.enter_context(_dnsmasq(offer, made, say, stop))
        say(Serving(interface=card, url=base, append=append, mode=_mode(call)))
        stop.wait()
        if watched is not None and watched.poll() is not None:
            raise AerError(f"dnsmasq: ended by itself, exit {watched.returncode}; see above")
    return 0


def _configurations(call: Call) -> Configurations | None:
    if not call["node_config"]:
        if call["key"]:
            raise UsageError("--key: signs nothing without --node-config")
        return None
    found = Configurations(call["node_config"].absolute())
    found.check()
    if not call["key"] and not any(KEY in word for word in call["append"] or ()):
        raise UsageError(
            "--node-config: nodes take nothing that is not signed by a key that they know",
            f"--key FILE, or --append {KEY}=… and signatures beside the files",
        )
    return found


def _mode(call: Call) -> str:
    if call["http_only"]:
        return "http"
    return "dhcp" if call["dhcp_range"] else "proxy"


def _listen(address: str, port: int, site: Site, say: Callable[[Fetched], None]) -> Server:
    try:
        return Server((address, int(port)), site, say)
    except OSError as e:
        raise AerError(f"{address}:{port}: {e.strerror}", "choose another by --port") from e


def _make(site: Site, append: str, base: str) -> None:
    """What is not served as it lies there: the first script, and the EFI program, which gets the
    arguments."""
    files = {FIRST: payload.first_script(append, base).encode()}
    program = site.payload.folder / site.payload.uki
    if append:
        files[site.payload.uki] = payload.with_arguments(program, append)
    else:
        # dnsmasq may not be let into the folder.
        shutil.copyfile(program, site.made / site.payload.uki)
    for name, content in files.items():
        (site.made / name).write_bytes(content)
    for path in site.made.iterdir():
        path.chmod(0o644)


def _bios_program(made: Path) -> str:
    """What a BIOS starts that has no iPXE; empty where this host has none to give."""
    if not dnsmasq.BIOS_PROGRAM.exists():
        output.warn(
            f"{dnsmasq.BIOS_PROGRAM}: does not exist: a BIOS without iPXE in its card cannot boot "
            "(apt install ipxe)"
        )
        return ""
    shutil.copyfile(dnsmasq.BIOS_PROGRAM, made / dnsmasq.BIOS_PROGRAM.name)
    (made / dnsmasq.BIOS_PROGRAM.name).chmod(0o644)
    return dnsmasq.BIOS_PROGRAM.name


@contextmanager
def _dnsmasq(
    offer: Offer, folder: Path, say: "_Teller", stop: threading.Event
) -> Iterator["subprocess.Popen[str]"]:
    """Runs until the block ends. Sets `stop` if it ends by itself. Raises AerError where it cannot
    begin."""
    command = dnsmasq.command(dnsmasq.find(), offer, folder)
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        # ctrl-c is for us, who end it.
        start_new_session=True,
    )
    begun = threading.Event()
    last: list[str] = []
    reader = threading.Thread(target=_follow, args=(process, say, begun, stop, last))
    reader.start()
    try:
        begun.wait(_BEGIN)
        if not any("started" in line for line in last):
            raise AerError(
                f"dnsmasq: cannot begin: {last[-1] if last else 'it says nothing'}",
                "it needs root, and UDP ports 67, 69 and 4011 that nobody else has",
            )
        yield process
        if process.poll() is not None:
            for line in last:
                print(line, file=sys.stderr)
    finally:
        process.terminate()
        try:
            process.wait(_END)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        reader.join()


def _follow(
    process: "subprocess.Popen[str]",
    say: "_Teller",
    begun: threading.Event,
    stop: threading.Event,
    last: list[str],
) -> None:
    """Its log, a line at a time, until it ends."""
    assert process.stderr is not None
    with process.stderr as lines:
        for text in lines:
            line = text.rstrip()
            last[:] = [*last[-_LINES:], line]
            if "started" in line:
                begun.set()
            if event := dnsmasq.read(line):
                say(event)
    begun.set()
    stop.set()


@contextmanager
def _stopped_by(numbers: tuple[signal.Signals, ...]) -> Iterator[threading.Event]:
    """An event that these signals set while the block lasts; those that are ignored stay so."""
    stop = threading.Event()
    heard = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in heard}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Teller:
    """Says what happens, a line an event; from any thread."""

    def __init__(self, form: str) -> None:
        self._form = form
        self._lock = threading.Lock()

    def __call__(self, event: Event) -> None:
        line = as_json(event) if self._form == "json" else as_text(event)
        with self._lock:
            print(line, flush=True)


_NAMES: Final = {Serving: "serving", Fetched: "http", Sent: "tftp", Told: "dhcp"}


def as_json(event: Event) -> str:
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    return json.dumps({"time": now, "event": _NAMES[type(event)], **asdict(event)})


def as_text(event: Event) -> str:
    match event:
        case Serving():
            return _introduction(event)
        case Fetched():
            return output.printable(f"{event.client:<15}  http  {_fetched(event)}")
        case Sent(client, name, failed):
            return output.printable(f"{client:<15}  tftp  {name or '-'}  {failed or 'sent'}")
        case Told(mac, what):
            return output.printable(f"{mac}  dhcp  {what}")


def _introduction(event: Serving) -> str:
    modes = {
        "proxy": "DHCP beside the server that is there, TFTP and HTTP",
        "dhcp": "DHCP with addresses, TFTP and HTTP",
        "http": f"HTTP; iPXE boots {event.url}/{FIRST}",
    }
    lines = [f"serving on {event.interface}, {event.url}: {modes[event.mode]}"]
    lines += [f"arguments: {event.append}"] if event.append else []
    return "\n".join([*lines, "ctrl-c ends it"])


def _fetched(event: Fetched) -> str:
    if event.status != 200:
        return f"{event.path}  {event.status}"
    if event.method == "HEAD":
        return f"{event.path}  asked for its size"
    speed = f"{event.sent / 1e6:.1f} MB in {event.seconds:.1f} s"
    if event.seconds:
        speed += f", {event.sent / 1e6 / event.seconds:.1f} MB/s"
    short = f"  broken off, of {event.size / 1e6:.1f} MB" if event.sent < event.size else ""
    return f"{event.path}  {speed}{short}"
