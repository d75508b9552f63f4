"""The node's identity from files: those of its state folder go before the boot credentials.

In the state folder are `node.crt`, `node.key`, `ca.crt`, `crl.pem` and, in `federated`, the file
`TRUST-DOMAIN.crt` for each; an empty one hides the boot credential for that trust domain.
Where a certificate is replaced together with its key or its roots, the new ones are put there as
`next.crt`, `next.key` and `next.ca.crt`, the certificate last: from its moment on they count, and
then they take the places of the old ones.
"""

import asyncio
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from initd.linux import inotify
from initd.values import NamedTuple
from runtime.identity.spiffe import parse_trust_domain
from runtime.observe.wakeups import Wakeups
from runtime.trust import material
from runtime.trust.material import REMEDY, Material, Names, Unusable
from runtime.trust.trust import Trust

log = logging.getLogger(__name__)

# Boot credentials.
CERTIFICATE: Final = "aurae.node.crt"
KEY: Final = "aurae.node.key"
BUNDLE: Final = "aurae.ca.crt"
CRLS: Final = "aurae.crl"
FEDERATED: Final = "aurae.federated."

CHANGES: Final = inotify.CREATE | inotify.CLOSE_WRITE | inotify.MOVED_TO | inotify.DELETE
# Seconds without another change until files are read: they are replaced one after the other.
QUIET: Final = 0.2
# Seconds after which they are read although something changes all the time.
LONGEST: Final = 2.0


_Check = Callable[[Material], tuple[Material, bool]]


class Part(NamedTuple):
    """A file, and what messages call it."""

    path: Path
    name: str


class Files:
    """`credentials` is the folder of the boot credentials, if there is one. `set_clock` is given
    where the clock is the node's own to set, in seconds since the epoch."""

    def __init__(
        self,
        state: Path,
        credentials: Path | None,
        set_clock: Callable[[float], None] | None = None,
    ) -> None:
        self.state = state
        self._credentials = credentials
        self._set_clock = set_clock
        self._said = ""
        """What is wrong and was told already: other files of the folder change too."""
        self._unwatched: set[Path] = set()
        """Folders of which it was told that they are not watched."""

    def read(self) -> Material:
        """Well formed material, read with little effort. Raises Unusable."""
        return self._first(lambda found: (found, False))[0]

    def load(self) -> tuple[Material, bool]:
        """Material that is usable as a whole; also whether it is out of date. Raises Unusable.

        Loads cryptography: for a thread, and not before the API answers.
        """
        return self._first(_usable, complain=log.error)

    async def run(self, trust: Trust, wakeups: Wakeups) -> None:
        """Have `trust` follow the files. What is unusable changes nothing, but at the start."""
        await asyncio.to_thread(self._begin)
        changed, take = asyncio.Event(), self._start
        while True:
            with ExitStack() as watches:
                # Folders may come, go and be replaced as well. Read only when they are watched.
                for folder in await asyncio.to_thread(lambda: list(self._folders())):
                    self._watch(watches, wakeups, folder, changed)
                await take(trust)
                take = self._follow
                await changed.wait()
                await self._settle(changed)

    def _watch(
        self, watches: ExitStack, wakeups: Wakeups, folder: Path, changed: asyncio.Event
    ) -> None:
        try:
            watches.enter_context(wakeups.on(folder, changed, CHANGES))
        except FileNotFoundError:
            return
        except OSError as e:
            if folder not in self._unwatched:
                self._unwatched.add(folder)
                log.error(
                    "%s: cannot be watched (%s); what changes there is seen at the next start",
                    folder,
                    e.strerror,
                )
        else:
            self._unwatched.discard(folder)

    def finish(self) -> None:
        """Let the next certificate, if there is one, take the place of the old."""
        if not (self.state / "next.crt").exists():
            return
        for name in ("ca.crt", "node.key", "node.crt"):
            fresh = self.state / f"next.{name}".replace("next.node.", "next.")
            with suppress(FileNotFoundError):
                fresh.rename(self.state / name)

    def _begin(self) -> None:
        self.state.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            self.finish()
        except OSError as e:
            log.warning("%s: %s: the next certificate stays where it is", self.state, e.strerror)

    async def _start(self, trust: Trust) -> None:
        try:
            found, expired = await asyncio.to_thread(self.load)
        except Unusable as e:
            self._said = str(e)
            if trust.current is not None:
                log.error("%s. Until then callers with certificates are refused", e)
            trust.update(None)
            return
        except Exception:
            # Others made the files: what nobody has thought of must not end the API.
            log.exception("identity: cannot be read; what the node began with is kept")
            return
        if expired and not self._mend_clock(found):
            log.warning(
                "%s: is not valid at this node's time; check the clock, or renew it",
                found.names.certificate,
            )
        else:
            log.info("%s from %s: is good", found.identity, found.source)
        trust.update(found)

    def _mend_clock(self, found: Material) -> bool:
        """Whether it is right enough now: a certificate that the node's own authority has signed
        proves that its first moment has passed. A machine without a clock boots years before."""
        from runtime.identity import svid

        begins = svid.parse(found.certificate).not_before
        now = datetime.now(UTC)
        if self._set_clock is None or now >= begins:
            return False
        try:
            self._set_clock(begins.timestamp())
        except OSError as e:
            log.error("clock: cannot be set: %s", e.strerror)
            return False
        log.warning(
            "clock: said %s, before the node's certificate begins; is set to %s. Set it right: "
            "whose certificate begins later is refused until then",
            f"{now:%Y-%m-%d %H:%M}",
            f"{begins:%Y-%m-%d %H:%M}",
        )
        return True

    async def _settle(self, changed: asyncio.Event) -> None:
        try:
            async with asyncio.timeout(LONGEST):
                while True:
                    changed.clear()
                    async with asyncio.timeout(QUIET):
                        await changed.wait()
        except TimeoutError:
            changed.clear()

    async def _follow(self, trust: Trust) -> None:
        try:
            found, expired = await asyncio.to_thread(self._load_new)
            if expired and trust.current is not None and not self._mend_clock(found):
                raise Unusable(
                    f"{found.names.certificate}: is not valid at this node's time; renew it, or "
                    "check the clock"
                )
        except Unusable as e:
            if str(e) == self._said:
                return
            self._said = str(e)
            if trust.current is None:
                log.error("%s", e)
            else:
                log.error("%s. The node goes on as %s", e, trust.current.identity)
            return
        except Exception as e:
            if repr(e) != self._said:
                self._said = repr(e)
                log.exception("identity: cannot be read; what was there is kept")
            return
        self._said = ""
        if trust.update(found):
            log.info("%s from %s: takes effect", found.identity, found.source)

    def _load_new(self) -> tuple[Material, bool]:
        found = self._read(state=True)
        verify_others(found)
        return _usable(found)

    def _first(
        self, check: _Check, complain: Callable[..., None] | None = None
    ) -> tuple[Material, bool]:
        """The state over the boot credentials; where that is unusable, these alone."""
        try:
            return check(self._read(state=True))
        except Unusable as e:
            if self._credentials is None or not self._has_own():
                raise
            try:
                result = check(self._read(state=False))
            except Unusable:
                raise e from None
            if complain is not None:
                complain("%s. Until then the node is what its boot credentials say", e)
            return result

    def any(self) -> bool:
        """Whether anything says who the node is, usable or not."""
        given = [self.state / name for name in ("node.crt", "node.key", "ca.crt", "next.crt")]
        if self._credentials is not None:
            given += [self._credentials / name for name in (CERTIFICATE, KEY, BUNDLE)]
        return any(map(os.path.lexists, given))

    def _has_own(self) -> bool:
        return any((self.state / name).exists() for name in ("node.crt", "next.crt", "ca.crt"))

    def _read(self, *, state: bool) -> Material:
        certificate, key = self._pair(state=state)
        chain = _pem(certificate)
        own = material.identity(chain, certificate.name)
        bundle = self._part("ca.crt", BUNDLE, state=state)
        bundles = {own.trust_domain: _pem(bundle)}
        for trust_domain, part in self._federated().items():
            if trust_domain not in bundles and (content := _content(part)):
                bundles[trust_domain] = content
        crls = self._part("crl.pem", CRLS, state=True)
        return Material(
            identity=own,
            certificate=chain,
            key=_pem(key),
            bundles=bundles,
            crls=_content(crls) if crls.path.exists() else b"",
            source=str(certificate.path.parent),
            names=Names(certificate.name, key.name, bundle.name),
        )

    def _pair(self, *, state: bool) -> tuple[Part, Part]:
        if state and (self.state / "next.crt").exists():
            key = "next.key" if (self.state / "next.key").exists() else "node.key"
            return self._own("next.crt"), self._own(key)
        if state and (self.state / "node.crt").exists():
            return self._own("node.crt"), self._own("node.key")
        return self._boot(CERTIFICATE), self._boot(KEY)

    def _part(self, own: str, boot: str, *, state: bool) -> Part:
        if state and (self.state / "next.crt").exists() and (self.state / f"next.{own}").exists():
            return self._own(f"next.{own}")
        if state and (self._credentials is None or (self.state / own).exists()):
            return self._own(own)
        return self._boot(boot)

    def _federated(self) -> dict[str, Part]:
        """By trust domain; the state's go before those from boot."""
        found = {}
        for path in _entries(self._credentials):
            if path.name.startswith(FEDERATED) and path.suffix == ".crt":
                name = path.name.removeprefix(FEDERATED).removesuffix(".crt")
                found[name] = Part(path, f"credential {path.name}")
        for path in _entries(self.state / "federated"):
            if path.suffix == ".crt" and not path.name.startswith("."):
                found[path.name.removesuffix(".crt")] = Part(path, str(path))
        for name, part in tuple(found.items()):
            try:
                parse_trust_domain(name)
            except ValueError as e:
                log.error("%s: is left out: %s", part.name, e)
                del found[name]
        return found

    def _own(self, name: str) -> Part:
        return Part(self.state / name, f"identity {name}")

    def _boot(self, name: str) -> Part:
        if self._credentials is None:
            return self._own({CERTIFICATE: "node.crt", KEY: "node.key"}.get(name, name))
        return Part(self._credentials / name, f"credential {name}")

    def _folders(self) -> Iterator[Path]:
        """What is watched, as far as it is there."""
        folders = (self.state.parent, self.state, self.state / "federated", self._credentials)
        yield from (folder for folder in folders if folder is not None and folder.is_dir())


def verify_others(found: Material) -> None:
    """Raises Unusable if a bundle of another trust domain cannot be used."""
    from runtime.trust import usable

    for trust_domain, bundle in found.bundles.items():
        usable.verify_bundle(trust_domain, bundle)


def _usable(found: Material) -> tuple[Material, bool]:
    """Without the bundles that cannot be used: a damaged one must not keep all callers out."""
    from runtime.trust import usable

    usable.parse_crls(found.crls)
    bundles = dict(found.bundles)
    for trust_domain in bundles.keys() - {found.identity.trust_domain}:
        try:
            usable.verify_bundle(trust_domain, bundles[trust_domain])
        except Unusable as e:
            log.error("%s. Until then its callers are refused", e)
            del bundles[trust_domain]
    found = found._replace(bundles=bundles)
    return found, usable.verify(found)


def _entries(folder: Path | None) -> list[Path]:
    return sorted(folder.iterdir()) if folder is not None and folder.is_dir() else []


def _pem(part: Part) -> bytes:
    content = _content(part)
    if b"-----END " not in content:
        raise Unusable(f"{part.name}: is no PEM file, or cut short; {REMEDY}")
    return content


def _content(part: Part) -> bytes:
    try:
        return part.path.read_bytes()
    except FileNotFoundError as e:
        raise Unusable(f"{part.name}: is missing; {REMEDY}") from e
    except OSError as e:
        raise Unusable(f"{part.name}: cannot be read ({e.strerror}); {REMEDY}") from e
