"""Who is let in at the border: who calls, what the policy says to it, and the record of that.

It is loaded by the first call: an API that nobody has asked yet is there sooner without it.
"""

from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, nullcontext
from typing import Any, Final

from initd.errors import AuraedError, PermissionDenied, ResourceExhausted, Unauthenticated
from runtime import scope
from runtime.audit.decided import Decided
from runtime.policy import table
from runtime.policy.gate import Asking, Gate, scope_of
from runtime.policy.model import Decision
from runtime.scope import NODE, Scope
from runtime.server.border import MAX_MESSAGE, Context, Unreadable
from runtime.server.callers import Caller, Callers, called_by
from runtime.server.recorder import Recorder

# Calls in flight from one outermost cell with all below it: each costs the runtime memory.
CALLS: Final = 256

_UNCOUNTED: Final[AbstractContextManager[None]] = nullcontext()


class Crossing:
    """One call at the border: who it is, and what was decided, which is recorded."""

    __slots__ = (
        *("_asking", "_audit", "_decision", "_gate", "_generation", "_method", "_peer"),
        *("_request", "_seen", "caller", "refused"),
    )

    def __init__(self, gate: Gate, audit: Recorder, method: str, request: Any, peer: str) -> None:
        self._gate = gate
        self._audit = audit
        self._method = method
        self._request = request
        self._peer = peer
        self._seen = NODE
        self.refused = False
        self._generation = gate.policies.generation

    async def identify(
        self, callers: Callers, authentication: Mapping[str, Iterable[bytes]]
    ) -> None:
        """Raises Unauthenticated and PermissionDenied."""
        try:
            caller = callers.again(self._peer, authentication)
            self.caller = caller or await callers.check(self._peer, authentication)
        except AuraedError as e:
            claimed = e.claimed if isinstance(e, Unauthenticated) else ""
            who = claimed[:MAX_MESSAGE] or "unknown"
            self._record(who, Decision(allowed=False, rule="identity", reason=str(e)))
            raise

    def admit(self) -> Scope:
        """How much of the node the call sees. Raises PermissionDenied."""
        self._asking = Asking(self.caller.scope, self.caller.id)
        decision = self._gate.decide(self._asking, self._method)
        self._seen = scope_of(self._asking, decision)
        if decision.allowed and self._method in table.LOOKING:
            self._audit.record_soon(lambda: self._decided(self.caller.who, decision))
        else:
            self._record(self.caller.who, decision)
        if not decision.allowed:
            raise PermissionDenied(self._refusal(decision))
        self._decision = decision
        if self._seen.tenant and self._seen.cell is not None:
            self._gate.check_tenant(self._seen.cell)
        return self._seen

    def check(self) -> None:
        """Once more, where something has changed. Raises Unauthenticated and PermissionDenied."""
        self._check_identity()
        if self._generation == self._gate.policies.generation:
            return
        self._generation = self._gate.policies.generation
        decision = self._gate.decide(self._asking, self._method)
        if decision.allowed and decision.tenant == self._decision.tenant:
            return
        decision = decision._replace(allowed=False)
        self.refused = True
        self._record(self.caller.who, decision)
        raise PermissionDenied(self._refusal(decision))

    def _check_identity(self) -> None:
        try:
            self.caller.check()
        except Unauthenticated as e:
            decision = Decision(allowed=False, rule="identity", reason=str(e))
            self._record(self.caller.who, decision)
            raise

    def record_refused(self, error: PermissionDenied) -> None:
        """The service itself says that the caller may not."""
        self._record(self.caller.who, self._decision._replace(allowed=False, reason=str(error)))

    def record_outside(self, name: str) -> None:
        """It named a cell that is no part of what it sees."""
        reason = f"cell {name} lies outside of its own"
        self._record(self.caller.who, self._decision._replace(allowed=False, reason=reason))

    def _refusal(self, decision: Decision) -> str:
        if self.caller.id is None:
            return decision.reason
        method = self._method.rpartition(".")[2]
        return f"caller {self.caller.id}: may not call {method}: {decision.reason}"

    def _record(self, who: str, decision: Decision) -> None:
        self._audit.record(**self._decided(who, decision)._asdict())

    def _decided(self, who: str, decision: Decision) -> Decided:
        return Decided(
            who=who,
            method=self._method,
            object=self._object(),
            allowed=decision.allowed,
            rule=decision.rule,
            reason="" if decision.allowed else decision.reason,
            peer=self._peer,
        )

    def _object(self) -> str:
        """What the request names, as the node calls it: `web/api`, `web/api:server`."""
        request = self._request
        if named := OBJECTS.get(self._method):
            return named(request) if not isinstance(request, Unreadable) else ""
        cell = getattr(request, "cell_name", "") or _name_of(request, "cell")
        executable = getattr(request, "executable_name", "") or _name_of(request, "executable")
        own = self._seen
        if own.cell is not None and not (own.tenant and cell):
            cell = f"{own.cell}/{cell}" if cell else own.cell
        if not executable and (pid := getattr(request, "process_id", 0)):
            return f"process {pid}"
        return f"{cell}:{executable}" if executable else str(cell)


def _applied(request: Any) -> str:
    names = [f"{cell.name}/" for cell in request.cells]
    names += [f"{start.cell_name}:{start.executable.name}" for start in request.executables]
    return " ".join(names)


# Of requests that name something else than a cell or an executable.
OBJECTS: Final[Mapping[str, Callable[[Any], str]]] = {
    "/aurae.auth.v0.AuthService/CanI": lambda request: str(request.as_id),
    "/aurae.cells.v0.CellService/Apply": _applied,
    "/aurae.identity.v0.IdentityService/SetTrust": lambda request: str(request.trust_domain),
}


def _name_of(request: Any, field: str) -> str:
    name = getattr(getattr(request, field, None), "name", "")
    return name if isinstance(name, str) else ""


class Admission:
    """Lets calls in one by one, and counts those of each tenant."""

    def __init__(self, callers: Callers, gate: Gate, audit: Recorder) -> None:
        self._callers = callers
        self._gate = gate
        self._audit = audit
        self._of_tenants: Counter[str] = Counter()

    @asynccontextmanager
    async def admitted(
        self, method: str, context: Context, request: Any, refuse: Callable[[str], None]
    ) -> AsyncIterator[Callable[[], None]]:
        """Within the block the call is its caller's, and sees what that may. `refuse` raises where
        nobody may call this method now. Yields what raises once the caller may no more."""
        crossing = Crossing(self._gate, self._audit, method, request, context.peer())
        await crossing.identify(self._callers, context.auth_context() or {})
        refuse(method)
        seen = crossing.admit()
        caller = crossing.caller
        with (
            called_by(caller),
            self._counted(caller, seen),
            scope.entered(seen, crossing.record_outside),
        ):
            try:
                yield crossing.check
            except PermissionDenied as e:
                if not crossing.refused:
                    crossing.record_refused(e)
                raise

    def _counted(self, caller: Caller, seen: Scope) -> AbstractContextManager[None]:
        """Who has a part of the node only may not have too much of it at once."""
        if seen.cell is None:
            return _UNCOUNTED
        if seen.tenant:
            return self._count(f"tenant {seen.cell}", f"tenant {seen.cell}")
        return self._count(caller.tenant, "its outermost cell")

    @contextmanager
    def _count(self, tenant: str, whose: str) -> Iterator[None]:
        if self._of_tenants[tenant] >= CALLS:
            raise ResourceExhausted(f"caller: {CALLS} calls of {whose} are open; end some first")
        self._of_tenants[tenant] += 1
        try:
            yield
        finally:
            self._of_tenants[tenant] -= 1
            if not self._of_tenants[tenant]:
                del self._of_tenants[tenant]
