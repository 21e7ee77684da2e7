from __future__ import annotations

import pytest

from pyagent.compiler.labels import LabelSet, LabelSets, Vocabulary
from pyagent.compiler.members import Members, positions
from pyagent.model import (
    LabelSelector,
    NamedPort,
    Operator,
    PolicyPeer,
    Protocol,
    Requirement,
    Snapshot,
)
from tests.unit.pyagent.compiler.build import labels, select, snapshot, workload

STATE = snapshot(
    workload("shop/web", "app=web tier=front"),
    workload("shop/web-2", "app=web tier=front"),
    workload("shop/db", "app=db"),
    workload("shop/bare", ""),
    workload("bank/web", "app=web"),
    shop="team=red env=prod",
    bank="team=blue",
)
EVERY_KEY = Vocabulary(
    frozenset({"app", "tier"}), frozenset({"team", "env", "kubernetes.io/metadata.name"})
)


def label_sets(state: Snapshot, vocabulary: Vocabulary) -> dict[str, LabelSet]:
    """Return the label set of each workload."""
    made = LabelSets()
    return {
        key: made.of(found, state.namespaces[found.namespace], vocabulary)
        for key, found in state.workloads.items()
    }


OF_WORKLOAD = label_sets(STATE, EVERY_KEY)
NUMBERS = {label_set: 300 + at for at, label_set in enumerate(dict.fromkeys(OF_WORKLOAD.values()))}
MEMBERS = Members()
for _label_set, _number in NUMBERS.items():
    MEMBERS.toggle(_number, _label_set)


def names(found: int) -> set[str]:
    chosen = set(positions(found))
    return {key for key, label_set in OF_WORKLOAD.items() if NUMBERS[label_set] in chosen}


def need(key: str, operator: str, *values: str) -> LabelSelector:
    return LabelSelector({}, (Requirement(key, Operator(operator), values),))


@pytest.mark.parametrize(
    ("selector", "selected"),
    [
        (select(), {"web", "web-2", "db", "bare"}),
        (select("app=web"), {"web", "web-2"}),
        (select("app=web tier=front"), {"web", "web-2"}),
        (select("app=db tier=front"), set()),
        (select("app=nothing"), set()),
        (need("app", "In", "web", "db"), {"web", "web-2", "db"}),
        (need("app", "In", "nothing"), set()),
        (need("app", "NotIn", "web"), {"db", "bare"}),
        (need("tier", "NotIn", "back"), {"web", "web-2", "db", "bare"}),
        (need("tier", "Exists"), {"web", "web-2"}),
        (need("tier", "DoesNotExist"), {"db", "bare"}),
        (need("nothing", "Exists"), set()),
        (need("nothing", "DoesNotExist"), {"web", "web-2", "db", "bare"}),
        (
            LabelSelector(labels("app=web"), need("tier", "Exists").match_expressions),
            {"web", "web-2"},
        ),
        (
            LabelSelector(
                {},
                (
                    Requirement("app", Operator.EXISTS),
                    Requirement("app", Operator.NOT_IN, ("web",)),
                ),
            ),
            {"db"},
        ),
    ],
)
def test_subjects_are_of_the_policys_namespace(selector: LabelSelector, selected: set[str]) -> None:
    found = names(MEMBERS.select("shop", selector, None))
    assert found == {f"shop/{name}" for name in selected}


@pytest.mark.parametrize(
    ("peer", "matched"),
    [
        (PolicyPeer(pod_selector=select()), {"shop/web", "shop/web-2", "shop/db", "shop/bare"}),
        (PolicyPeer(pod_selector=select("app=web")), {"shop/web", "shop/web-2"}),
        (PolicyPeer(namespace_selector=select()), set(STATE.workloads)),
        (PolicyPeer(namespace_selector=select("team=blue")), {"bank/web"}),
        (
            PolicyPeer(namespace_selector=select("kubernetes.io/metadata.name=bank")),
            {"bank/web"},
        ),
        (
            PolicyPeer(namespace_selector=need("env", "DoesNotExist")),
            {"bank/web"},
        ),
        (
            PolicyPeer(pod_selector=select("app=web"), namespace_selector=select()),
            {"shop/web", "shop/web-2", "bank/web"},
        ),
        (
            PolicyPeer(pod_selector=select("app=db"), namespace_selector=select("team=blue")),
            set(),
        ),
        (PolicyPeer(pod_selector=select("team=red"), namespace_selector=select()), set()),
        (PolicyPeer(), set()),
    ],
)
def test_peers(peer: PolicyPeer, matched: set[str]) -> None:
    assert names(MEMBERS.of_peer("shop", peer)) == matched


def test_a_namespace_without_workloads_selects_nothing() -> None:
    assert MEMBERS.select("empty", select(), None) == 0
    assert MEMBERS.of_peer("empty", PolicyPeer(pod_selector=select())) == 0


def test_who_is_taken_out_is_found_no_more() -> None:
    members = Members()
    for label_set, number in NUMBERS.items():
        members.toggle(number, label_set)
    for label_set, number in NUMBERS.items():
        members.toggle(number, label_set)
        assert not members.select("", select(), select()) >> number & 1
    assert (members.everybody, members.in_namespace) == (0, {})


def test_positions_are_those_of_the_bits() -> None:
    assert list(positions(0)) == []
    assert list(positions(1 | 1 << 8 | 1 << 9 | 1 << 300)) == [0, 8, 9, 300]


def test_same_labels_are_one_set() -> None:
    assert OF_WORKLOAD["shop/web"] is OF_WORKLOAD["shop/web-2"]
    assert OF_WORKLOAD["shop/web"] is not OF_WORKLOAD["bank/web"]
    assert len(NUMBERS) == 4


def test_only_labels_whose_keys_a_policy_names_tell_workloads_apart() -> None:
    found = label_sets(STATE, Vocabulary(frozenset({"tier"}), frozenset({"team"})))
    assert found["shop/db"] is found["shop/bare"]
    assert {str(label_set) for label_set in found.values()} == {"shop", "shop: tier=front", "bank"}
    assert found["shop/db"].namespace_labels == (("team", "red"),)


def test_only_ports_that_a_policy_names_tell_workloads_apart() -> None:
    state = snapshot(
        workload("shop/a", "app=web", "", NamedPort("http", 80, Protocol.TCP)),
        workload("shop/b", "app=web", "", NamedPort("http", 8080, Protocol.TCP)),
    )
    app = frozenset({"app"})
    together = label_sets(state, Vocabulary(app, port_names=frozenset({"metrics"})))
    apart = label_sets(state, Vocabulary(app, port_names=frozenset({"http"})))
    assert together["shop/a"] is together["shop/b"]
    assert [str(label_set) for label_set in apart.values()] == [
        "shop: app=web (http=80/TCP)",
        "shop: app=web (http=8080/TCP)",
    ]
