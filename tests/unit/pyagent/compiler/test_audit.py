"""Audit: what policy would deny passes with verdict AUDIT and the rule that would have denied."""

from __future__ import annotations

from dataclasses import replace

from pyagent.model import Namespace, Snapshot
from tests.unit.pyagent.compiler.build import (
    ALL,
    ORIGIN,
    Thing,
    cluster,
    compiled,
    deny,
    ingress,
    lines,
    namespaces,
    node,
    pods,
    policy,
    rule,
    select,
    skip,
    snapshot,
    tcp,
    tenant,
    workload,
)

WEB = replace(workload("shop/web", "app=web", "10.1.0.2"), audit=True)
DB = workload("shop/db", "app=db", "10.1.0.3")
DENY = policy("shop/in", select("app=web"), (rule(pods("app=db"), tcp(80)),))
DEFAULT = "AUDIT 50 | shop: default deny"


def mine(state: Snapshot) -> list[str]:
    """Return what the ingress of shop/web came to."""
    return [line for line in ingress(compiled(state)) if line.startswith("shop: app=web")]


def web(*things: Thing) -> list[str]:
    return mine(snapshot(WEB, DB, *things))


def test_the_default_deny_is_a_row_for_everybody_below_every_rule() -> None:
    assert web(DENY) == lines(
        f"shop: app=web (audit) < * | ANY | {DEFAULT}",
        "shop: app=web (audit) < shop: app=db | TCP 80/16 | ALLOW 100 | shop/in ingress[0]",
    )


def test_a_denying_rule_is_named() -> None:
    no = cluster("no", deny(namespaces(), ports=(tcp(23),)))
    assert "shop: app=web (audit) < shop: app=db | TCP 23/16 | AUDIT 300 | Admin/no ingress[0]" in (
        web(no)
    )


def test_what_is_passed_on_to_a_default_deny_names_it() -> None:
    passing = cluster("p", skip(pods("app=db"), ports=(tcp(81),)), deny(namespaces()))
    passing = replace(passing, ingress=(skip(namespaces(), ports=(tcp(81),)), passing.ingress[1]))
    assert web(DENY, passing)[1:] == lines(
        "shop: app=web (audit) < shop: app=db | ANY | AUDIT 300 | Admin/p ingress[1]",
        "shop: app=web (audit) < shop: app=db | TCP 81/16 | AUDIT 300 | shop: default deny",
        "shop: app=web (audit) < shop: app=web (audit) | ANY | AUDIT 300 | Admin/p ingress[1]",
        "shop: app=web (audit) < shop: app=web (audit) | TCP 81/16 | AUDIT 300 "
        "| shop: default deny",
    )


def test_nothing_denied_is_nothing_audited() -> None:
    open_rows = ["shop: app=web (audit) < * | ANY | ALLOW 100 | default: no policy selects"]
    assert web() == open_rows


def test_denied_connections_are_not_handed_off_and_allowed_ones_are() -> None:
    assert web(DENY, tenant("shop", 80, 81)) == lines(
        f"shop: app=web (audit) < * | ANY | {DEFAULT}",
        "shop: app=web (audit) < shop: app=db | TCP 80/16 | HANDOFF 200 | tenant shop http 80",
    )


def test_a_namespace_audits_all_of_its_workloads() -> None:
    audited = Namespace("shop", {"kubernetes.io/metadata.name": "shop"}, ORIGIN, audit=True)
    plain = replace(WEB, audit=False)
    state = replace(
        snapshot(plain, workload("bank/a", "app=a"), DENY, policy("bank/d", ALL, ())),
        namespaces={"shop": audited, "bank": snapshot(bank="").namespaces["bank"]},
    )
    assert mine(state) == [f"shop: app=web (audit) < * | ANY | {DEFAULT}"]
    assert not [line for line in ingress(compiled(state)) if line.startswith("bank")]


def test_audit_is_part_of_the_identity_and_the_node_still_gets_in() -> None:
    result = compiled(snapshot(WEB, replace(WEB, name="b", audit=False), DENY), node("192.0.2.1"))
    assert len(set(result.workload_identity.values())) == 2
    assert [line for line in ingress(result) if "node" in line and "audit" in line] == [
        "shop: app=web (audit) < node | ANY | ALLOW 300 | node"
    ]
