"""What holds of the compiler's output whatever the cluster."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TypeVar

from hypothesis import HealthCheck, given, settings

from pyagent.compiler import NodeFacts, Numbers, compile_snapshot
from pyagent.compiler.rows import (
    ANY_PEER,
    FIRST_IDENTITY,
    IDENTITY_NODE,
    IDENTITY_WORLD,
    PolicyKey,
    Verdict,
)
from pyagent.compiler.tables import PRECEDENCE_PEER
from pyagent.model import Protocol, Snapshot
from tests.rows_eval import key_bits, prefix_length
from tests.strategies import Cluster, clusters

Item = TypeVar("Item")

many = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


def facts(cluster: Cluster) -> NodeFacts:
    return NodeFacts(cluster.node_addresses, cluster.node_traffic)


def reverse(mapping: Mapping[str, Item]) -> dict[str, Item]:
    return dict(reversed(list(mapping.items())))


def turned(state: Snapshot) -> Snapshot:
    """Return the same state with every mapping in another order."""
    return Snapshot(
        {
            key: replace(ns, labels=reverse(ns.labels))
            for key, ns in reverse(state.namespaces).items()
        },
        {key: replace(w, labels=reverse(w.labels)) for key, w in reverse(state.workloads).items()},
        reverse(state.policies),
        reverse(state.tenants),
        reverse(state.cluster_policies),
    )


def covers(wide: PolicyKey, narrow: PolicyKey) -> bool:
    """Say whether a row of the same group holds all of another one."""
    bits = prefix_length(wide)
    return bits < prefix_length(narrow) and key_bits(wide) >> (96 - bits) == key_bits(narrow) >> (
        96 - bits
    )


@many
@given(clusters())
def test_rows_keys_and_names_are_sound(cluster: Cluster) -> None:
    result, numbers = compile_snapshot(cluster.snapshot, Numbers(), facts(cluster))
    known = {ANY_PEER, IDENTITY_NODE, *result.identities.values()}
    for key, value in result.policy.items():
        assert key.subject in result.workload_identity.values()
        assert key.peer in known
        assert key.port % (1 << (16 - key.port_bits)) == 0
        assert key.protocol is not Protocol.ANY or (key.port, key.port_bits) == (0, 0)
        assert value.rule in result.rules or value == (Verdict.DENY, PRECEDENCE_PEER, 0)
    named = {*result.identities.values(), *result.workload_identity.values()}
    assert result.identity_labels.keys() == named | {IDENTITY_NODE, IDENTITY_WORLD}
    assert all(number >= FIRST_IDENTITY for number in result.workload_identity.values())
    assert sorted(numbers.rules.values()) == sorted(result.rules)
    assert set(numbers.identities.values()) == named - {IDENTITY_NODE, IDENTITY_WORLD}


@many
@given(clusters())
def test_no_row_is_in_vain_or_below_what_it_hides(cluster: Cluster) -> None:
    result, _ = compile_snapshot(cluster.snapshot, Numbers(), facts(cluster))
    for key, value in result.policy.items():
        around = [other for other in result.policy if covers(other, key)]
        if around:
            nearest = result.policy[max(around, key=prefix_length)]
            assert value != nearest
            assert value.precedence >= nearest.precedence


@many
@given(clusters())
def test_the_order_of_mappings_makes_no_difference(cluster: Cluster) -> None:
    one = compile_snapshot(cluster.snapshot, Numbers(), facts(cluster))
    other = compile_snapshot(turned(cluster.snapshot), Numbers(), facts(cluster))
    assert one == other


@many
@given(clusters(), clusters())
def test_names_keep_their_numbers_and_lost_ones_wait(before: Cluster, after: Cluster) -> None:
    _, first = compile_snapshot(before.snapshot, Numbers(), facts(before))
    result, second = compile_snapshot(after.snapshot, first, facts(after))
    for old, new in (
        (first.identities, second.identities),
        (first.rules, second.rules),
        (first.tenants, second.tenants),
    ):
        assert all(new[name] == old[name] for name in new.keys() & old.keys())
        newcomers = {new[name] for name in new.keys() - old.keys()}
        assert not newcomers & set(old.values())
    assert compile_snapshot(after.snapshot, second, facts(after)) == (result, second)
