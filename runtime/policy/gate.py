"""Decides for every kind of caller: people and tenants by the policy, root and cells by what they
are."""

from collections.abc import Callable

from initd.values import NamedTuple
from runtime.identity.spiffe import SpiffeId
from runtime.policy.model import Decision
from runtime.policy.policies import Policies
from runtime.policy.table import LOOKS, PARTIAL, Permission, needed
from runtime.scope import Scope

ROOT = Decision(allowed=True, rule="root", reason="root on the node's own socket may")
CELL = Decision(allowed=True, rule="cell", reason="callers in a cell may, within it")

EMERGENCY = Decision(
    allowed=False,
    rule="emergency",
    reason="the node runs its emergency entry, which changes nothing; write its disk anew",
)


class Asking(NamedTuple):
    """Somebody of whom a decision is wanted."""

    scope: Scope
    id: SpiffeId | None


class Gate:
    """One decision a call, and the part of the node that it is for."""

    def __init__(
        self,
        policies: Policies,
        check_tenant: Callable[[str], None] = lambda _tenant: None,
        *,
        emergency: bool = False,
    ) -> None:
        """`check_tenant` raises FailedPrecondition where a tenant cannot be let into its cell. In
        an emergency nobody may more than look, root included."""
        self.policies = policies
        self.check_tenant = check_tenant
        self._emergency = emergency

    def decide(self, asking: Asking, method: str) -> Decision:
        decision = self._decide(asking, method)
        if decision.allowed and self._emergency and needed(method) not in LOOKS:
            return EMERGENCY
        return decision

    def _decide(self, asking: Asking, method: str) -> Decision:
        if asking.id is not None:
            return self.policies.decide(asking.id, method)
        permission = needed(method)
        if permission is None:
            return Decision(allowed=False, rule="default", reason=f"{method}: is no method")
        if asking.scope.cell is None:
            return ROOT
        if permission in PARTIAL:
            return CELL
        return Decision(
            allowed=False,
            rule="cell",
            reason=f"{method}: is not for callers in a cell; call from the node",
        )

    def permissions(self, asking: Asking) -> list[Permission]:
        """All that somebody may do."""
        found = self._permissions(asking)
        return [one for one in found if one in LOOKS] if self._emergency else found

    def _permissions(self, asking: Asking) -> list[Permission]:
        if asking.id is None:
            inside = asking.scope.cell is not None
            return [one for one in Permission if not inside or one in PARTIAL]
        policy = self.policies.held.policy
        return [one for one in Permission if policy.decide(asking.id, one).allowed]


def scope_of(asking: Asking, decision: Decision) -> Scope:
    """How much of the node a call sees that is allowed so."""
    if decision.tenant is None:
        return asking.scope
    return Scope(cell=decision.tenant, tenant=True)
