"""A compiler that has seen other snapshots gives what one that has seen none gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TypeVar

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyagent.compiler import Compiler, NodeFacts, Numbers, compile_snapshot
from pyagent.compiler.rows import Grouped
from pyagent.model import Snapshot
from pyagent.plan import Observed, RowMaker, Rows, Wired, desired_rows, plan
from tests.strategies import Cluster, clusters
from tests.unit.pyagent.compiler.build import node, policy, rule, select, snapshot, workload

Item = TypeVar("Item")
many = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


def mix(one: Mapping[str, Item], other: Mapping[str, Item], draw: st.DrawFn) -> dict[str, Item]:
    """Return some things as they are in `one` and some as they are in `other`, or not at all."""
    keys = sorted({*one, *other})
    sides = draw(st.lists(st.sampled_from((0, 0, 0, 1)), min_size=len(keys), max_size=len(keys)))
    chosen = {key: (one, other)[side].get(key) for key, side in zip(keys, sides, strict=True)}
    return {key: item for key, item in chosen.items() if item is not None}


@st.composite
def histories(draw: st.DrawFn) -> list[Cluster]:
    """Draw states that each differ from the one before in some objects; the others are the same
    object, as a source gives them."""
    now, other = draw(clusters()), draw(clusters())
    states = [now]
    for _ in range(draw(st.integers(1, 5))):
        one, two = now.snapshot, other.snapshot
        now = Cluster(
            Snapshot(
                # all three namespaces are in either
                {**one.namespaces, **mix(one.namespaces, two.namespaces, draw)},
                mix(one.workloads, two.workloads, draw),
                mix(one.policies, two.policies, draw),
                mix(one.tenants, two.tenants, draw),
                mix(one.cluster_policies, two.cluster_policies, draw),
            ),
            draw(st.sampled_from((now.node_addresses, now.node_addresses, frozenset()))),
            draw(st.sampled_from((now.node_traffic, now.node_traffic, other.node_traffic))),
        )
        states.append(now)
    return states


def distinct(state: Snapshot) -> Snapshot:
    """Return the state with one workload of each name: mixing may have brought two, in two
    namespaces, and addresses and interface follow from the name."""
    owners = {found.name: key for key, found in state.workloads.items()}
    kept = {key: found for key, found in state.workloads.items() if owners[found.name] == key}
    return replace(state, workloads=kept)


def observed(state: Snapshot, facts: NodeFacts) -> Observed:
    wired = {key: Wired(1 + int(w.name[1:]), "m", "n") for key, w in state.workloads.items()}
    return Observed(facts.addresses, wired, {})


@many
@given(histories(), st.data())
def test_any_history_comes_to_the_same_rows(history: list[Cluster], data: st.DataObject) -> None:
    compiler, maker = Compiler(), RowMaker()
    numbers, have, flat = Numbers(), Rows(), Rows()
    for cluster in history:
        state = distinct(cluster.snapshot)
        facts = NodeFacts(cluster.node_addresses, cluster.node_traffic)
        result, renewed = compiler.compile(state, numbers, facts)
        assert (result, renewed) == compile_snapshot(state, numbers, facts)
        want = maker.rows(state, result, observed(state, facts))
        anew = desired_rows(state, result, observed(state, facts))
        assert want == anew
        assert carried_out(have, want) == {name: dict(anew.table(name)) for name in MAPS}
        # looking at what changed only is looking at all
        todo, whole = plan(have, want), plan(flat, flattened(anew))
        assert (todo.writes, todo.new_revision) == (whole.writes, whole.new_revision)
        if data.draw(st.booleans()):  # else it was refused: the kernel keeps what it has
            numbers, have, flat = renewed, want, flattened(anew)


MAPS = ("workloads", "local_addrs", "identities", "policy", "tenants", "proxies")


def flattened(rows: Rows) -> Rows:
    return Rows(**{name: dict(rows.table(name)) for name in MAPS})


def carried_out(have: Rows, want: Rows) -> dict[str, dict[object, object]]:
    """Return the maps after the plan's changes, in their order."""
    maps = {name: dict(have.table(name)) for name in MAPS}
    for change in plan(have, want).changes:
        maps[change.map].update(change.put)
        for key in change.remove:
            del maps[change.map][key]
    return maps


def test_what_does_not_change_is_the_same_object() -> None:
    web, bank = workload("shop/w1", "app=web", "10.0.0.1"), workload("bank/w2", "", "10.0.0.2")
    to_web = policy("shop/in", select("app=web"), (rule(),))
    compiler = Compiler()
    before, numbers = compiler.compile(snapshot(web, bank, to_web), Numbers(), node())
    other = replace(to_web, ingress=())
    after, _ = compiler.compile(snapshot(web, bank, other), numbers, node())
    shop, unchanged = before.workload_identity["shop/w1"], before.workload_identity["bank/w2"]
    assert after.policy.groups[unchanged] is before.policy.groups[unchanged]
    assert after.policy.groups[shop] is not before.policy.groups[shop]
    assert all(after.identities.groups[k] is v for k, v in before.identities.groups.items())


def test_a_grouped_mapping_is_a_mapping() -> None:
    grouped = Grouped({"a": {1: "x", 2: "y"}, "b": {3: "z"}})
    assert (dict(grouped), len(grouped), grouped[3]) == ({1: "x", 2: "y", 3: "z"}, 3, "z")
    assert grouped == {1: "x", 2: "y", 3: "z"}


def test_a_row_that_moves_to_another_group_is_put_and_not_removed() -> None:
    one = Rows(workloads=Grouped({"a": {1: "x"}, "b": {}, "c": {3: "z"}}))  # type: ignore[dict-item]
    two = Rows(workloads=Grouped({"a": {}, "b": {1: "y"}, "c": {3: "z"}}))  # type: ignore[dict-item]
    (change,) = plan(one, two).changes
    assert (change.put, change.remove) == ({1: "y"}, ())
    same = Rows(workloads=Grouped({"a": {}, "b": {1: "x"}, "c": {3: "z"}}))  # type: ignore[dict-item]
    assert plan(one, same).changes == ()
