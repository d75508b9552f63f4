"""The policy that holds on this node: where it comes from, and what it decides."""

import asyncio
import logging
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Final

from initd.errors import AuraedError, FailedPrecondition, InvalidArgument, PermissionDenied
from initd.values import NamedTuple
from runtime.durable import put
from runtime.identity.spiffe import SpiffeId
from runtime.policy import model
from runtime.policy.model import Decision, Policy
from runtime.policy.table import TABLE, Permission, needed
from runtime.waiting import to_the_end

log = logging.getLogger(__name__)

# Decisions that are remembered. Who calls with ever new identities makes room for itself.
REMEMBERED: Final = 4096


class Source(StrEnum):
    """Where the policy comes from. What was stored by SetPolicy goes before the boot's."""

    DEFAULT = "default"
    BOOT = "boot"
    STORED = "stored"


class Held(NamedTuple):
    """A policy and what it is known by."""

    policy: Policy
    revision: str
    source: Source


class Policies:
    """Reads the policy when it is first needed: a node that nobody calls need not."""

    def __init__(
        self,
        stored: Path,
        boot: Path | None,
        trust_domain: Callable[[], str | None],
        configured: Path | None = None,
    ):
        """`trust_domain` is the node's own; None where it has no identity. `configured` is the
        node's configuration, in which one may be."""
        self._stored = stored
        self._configured = configured
        self._boot = boot
        self._trust_domain = trust_domain
        self._held: Held | None = None
        self._decisions: dict[tuple[SpiffeId, str], Decision] = {}
        self._changing = asyncio.Lock()
        self.generation = 0
        """Another number means that decisions may be others."""
        self.on_change: Callable[[Policy], None] = lambda _policy: None

    @property
    def held(self) -> Held:
        if self._held is None:
            self._held = self._read()
        return self._held

    def decide(self, identity: SpiffeId, method: str) -> Decision:
        key = identity, method
        decision = self._decisions.get(key)
        if decision is None:
            if len(self._decisions) >= REMEMBERED:
                self._decisions.clear()
            decision = self._decisions[key] = self._decide(identity, method)
        return decision

    def _decide(self, identity: SpiffeId, method: str) -> Decision:
        permission = needed(method)
        if permission is None:
            return Decision(allowed=False, rule="default", reason=f"{method}: is no method")
        return self.held.policy.decide(identity, permission)

    async def replace(
        self, policy: Policy, by: SpiffeId | None, *, if_revision: str = "", dry_run: bool = False
    ) -> str:
        """Let `policy` hold from now on, and after a restart; the revision. `by` None is root.

        Raises FailedPrecondition and InvalidArgument; then nothing has changed."""
        from runtime.policy import document

        async with self._changing:
            if by is not None and not self.held.policy.decide(by, Permission.POLICY_WRITE).allowed:
                # It was let in, and another change came first.
                raise PermissionDenied(f"policy: {by} may not change it any more")
            if if_revision and if_revision != self.held.revision:
                raise FailedPrecondition(
                    f"policy: has become revision {self.held.revision}, which is not "
                    f"{if_revision}; get it and change that"
                )
            self._refuse_lockout(policy, by)
            text = document.to_json(policy)
            if not dry_run:
                # To the end, also when the caller leaves: what is on file is what holds.
                writing = asyncio.get_running_loop().run_in_executor(
                    None, put, self._stored, text.encode()
                )
                _, cancelled = await to_the_end(writing)
                self._take(Held(policy, _revision(text), Source.STORED))
                if cancelled:
                    raise asyncio.CancelledError
            return _revision(text)

    def reconsider(self) -> None:
        """The node's own trust domain may be another now: the default goes by it."""
        if self._held is not None and self._held.source is Source.DEFAULT:
            self._held = None
            self._forget_decisions()

    def reread(self) -> None:
        """The node's configuration is another now; what was stored by SetPolicy goes before it."""
        if self._held is None or self._held.source is Source.STORED:
            return
        revision = self._held.revision
        held = self._read()
        if held.revision != revision:
            self._take(held)

    def _forget_decisions(self) -> None:
        self._decisions.clear()
        self.generation += 1

    def _take(self, held: Held) -> None:
        self._held = held
        self._forget_decisions()
        self.on_change(held.policy)
        log.info("policy: revision %s holds, %d rules", held.revision, len(held.policy.rules))

    def _refuse_lockout(self, policy: Policy, by: SpiffeId | None) -> None:
        """Whoever changes the policy can change it back, and so can somebody of our own."""
        own = self._trust_domain()
        if own is not None:
            model.refuse_lockout(policy, own)
        if by is not None and not policy.decide(by, Permission.POLICY_WRITE).allowed:
            raise FailedPrecondition(
                f"policy: {by} could not change it again; keep a rule that makes you admin, or let "
                "another admin do it"
            )

    def _read(self) -> Held:
        from runtime.policy import document

        for file, source in ((self._stored, Source.STORED), (self._boot, Source.BOOT)):
            if file is None:
                continue
            try:
                policy = document.from_json(file.read_text())
                return Held(policy, _revision(document.to_json(policy)), source)
            except FileNotFoundError:
                continue
            except (AuraedError, OSError, UnicodeDecodeError) as e:
                # Somebody has meant less than the default gives.
                log.error(
                    "%s: %s. Until it is mended nobody has a role; root may SetPolicy on the "
                    "node's socket",
                    file,
                    e,
                )
                return Held(Policy(), "unusable", source)
        if self._configured is not None and self._configured.exists():
            held = self._of_configuration(self._configured)
            if held is not None:
                return held
        policy = model.default(self._trust_domain())
        return Held(policy, _revision(document.to_json(policy)), Source.DEFAULT)

    @staticmethod
    def _of_configuration(file: Path) -> Held | None:
        import json

        from runtime.policy import document

        try:
            found = json.loads(file.read_text())["values"].get("policy")
            if found is None:
                return None
            policy = document.from_json(json.dumps(found))
            return Held(policy, _revision(document.to_json(policy)), Source.BOOT)
        except (AuraedError, OSError, ValueError, KeyError, TypeError) as e:
            log.error(
                "policy of the configuration: %s. Until it is mended nobody has a role; root may "
                "SetPolicy on the node's socket",
                e,
            )
            return Held(Policy(), "unusable", Source.BOOT)


def full_method(text: str) -> str:
    """The method of the API that is meant by all or the end of its name. Raises InvalidArgument."""
    wanted = text.strip("/").replace(".", "/")
    found = [method for method in TABLE if f"/{method.replace('.', '/')}".endswith(f"/{wanted}")]
    if len(found) == 1:
        return found[0]
    if not wanted or not found:
        raise InvalidArgument(
            f"method: {text[:80]!a} is none of this API; give one such as CellService/Start"
        )
    shown = " and ".join(method.strip("/") for method in sorted(found)[:3])
    raise InvalidArgument(f"method: {text[:80]!a} may be {shown}; write more of it")


def _revision(text: str) -> str:
    import hashlib

    return hashlib.sha256(text.encode()).hexdigest()[:16]
