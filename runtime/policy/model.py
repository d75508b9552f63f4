"""Rules by SPIFFE ID as values: what may stand in a policy, and what it decides."""

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Final, Self

from initd.errors import FailedPrecondition, InvalidArgument
from initd.values import NamedTuple
from runtime.cells.model import Cell, cell_name
from runtime.cells.security import Profile, Security
from runtime.identity.spiffe import SCHEME, SpiffeId, parse_segment, parse_trust_domain
from runtime.policy.table import ROLES, Permission, Role

MAX_RULES: Final = 1_000
MAX_TENANTS: Final = 1_000
MAX_NAME: Final = 100
# Of a tenant for which the policy does not say another.
CELLS: Final = 100

# Stand for one segment, and for one or more to the end.
ONE: Final = "*"
REST: Final = "**"

PEOPLE: Final = "person"
TENANT: Final = "tenant"


class Pattern(NamedTuple):
    """SPIFFE IDs of one trust domain: `spiffe://TD/person/*`, `spiffe://TD/tenant/acme/**`."""

    trust_domain: str
    segments: tuple[str, ...]

    @classmethod
    def parse(cls, text: str, where: str) -> Self:
        """Raises InvalidArgument, also where it would match all of a trust domain."""
        if not text.startswith(SCHEME):
            raise InvalidArgument(f"{where}: {text[:80]!a} does not begin with {SCHEME}")
        trust_domain, _, path = text[len(SCHEME) :].partition("/")
        segments = tuple(path.split("/"))
        try:
            parse_trust_domain(trust_domain)
            for number, segment in enumerate(segments, 1):
                if segment != ONE and not (segment == REST and number == len(segments)):
                    parse_segment(segment)
        except ValueError as e:
            raise InvalidArgument(
                f"{where}: {text[:80]!a} is no pattern: {e}; * stands for one segment, ** at the "
                "end for all that follow"
            ) from e
        if segments[0] in (ONE, REST):
            raise InvalidArgument(
                f"{where}: {text[:80]!a} matches everybody of {trust_domain}, workloads and "
                "tenants too; begin the path with a segment such as /person/"
            )
        return cls(trust_domain, segments)

    def matches(self, identity: SpiffeId) -> bool:
        if identity.trust_domain != self.trust_domain:
            return False
        segments = identity.path[1:].split("/")
        if self.segments[-1] == REST:
            if len(segments) < len(self.segments):
                return False
            fixed = self.segments[:-1]
        elif len(segments) == len(self.segments):
            fixed = self.segments
        else:
            return False
        return all(
            own in (ONE, other) for own, other in zip(fixed, segments[: len(fixed)], strict=True)
        )

    def __str__(self) -> str:
        return f"{SCHEME}{self.trust_domain}/{'/'.join(self.segments)}"


class Rule(NamedTuple):
    """Who matches has the role."""

    name: str
    pattern: Pattern
    role: Role
    tenant: str = ""
    """Of the role TENANT: which one, where the ID does not say it."""

    def checked(self, where: str) -> Self:
        """Itself. Raises InvalidArgument where it cannot be."""
        if not self.name or len(self.name) > MAX_NAME or not self.name.isprintable():
            raise InvalidArgument(f"{where}.name: give 1 to {MAX_NAME} printable characters")
        if self.role is not Role.TENANT:
            if self.tenant:
                raise InvalidArgument(f"{where}.tenant: goes with the role tenant; leave it out")
        elif self.tenant:
            _tenant_name(self.tenant, f"{where}.tenant")
        elif len(self.pattern.segments) < 3 or self.pattern.segments[0] != TENANT:
            raise InvalidArgument(
                f"{where}.id: {self.pattern} does not say which tenant; write "
                f"{SCHEME}{self.pattern.trust_domain}/{TENANT}/NAME/**, or name it in `tenant`"
            )
        elif self.pattern.segments[1] != ONE:
            _tenant_name(self.pattern.segments[1], f"{where}.id")
        return self

    def owned_by(self, identity: SpiffeId) -> str | None:
        """The tenant that somebody acts for who has the role by this rule."""
        if self.role is not Role.TENANT:
            return None
        return self.tenant or identity.path.split("/")[2]


class Tenant(NamedTuple):
    """A tenant's own cell, with the limits of all below it, and how many cells there may be."""

    cell: Cell
    cells: int = CELLS

    @classmethod
    def default(cls, name: str) -> Self:
        return cls(Cell(name=name, security=RESTRICTED))


# A tenant's executables are root in their own cells only.
RESTRICTED: Final = Security(profile=Profile.RESTRICTED)


class Decision(NamedTuple):
    """Whether somebody may call a method, and why."""

    allowed: bool
    rule: str
    """The rule that made it."""
    reason: str
    tenant: str | None = None
    """Whose part of the node it is for. None: for all of it."""


class Policy(NamedTuple):
    """Rules, of which any may allow; what none allows is denied."""

    rules: tuple[Rule, ...] = ()
    tenants: Mapping[str, Tenant] = MappingProxyType({})

    def decide(self, identity: SpiffeId, permission: Permission) -> Decision:
        """The first rule that allows makes the decision."""
        matching = [rule for rule in self.rules if rule.pattern.matches(identity)]
        for rule in matching:
            if permission not in ROLES[rule.role]:
                continue
            tenant = rule.owned_by(identity)
            if tenant is not None and not _is_tenant_name(tenant):
                continue
            return Decision(
                allowed=True,
                rule=rule.name,
                reason=f"rule {rule.name} gives {rule.pattern} the role {rule.role.value}",
                tenant=tenant,
            )
        if permission is Permission.IDENTITY:
            return Decision(allowed=True, rule="identity", reason="everybody with an identity may")
        if not matching:
            return Decision(
                allowed=False,
                rule="default",
                reason=f"no rule of the node's policy matches {identity}",
            )
        roles = " and ".join(sorted({rule.role.value for rule in matching}))
        names = ", ".join(rule.name for rule in matching)
        return Decision(
            allowed=False,
            rule="default",
            reason=f"needed is {permission.value}, which the role {roles} lacks (rule {names})",
        )

    def matching(self, identity: SpiffeId) -> Iterator[Rule]:
        return (rule for rule in self.rules if rule.pattern.matches(identity))

    def has_admin(self, trust_domain: str) -> bool:
        """Whether a rule makes anybody of the trust domain admin."""
        admins = (rule for rule in self.rules if rule.role is Role.ADMIN)
        return any(rule.pattern.trust_domain == trust_domain for rule in admins)

    def tenant(self, name: str) -> Tenant:
        return self.tenants.get(name) or Tenant.default(name)

    def checked(self) -> Self:
        """Itself. Raises InvalidArgument where it cannot be."""
        if len(self.rules) > MAX_RULES or len(self.tenants) > MAX_TENANTS:
            raise InvalidArgument(
                f"policy: has {len(self.rules)} rules and {len(self.tenants)} tenants; at most "
                f"{MAX_RULES} and {MAX_TENANTS}"
            )
        names: set[str] = set()
        for number, rule in enumerate(self.rules):
            rule.checked(f"policy.rules[{number}]")
            if rule.name in names:
                raise InvalidArgument(
                    f"policy.rules[{number}].name: {rule.name} is there already; a decision names "
                    "its rule, so give each its own"
                )
            names.add(rule.name)
        if not any(rule.role is Role.ADMIN for rule in self.rules):
            raise InvalidArgument(
                "policy.rules: none has the role admin, so nobody could change the policy again; "
                "add one"
            )
        return self


def default(trust_domain: str | None) -> Policy:
    """What holds on a node that was given none: its own trust domain's people are its admins."""
    if trust_domain is None:
        return Policy()
    return Policy(
        (
            Rule("people", Pattern(trust_domain, (PEOPLE, ONE)), Role.ADMIN),
            Rule("tenants", Pattern(trust_domain, (TENANT, ONE, REST)), Role.TENANT),
        )
    )


def refuse_lockout(policy: Policy, trust_domain: str) -> None:
    """Raises FailedPrecondition where nobody of the node's own trust domain would be admin."""
    if not policy.has_admin(trust_domain):
        raise FailedPrecondition(
            f"policy: no rule makes anybody of {trust_domain} admin, so the node's own people "
            "would be locked out; add one"
        )


def _tenant_name(name: str, where: str) -> None:
    if "/" in name:
        raise InvalidArgument(f"{where}: {name[:80]!a} has a /; a tenant is one label")
    cell_name(name, where)


def _is_tenant_name(name: str) -> bool:
    try:
        _tenant_name(name, "tenant")
    except InvalidArgument:
        return False
    return True
