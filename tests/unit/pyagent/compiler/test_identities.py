"""How many identities a cluster has: as many as its policies can tell apart."""

from __future__ import annotations

from ipaddress import IPv4Address

from pyagent.compiler import Numbers, compile_snapshot
from pyagent.model import LabelSelector, Operator, PolicyPeer, Requirement, Workload
from tests.unit.pyagent.compiler.build import (
    ORIGIN,
    compiled,
    node,
    pods,
    policy,
    rule,
    select,
    snapshot,
)


def unique(number: int) -> Workload:
    labels = {"app": "web" if number % 2 else "db", "pod": f"p{number}"}
    address = IPv4Address("10.0.0.0") + number
    return Workload("shop", f"w{number}", labels, (address,), (), f"e{number}", None, ORIGIN)


PODS = [unique(number) for number in range(10_000)]
TO_DB = policy("shop/db", select("app=db"), (rule(pods("app=web")),))


def test_labels_that_no_selector_names_make_no_identities() -> None:
    result = compiled(snapshot(*PODS, TO_DB))
    assert len(set(result.workload_identity.values())) == 2
    assert set(result.identity_labels.values()) == {
        "node",
        "world",
        "shop: app=db",
        "shop: app=web",
    }


def test_a_selector_that_names_the_key_tells_them_apart() -> None:
    some = PODS[:50]
    for selector in (
        select("pod=p1"),
        LabelSelector({}, (Requirement("pod", Operator.NOT_IN, ("p1",)),)),
    ):
        peer = rule(PolicyPeer(pod_selector=selector))
        for named in (policy("shop/x", selector, ()), policy("shop/x", select("app=x"), (peer,))):
            result = compiled(snapshot(*some, named))
            assert len(set(result.workload_identity.values())) == 50


def test_numbers_stay_when_a_policy_names_a_label_that_nobody_has() -> None:
    before, numbers = compile_snapshot(snapshot(*PODS[:10], TO_DB), Numbers(), node())
    other = policy("shop/other", select("colour=red"), ())
    after, _ = compile_snapshot(snapshot(*PODS[:10], TO_DB, other), numbers, node())
    assert after.workload_identity == before.workload_identity
