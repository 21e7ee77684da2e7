"""What rules are called: the keys of `Numbers.rules`, and what people read.

Rule names come to users in events, traces and listings: "shop/allow-web ingress[0]",
"Admin/no-telnet egress[2]". Used by `compile`, `subjects`, and callers of the compiler that lead
from a rule back to its policy.
"""

from __future__ import annotations

from collections.abc import Iterator

from pyagent.config import NodeTraffic
from pyagent.model import ClusterNetworkPolicy, Direction, NetworkPolicy, Snapshot

DEFAULT_RULE = "default: no policy selects"
NODE_RULE = "node"

Policy = NetworkPolicy | ClusterNetworkPolicy


def every_policy(snapshot: Snapshot) -> Iterator[Policy]:
    """Give the policies of both kinds."""
    yield from snapshot.policies.values()
    yield from snapshot.cluster_policies.values()


def policy_name(policy: Policy) -> str:
    """Return "namespace/name"; instead of a namespace, a cluster's policy has its tier.

    A tier begins with a capital, which no namespace does.
    """
    if isinstance(policy, ClusterNetworkPolicy):
        return f"{policy.tier.value}/{policy.name}"
    return f"{policy.namespace}/{policy.name}"


def policy_rules(policy: Policy) -> Iterator[tuple[Direction, int, str]]:
    """Give direction, position and name of each rule in force: `policyTypes` may leave some out."""
    directions = policy.directions if isinstance(policy, NetworkPolicy) else Direction
    for direction in directions:
        for position in range(len(policy.rules(direction))):
            yield direction, position, rule_name(policy, direction, position)


def rule_name(policy: Policy, direction: Direction, position: int) -> str:
    """Return the name of one rule; what its author calls it comes last."""
    name = f"{policy_name(policy)} {direction.name.lower()}[{position}]"
    if isinstance(policy, ClusterNetworkPolicy) and policy.rules(direction)[position].name:
        return f"{name} {policy.rules(direction)[position].name}"
    return name


def handoff_name(tenant: str, port: int) -> str:
    """Return the name of the rule that hands a tenant's HTTP port off."""
    return f"tenant {tenant} http {port}"


def default_deny_name(namespace: str) -> str:
    """Return the name of what would deny where no rule does; it appears in audits only."""
    return f"{namespace}: default deny"


def rule_names(
    snapshot: Snapshot, traffic: NodeTraffic, of_policies: frozenset[str]
) -> frozenset[str]:
    """Return the name of every rule; `of_policies` are those that policies have."""
    names = {DEFAULT_RULE}
    if traffic is NodeTraffic.ALLOW:
        names.add(NODE_RULE)
    audited = {name for name, namespace in snapshot.namespaces.items() if namespace.audit}
    for workload in snapshot.workloads.values():
        if workload.audit or workload.namespace in audited:
            names.add(default_deny_name(workload.namespace))
    for name, tenant in snapshot.tenants.items():
        names.update(handoff_name(name, port) for port in tenant.http_ports)
    return of_policies | names
