"""Policies as messages and as files: the file is the JSON form of the message."""

import json
from collections.abc import Mapping
from typing import Any, Final

from aurae.auth.v0 import auth_pb2

from initd.errors import InvalidArgument
from runtime.cells.service import cell_from_proto, cell_to_proto
from runtime.policy.model import CELLS, RESTRICTED, Pattern, Policy, Rule, Tenant
from runtime.policy.table import Role

ROLES: Final[Mapping[Any, Role]] = {
    auth_pb2.ROLE_READER: Role.READER,
    auth_pb2.ROLE_OPERATOR: Role.OPERATOR,
    auth_pb2.ROLE_ADMIN: Role.ADMIN,
    auth_pb2.ROLE_TENANT: Role.TENANT,
}
_NUMBERS: Final = {role: number for number, role in ROLES.items()}


def from_proto(message: auth_pb2.Policy) -> Policy:
    """Raises InvalidArgument."""
    rules = tuple(
        _rule_from_proto(rule, f"policy.rules[{number}]")
        for number, rule in enumerate(message.rules)
    )
    tenants: dict[str, Tenant] = {}
    for number, one in enumerate(message.tenants):
        where = f"policy.tenants[{number}]"
        tenant = _tenant_from_proto(one, where)
        if tenant.cell.name in tenants:
            raise InvalidArgument(f"{where}: {tenant.cell.name} is there already; put it together")
        tenants[tenant.cell.name] = tenant
    return Policy(rules, tenants).checked()


def to_proto(policy: Policy) -> auth_pb2.Policy:
    return auth_pb2.Policy(
        rules=map(rule_to_proto, policy.rules),
        tenants=(
            auth_pb2.Tenant(cell=cell_to_proto(tenant.cell), max_cells=tenant.cells)
            for tenant in policy.tenants.values()
        ),
    )


def rule_to_proto(rule: Rule) -> auth_pb2.Rule:
    return auth_pb2.Rule(
        name=rule.name,
        id=str(rule.pattern),
        role=_NUMBERS[rule.role],
        tenant=rule.tenant,
    )


def from_json(text: str) -> Policy:
    """Raises InvalidArgument."""
    from google.protobuf.json_format import ParseDict, ParseError

    try:
        document = json.loads(text)
        if not isinstance(document, dict):
            raise InvalidArgument("policy: is not a JSON object with `rules` and `tenants`")
        return from_proto(ParseDict(document, auth_pb2.Policy()))
    except (ValueError, ParseError) as e:
        raise InvalidArgument(f"policy: is no such document: {e}") from e
    except RecursionError:
        raise InvalidArgument("policy: is no such document: it is nested too deep") from None


def to_json(policy: Policy) -> str:
    from google.protobuf.json_format import MessageToDict

    document = MessageToDict(to_proto(policy), preserving_proto_field_name=True)
    return json.dumps(document, indent=2, sort_keys=True) + "\n"


def _rule_from_proto(rule: auth_pb2.Rule, where: str) -> Rule:
    role = ROLES.get(rule.role)
    if role is None:
        raise InvalidArgument(
            f"{where}.role: {rule.role} is none; give reader (1), operator (2), admin (3) or "
            "tenant (4)"
        )
    pattern = Pattern.parse(rule.id, f"{where}.id")
    return Rule(rule.name, pattern, role, rule.tenant).checked(where)


def _tenant_from_proto(message: auth_pb2.Tenant, where: str) -> Tenant:
    if "/" in message.cell.name:
        raise InvalidArgument(
            f"{where}.cell.name: {message.cell.name[:80]!a} has a /; a tenant's own cell lies in "
            "no other"
        )
    try:
        cell = cell_from_proto(message.cell)
    except InvalidArgument as e:
        raise InvalidArgument(f"{where}.{e}") from e
    if cell.security is None:
        cell = cell._replace(security=RESTRICTED)
    most = message.max_cells if message.HasField("max_cells") else CELLS
    return Tenant(cell, most)
