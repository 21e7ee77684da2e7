"""Handoff to tenants' proxies, and the node's own traffic, which never meets one."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address

import pytest

from pyagent.compiler import NodeFacts
from pyagent.config import NodeTraffic
from tests.unit.pyagent.compiler.build import (
    ALL,
    block,
    compiled,
    egress,
    ingress,
    lines,
    node,
    plan,
    pods,
    policy,
    rule,
    select,
    snapshot,
    tcp,
    tenant,
    udp,
    who,
    workload,
)

WEB = workload("shop/web", "app=web", "10.1.0.2")
DB = workload("shop/db", "app=db", "10.1.0.3")
BANK = workload("bank/web", "app=web", "10.2.0.2")
NODE = node("192.0.2.1")
POLICED = node("192.0.2.1", NodeTraffic.POLICY)
OPEN = "ALLOW 100 | default: no policy selects"
PROXY = "HANDOFF 200 | tenant shop http 80"


def test_what_nobody_selects_is_handed_off_on_the_tenants_ports() -> None:
    assert plan(compiled(snapshot(WEB, tenant("shop", 80)), NODE)) == lines(
        f"shop: app=web < * | ANY | {OPEN}",
        f"shop: app=web < * | TCP 80/16 | {PROXY}",
        "shop: app=web < node | ANY | ALLOW 300 | node",
        f"shop: app=web > * | ANY | {OPEN}",
        f"shop: app=web > world | TCP 80/16 | {PROXY}",
    )


def test_ingress_is_handed_off_exactly_where_policy_allows_it() -> None:
    allowed = policy(
        "shop/in",
        select("app=web"),
        (
            rule(pods("app=db"), (tcp(80), tcp(443))),
            rule(block("198.51.100.0/24"), tcp(1, 100)),
            rule(block("203.0.113.0/24"), udp(80)),
        ),
    )
    result = compiled(snapshot(WEB, DB, allowed, tenant("shop", 80)))
    mine = [line for line in ingress(result) if line.startswith("shop: app=web <")]
    near = [line for line in mine if "198.51.100.0/24" in line and "HANDOFF" not in line]
    assert len(near) == 9  # 1 to 100 in prefixes
    assert sorted(set(mine) - set(near)) == lines(
        f"shop: app=web < shop: app=db | TCP 80/16 | {PROXY}",
        "shop: app=web < shop: app=db | TCP 443/16 | ALLOW 100 | shop/in ingress[0]",
        f"shop: app=web < 198.51.100.0/24 | TCP 80/16 | {PROXY}",
        "shop: app=web < 203.0.113.0/24 | UDP 80/16 | ALLOW 100 | shop/in ingress[2]",
    )


def test_denied_ports_are_not_handed_off() -> None:
    state = snapshot(WEB, tenant("shop", 80), policy("shop/deny", ALL, (), ()))
    assert plan(compiled(state)) == []


def test_only_the_tenants_own_namespace() -> None:
    result = compiled(snapshot(WEB, BANK, tenant("shop", 80), tenant("bank")))
    assert [line for line in plan(result) if "HANDOFF" in line] == lines(
        f"shop: app=web < * | TCP 80/16 | {PROXY}",
        f"shop: app=web > world | TCP 80/16 | {PROXY}",
    )


def test_egress_is_handed_off_towards_outside_only() -> None:
    allowed = policy("shop/out", select("app=web"), None, (rule((), tcp(80)),))
    other = policy("bank/in", ALL, (rule(block("198.51.100.0/24")),))
    result = compiled(snapshot(WEB, BANK, allowed, other, tenant("shop", 80)), NODE)
    assert [line for line in egress(result) if line.startswith("shop")] == lines(
        "shop: app=web > * | TCP 80/16 | ALLOW 100 | shop/out egress[0]",
        f"shop: app=web > world | TCP 80/16 | {PROXY}",
        f"shop: app=web > 198.51.100.0/24 | TCP 80/16 | {PROXY}",
    )


def test_egress_to_a_block_is_handed_off_outside_and_passed_to_workloads_and_node() -> None:
    allowed = policy("shop/out", select("app=web"), None, (rule(block("0.0.0.0/0")),))
    result = compiled(snapshot(WEB, BANK, allowed, tenant("shop", 80)), NODE)
    rest = "| ANY | ALLOW 100 | shop/out egress[0]"
    assert [line for line in egress(result) if line.startswith("shop")] == lines(
        f"shop: app=web > 0.0.0.0/0 | TCP 80/16 | {PROXY}",
        f"shop: app=web > 0.0.0.0/0 {rest}",
        f"shop: app=web > node in 0.0.0.0/0 {rest}",
        f"shop: app=web > shop: app=web in 0.0.0.0/0 {rest}",
        f"shop: app=web > bank: app=web in 0.0.0.0/0 {rest}",
    )


def test_the_node_gets_in_whatever_policy_says() -> None:
    denied = policy("shop/deny", ALL, (rule(block("192.0.2.0/24"), tcp(80)),), ())
    result = compiled(snapshot(WEB, denied, tenant("shop", 80)), NODE)
    assert who(result)["192.0.2.1/32"] == "node"
    assert plan(result) == lines(
        "shop: app=web < node | ANY | ALLOW 300 | node",
        f"shop: app=web < 192.0.2.0/24 | TCP 80/16 | {PROXY}",
    )


def test_the_node_is_apart_where_an_egress_block_holds_it() -> None:
    allowed = policy("shop/out", ALL, None, (rule(block("192.0.2.0/24"), tcp(53)),))
    two = replace(NODE, addresses=NODE.addresses | {IPv4Address("203.0.113.1")})
    result = compiled(snapshot(WEB, allowed), two)
    assert who(result)["192.0.2.1/32"] == "node in 192.0.2.0/24"
    assert who(result)["203.0.113.1/32"] == "node"
    row = "| TCP 53/16 | ALLOW 100 | shop/out egress[0]"
    assert plan(result) == lines(
        f"shop: app=web < * | ANY | {OPEN}",
        "shop: app=web < node | ANY | ALLOW 300 | node",
        "shop: app=web < node in 192.0.2.0/24 | ANY | ALLOW 300 | node",
        f"shop: app=web > 192.0.2.0/24 {row}",
        f"shop: app=web > node in 192.0.2.0/24 {row}",
    )


def test_under_node_traffic_policy_the_node_is_judged_like_others() -> None:
    allowed = policy("shop/in", ALL, (rule(block("192.0.2.0/24"), tcp(80)),), ())
    result = compiled(snapshot(WEB, allowed, tenant("shop", 80)), POLICED)
    assert who(result)["192.0.2.1/32"] == "node in 192.0.2.0/24"
    assert plan(result) == lines(
        f"shop: app=web < node in 192.0.2.0/24 | TCP 80/16 | {PROXY}",
        f"shop: app=web < 192.0.2.0/24 | TCP 80/16 | {PROXY}",
    )


@pytest.mark.parametrize("facts", [NODE, POLICED])
def test_no_selector_matches_the_node(facts: NodeFacts) -> None:
    state = snapshot(WEB, policy("shop/in", ALL, (rule(pods()),), (rule(pods()),)))
    result = compiled(state, facts)
    rows = [line for line in plan(result) if "node" in line and "ALLOW 300" not in line]
    assert rows == []
