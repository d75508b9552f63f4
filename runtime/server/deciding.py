"""What the API decides by: the policy, and the tenants that follow it. Loaded by the first call."""

from runtime.cells.cells import Cells
from runtime.cells.tenants import Quota, Tenants
from runtime.policy.gate import Gate
from runtime.policy.policies import Policies, Source
from runtime.server.settings import Settings
from runtime.trust.trust import Trust


class Deciding:
    """Policy, tenants and gate of one node, made for each other."""

    def __init__(self, settings: Settings, trust: Trust, cells: Cells) -> None:
        self._policies = Policies(
            settings.policy, settings.boot_policy, trust.domain, settings.merged
        )
        trust.listen(lambda _: self._policies.reconsider())
        self.tenants = Tenants(cells, self._quota)
        self._policies.on_change = lambda policy: self.tenants.adjust(policy.tenants)
        self.gate = Gate(self._policies, self.tenants.check, emergency=settings.emergency)

    def has_admin(self, trust_domain: str) -> bool:
        """Whether the policy has an admin there. The default goes by the node's trust domain,
        whichever that is."""
        held = self._policies.held
        return held.source is Source.DEFAULT or held.policy.has_admin(trust_domain)

    def _quota(self, name: str) -> Quota:
        tenant = self._policies.held.policy.tenant(name)
        return Quota(tenant.cell, tenant.cells)
