from __future__ import annotations

import pytest

from pyagent.compiler.labels import LabelIndex
from pyagent.model import (
    LabelSelector,
    NamedPort,
    Operator,
    PolicyPeer,
    Protocol,
    Requirement,
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
INDEX = LabelIndex(STATE, frozenset())


def names(positions: set[int]) -> set[str]:
    return {key for key, position in INDEX.of_workload.items() if position in positions}


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
    found = names(set(INDEX.subjects("shop", selector)))
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
    assert names(set(INDEX.peers("shop", peer))) == matched


def test_a_namespace_without_workloads_selects_nothing() -> None:
    assert set(INDEX.subjects("empty", select())) == set()
    assert set(INDEX.peers("empty", PolicyPeer(pod_selector=select()))) == set()


def test_same_labels_are_one_set() -> None:
    assert INDEX.of_workload["shop/web"] == INDEX.of_workload["shop/web-2"]
    assert INDEX.of_workload["shop/web"] != INDEX.of_workload["bank/web"]
    assert len(INDEX.sets) == 4


def test_only_ports_that_a_policy_names_tell_workloads_apart() -> None:
    state = snapshot(
        workload("shop/a", "app=web", "", NamedPort("http", 80, Protocol.TCP)),
        workload("shop/b", "app=web", "", NamedPort("http", 8080, Protocol.TCP)),
    )
    together = LabelIndex(state, frozenset({"metrics"}))
    apart = LabelIndex(state, frozenset({"http"}))
    assert len(together.sets) == 1
    assert [str(found) for found in apart.sets] == [
        "shop: app=web (http=80/TCP)",
        "shop: app=web (http=8080/TCP)",
    ]
