"""The node's own key, and what an operator gives it: certificates, bundles, revocation lists."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final, TypeVar

from initd.errors import FailedPrecondition, InvalidArgument, NotFound
from initd.values import NamedTuple
from runtime.durable import PARTIAL, put
from runtime.identity.spiffe import SpiffeId, parse_trust_domain
from runtime.trust import material as materials
from runtime.trust.files import Files
from runtime.trust.material import Material, Names, Unusable
from runtime.trust.trust import Trust

log = logging.getLogger(__name__)

# Bytes of what is given: a certificate's chain, and a bundle or revocation lists.
MOST: Final = 256 * 1024
MOST_LISTS: Final = 4 * 1024 * 1024

# Of files that are being written; each has a name of its own.

_T = TypeVar("_T")

_NAMES: Final = Names("certificate", "key of the node", "roots")


class Request(NamedTuple):
    pem: bytes
    id: SpiffeId
    dns_name: str


class Custody:
    """Changes the files of the state folder; `trust` follows at once. `agent` names the SPIFFE
    agent where the identity is that one's to give; `has_admin` tells whether the policy makes
    anybody of a trust domain admin."""

    def __init__(
        self,
        files: Files,
        trust: Trust,
        agent: str = "",
        has_admin: Callable[[str], bool] = lambda _: True,
    ) -> None:
        self._files = files
        self._trust = trust
        self._agent = agent
        self._has_admin = has_admin
        self._lock = asyncio.Lock()
        self._remove_partial()

    def _remove_partial(self) -> None:
        """What a crash has left; nobody writes yet."""
        state = self._files.state
        for pattern in (f".{self._requested.name}.*", f"{state.name}/.*", f"{state.name}/*/.*"):
            for left in state.parent.glob(f"{pattern}{PARTIAL}"):
                with suppress(OSError):
                    left.unlink()

    @property
    def current(self) -> Material:
        """Raises FailedPrecondition."""
        if self._trust.current is None:
            raise FailedPrecondition(
                "identity: the node has none; `aer node identity request` begins to give it one"
            )
        return self._trust.current

    async def request(self, spiffe_id: str, dns_name: str) -> Request:
        self._check_own()
        async with self._lock:
            made, cancelled = await _to_the_end(lambda: self._request(spiffe_id, dns_name))
        if cancelled:
            raise asyncio.CancelledError
        return made

    async def set_certificate(self, chain: bytes, roots: bytes) -> Material:
        """Either all of it holds afterwards, whatever happens to the node, or nothing."""
        self._check_own()
        _bound("certificate", chain, MOST)
        self._check_admin(chain)
        return await self._change(lambda: self._set_certificate(chain, roots))

    async def set_trust(
        self,
        trust_domain: str,
        roots: bytes,
        crls: bytes | None,
        *,
        remove: bool,
        caller: bytes = b"",
    ) -> Material:
        """`caller` is the chain of who asks: it is to be good afterwards. Root has none."""
        self._check_own()
        own = self.current.identity.trust_domain
        name = trust_domain or own
        try:
            parse_trust_domain(name)
        except ValueError as e:
            raise InvalidArgument(f"trust_domain: {e}") from e
        if remove and (roots or name == own):
            raise InvalidArgument(
                "remove: goes with the name of another trust domain and without roots"
            )
        if not remove and not roots and crls is None:
            raise InvalidArgument("roots: give them, or revocation lists, or remove")
        return await self._change(lambda: self._set_trust(name, roots, crls, caller, remove=remove))

    def _check_own(self) -> None:
        if self._agent:
            raise FailedPrecondition(
                f"identity: comes from the SPIFFE agent at {self._agent}; change it there"
            )

    async def _change(self, change: Callable[[], Material]) -> Material:
        async with self._lock:
            try:
                changed, cancelled = await _to_the_end(change)
            except Unusable as e:
                raise InvalidArgument(str(e)) from e
            if self._trust.update(changed):
                log.info("%s from %s: takes effect", changed.identity, changed.source)
        if cancelled:
            raise asyncio.CancelledError
        return changed

    @property
    def _requested(self) -> Path:
        """The key that a certificate was requested for."""
        return self._files.state.parent / "requested.key"

    def _request(self, spiffe_id: str, dns_name: str) -> Request:
        from runtime.identity import svid

        current = self._trust.current
        now = svid.parse(current.certificate) if current is not None else None
        try:
            if not spiffe_id and now is None:
                raise FailedPrecondition("spiffe_id: the node has none yet; give it one")
            wanted = SpiffeId.parse(spiffe_id) if spiffe_id or now is None else now.id
            if not wanted.path:
                raise ValueError(f"{wanted} has no path, so it is nobody's")
            name = dns_name or (now.dns_name if now is not None and now.id == wanted else None)
            name = name or _dns_name(wanted)
            if name:
                svid.parse_dns_name(name)
        except ValueError as e:
            raise InvalidArgument(f"request: {e}") from e
        return Request(_signing_request(self._key(), wanted, name), wanted, name)

    def _key(self) -> bytes:
        from runtime.identity import authority
        from runtime.identity.authority import KeyType

        with suppress(FileNotFoundError):
            return self._requested.read_bytes()
        key = authority.make_key(KeyType.ECDSA_P256)
        self._requested.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        put(self._requested, key)
        return key

    def _set_certificate(self, chain: bytes, roots: bytes) -> Material:
        from runtime.trust import usable

        _bound("roots", roots, MOST)
        identity = materials.identity(chain, "certificate")
        current = self._trust.current
        bundles = dict(current.bundles) if current is not None else {}
        if current is not None and current.identity.trust_domain != identity.trust_domain:
            del bundles[current.identity.trust_domain]
        if roots:
            bundles[identity.trust_domain] = roots
        if identity.trust_domain not in bundles:
            raise InvalidArgument(f"roots: the node has none of {identity.trust_domain}; give them")
        # Own trust domain first.
        bundles = {identity.trust_domain: bundles.pop(identity.trust_domain), **bundles}
        key, requested = self._key_of(chain)
        crls = current.crls if current is not None else b""
        wanted = Material(identity, chain, key, bundles, crls, str(self._files.state), _NAMES)
        usable.verify_bundle(identity.trust_domain, wanted.bundle)
        if usable.verify(wanted):
            raise InvalidArgument("certificate: is not valid at this node's time; see its clock")
        state = self._files.state
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._files.finish()
        for name in ("next.key", "next.ca.crt"):
            # Left by a crash before there was a certificate for them.
            (state / name).unlink(missing_ok=True)
        if _other(state / "node.key", key, absent=True):
            put(state / "next.key", key)
        if _other(state / "ca.crt", wanted.bundle, absent=bool(roots)):
            put(state / "next.ca.crt", wanted.bundle)
        # From here on it holds.
        put(state / "next.crt", chain)
        self._files.finish()
        if requested:
            self._requested.unlink(missing_ok=True)
        return self._loaded()

    def _check_admin(self, chain: bytes) -> None:
        try:
            trust_domain = materials.identity(chain, "certificate").trust_domain
        except Unusable as e:
            raise InvalidArgument(str(e)) from e
        if trust_domain != self._trust.domain() and not self._has_admin(trust_domain):
            raise FailedPrecondition(
                f"certificate: is of {trust_domain}, and the node's policy makes nobody of it "
                "admin, so its people would be locked out; add a rule for them first, by SetPolicy"
            )

    def _key_of(self, chain: bytes) -> tuple[bytes, bool]:
        """The key of the certificate, and whether it is one that was requested for."""
        from runtime.identity import svid

        with suppress(FileNotFoundError, ValueError):
            requested = self._requested.read_bytes()
            svid.match_key(chain, requested)
            return requested, True
        try:
            if self._trust.current is not None:
                svid.match_key(chain, self._trust.current.key)
                return self._trust.current.key, False
        except ValueError as e:
            raise InvalidArgument(f"certificate: {e}") from e
        raise InvalidArgument(
            "certificate: is not of a key of this node; `aer node identity request` makes one"
        )

    def _set_trust(
        self, trust_domain: str, roots: bytes, crls: bytes | None, caller: bytes, *, remove: bool
    ) -> Material:
        from runtime.trust import usable

        current = self.current
        _bound("roots", roots, MOST)
        bundles = dict(current.bundles)
        if remove and bundles.pop(trust_domain, None) is None:
            raise NotFound(f"trust domain {trust_domain}: the node does not know it")
        if roots:
            bundles[trust_domain] = roots
            usable.verify_bundle(trust_domain, roots)
        if crls is not None:
            _bound("revocation_lists", crls, MOST_LISTS)
            usable.parse_crls(crls)
        if trust_domain == current.identity.trust_domain:
            usable.verify(current._replace(bundles=bundles, names=_NAMES))
        if caller:
            _check_caller(caller, bundles, current.crls if crls is None else crls)
        own = trust_domain == current.identity.trust_domain
        state = self._files.state
        file = state / "ca.crt" if own else state / "federated" / f"{trust_domain}.crt"
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if roots or remove:
            # An empty one hides what came at boot.
            put(file, roots)
        if crls is not None:
            put(state / "crl.pem", crls)
        return self._loaded()

    def _loaded(self) -> Material:
        return self._files.load()[0]


async def _to_the_end(work: Callable[[], _T]) -> tuple[_T, bool]:
    """Its result, and whether the caller has gone away meanwhile: a thread cannot be stopped, and
    what it has written is to be taken before the next may write."""
    future = asyncio.get_running_loop().run_in_executor(None, work)
    cancelled = False
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError:
            cancelled = True
    return future.result(), cancelled


def _check_caller(chain: bytes, bundles: Mapping[str, bytes], crls: bytes) -> None:
    """Raises FailedPrecondition where whoever has the chain would be refused from then on."""
    from runtime.identity import svid
    from runtime.trust import usable

    own = svid.parse(chain).id
    try:
        if own.trust_domain not in bundles:
            raise ValueError(f"{own.trust_domain} would be unknown")
        svid.verify(chain, bundles[own.trust_domain], crls=usable.parse_crls(crls))
    except ValueError as e:
        raise FailedPrecondition(
            f"trust: {own} calls, and would be refused from then on ({e}); call with an SVID that "
            "is good afterwards too, keep the old roots for a while, or let root do it on the "
            "node's socket"
        ) from e


def _other(path: Path, content: bytes, *, absent: bool) -> bool:
    """Whether the file has another content; `absent` where it is not there."""
    try:
        return path.read_bytes() != content
    except FileNotFoundError:
        return absent


def _dns_name(wanted: SpiffeId) -> str:
    name = wanted.below("/node/")
    return f"{name}.node.{wanted.trust_domain}".lower() if name and "/" not in name else ""


def _signing_request(key: bytes, wanted: SpiffeId, dns_name: str) -> bytes:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    from runtime.identity import svid

    private = svid.private_key(key)
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(str(wanted))]
    if dns_name:
        names.append(x509.DNSName(dns_name))
    return (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([]))
        .add_extension(x509.SubjectAlternativeName(names), critical=True)
        .sign(private, hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
    )


def _bound(field: str, content: bytes, most: int) -> None:
    if len(content) > most:
        raise InvalidArgument(f"{field}: has {len(content)} bytes; {most} are the most")
