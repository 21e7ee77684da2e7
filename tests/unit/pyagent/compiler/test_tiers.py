"""ClusterNetworkPolicy: whole plans, one test for each sentence of its meaning."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

from pyagent.compiler import Numbers, compile_snapshot
from pyagent.model import NamedPort, PolicyPort, Protocol, Tier
from pyagent.oracle import Packet
from tests.rows_eval import Rows
from tests.unit.pyagent.compiler.build import (
    ALL,
    POLICED,
    Thing,
    accept,
    block,
    cluster,
    compiled,
    deny,
    egress,
    ingress,
    lines,
    namespaces,
    node,
    policy,
    rule,
    select,
    skip,
    snapshot,
    tcp,
    tenant,
    workload,
)

WEB = workload("shop/web", "app=web", "10.1.0.2")
DB = workload("bank/db", "app=db", "10.2.0.2")
ANYBODY = namespaces()
BANK = namespaces("team=blue")
OPEN = "ALLOW 100 | default: no policy selects"


def web(*things: Thing) -> list[str]:
    """Return what the ingress of shop/web came to."""
    result = compiled(snapshot(WEB, DB, *things, bank="team=blue"))
    return [line for line in ingress(result) if line.startswith("shop: app=web <")]


def test_a_denied_peer_has_a_row_of_its_own_above_everybodys() -> None:
    assert web(cluster("no", deny(BANK), subject="app=web")) == lines(
        f"shop: app=web < * | ANY | {OPEN}",
        "shop: app=web < bank: app=db | ANY | DENY 300 | Admin/no ingress[0]",
    )


def test_admin_stands_above_network_policy_and_baseline_below() -> None:
    allow = policy("shop/in", ALL, (rule(BANK, tcp(80)),))
    above = cluster("no", deny(BANK, ports=(tcp(80),)))
    below = cluster("no", deny(BANK), tier=Tier.BASELINE)
    assert web(allow, above) == [
        "shop: app=web < bank: app=db | TCP 80/16 | DENY 300 | Admin/no ingress[0]"
    ]
    assert web(allow, below) == [
        "shop: app=web < bank: app=db | TCP 80/16 | ALLOW 100 | shop/in ingress[0]"
    ]
    assert web(below) == lines(
        f"shop: app=web < * | ANY | {OPEN}",
        "shop: app=web < bank: app=db | ANY | DENY 300 | Baseline/no ingress[0]",
    )


def test_the_first_match_decides_by_priority_then_name_then_position() -> None:
    later = cluster("a", deny(BANK), priority=11)
    first = cluster("b", accept(BANK, ports=(tcp(80),)), deny(BANK, ports=(tcp(80, 81),)))
    tied = cluster("c", accept(BANK, ports=(tcp(81),)))
    assert web(later, tied, first) == lines(
        f"shop: app=web < * | ANY | {OPEN}",
        "shop: app=web < bank: app=db | ANY | DENY 300 | Admin/a ingress[0]",
        "shop: app=web < bank: app=db | TCP 80/15 | DENY 300 | Admin/b ingress[1]",
        "shop: app=web < bank: app=db | TCP 80/16 | ALLOW 300 | Admin/b ingress[0]",
    )


def test_pass_leaves_the_tier_to_network_policy() -> None:
    passing = cluster("p", skip(BANK, ports=(tcp(80, 81),)), accept(BANK))
    allow = policy("shop/in", ALL, (rule((), tcp(81)),))
    assert web(passing, allow) == lines(
        "shop: app=web < * | TCP 81/16 | ALLOW 100 | shop/in ingress[0]",
        "shop: app=web < bank: app=db | ANY | ALLOW 300 | Admin/p ingress[1]",
        "shop: app=web < bank: app=db | TCP 80/15 | DENY 300 | -",
        "shop: app=web < bank: app=db | TCP 81/16 | ALLOW 300 | shop/in ingress[0]",
    )


def test_pass_where_nothing_follows_needs_no_row() -> None:
    assert web(cluster("p", skip(BANK))) == [f"shop: app=web < * | ANY | {OPEN}"]
    below = cluster("p", skip(BANK), deny(BANK), tier=Tier.BASELINE)
    assert web(below) == [f"shop: app=web < * | ANY | {OPEN}"]


def test_an_accepted_connection_on_a_tenants_port_is_handed_off() -> None:
    for tier in Tier:
        yes = cluster("yes", accept(BANK, ports=(tcp(80), tcp(443))), tier=tier)
        assert web(yes, tenant("shop", 80)) == lines(
            f"shop: app=web < * | ANY | {OPEN}",
            "shop: app=web < * | TCP 80/16 | HANDOFF 200 | tenant shop http 80",
            "shop: app=web < bank: app=db | ANY | ALLOW 300 | default: no policy selects",
            f"shop: app=web < bank: app=db | TCP 443/16 | ALLOW 300 | {tier.value}/yes ingress[0]",
            "shop: app=web < bank: app=db | TCP 80/16 | HANDOFF 300 | tenant shop http 80",
        )


def test_a_denied_connection_on_a_tenants_port_is_not() -> None:
    no = cluster("no", deny(BANK, ports=(tcp(80),)))
    mine = [line for line in web(no, tenant("shop", 80)) if "bank" in line]
    assert mine == lines(
        "shop: app=web < bank: app=db | ANY | ALLOW 300 | default: no policy selects",
        "shop: app=web < bank: app=db | TCP 80/16 | DENY 300 | Admin/no ingress[0]",
    )


def test_networks_on_egress_hold_workloads_and_what_is_outside() -> None:
    no = cluster("no", egress=(deny(block("10.0.0.0/8")),))
    result = compiled(snapshot(WEB, no, tenant("shop", 80)))
    assert egress(result) == lines(
        f"shop: app=web > * | ANY | {OPEN}",
        "shop: app=web > 10.0.0.0/8 | ANY | DENY 300 | Admin/no egress[0]",
        "shop: app=web > shop: app=web in 10.0.0.0/8 | ANY | DENY 300 | Admin/no egress[0]",
        "shop: app=web > world | TCP 80/16 | HANDOFF 200 | tenant shop http 80",
    )


def test_a_named_port_is_the_destinations_in_whatever_protocol() -> None:
    named = PolicyPort(Protocol.ANY, "metrics")
    server = replace(DB, ports=(NamedPort("metrics", 9, Protocol.SCTP),))
    no = cluster("no", egress=(deny(ANYBODY, ports=(named,)),), subject="app=web")
    mine = [line for line in egress(compiled(snapshot(WEB, server, no))) if "DENY" in line]
    assert mine == [
        "shop: app=web > bank: app=db (metrics=9/SCTP) | SCTP 9/16 | DENY 300 | Admin/no egress[0]"
    ]


def test_the_node_gets_in_and_no_selector_is_about_it() -> None:
    facts = node("192.0.2.1")
    state = snapshot(WEB, cluster("no", deny(ANYBODY)))
    rows = Rows(compiled(state, facts), state)
    packet = Packet(ip_address("192.0.2.1"), WEB.addresses[0], Protocol.TCP, 80)
    assert rows.ask(packet).verdict == "ALLOW"


def test_a_rule_is_named_by_tier_policy_position_and_what_its_author_calls_it() -> None:
    state = snapshot(WEB, cluster("no", replace(deny(ANYBODY), name="keep out")))
    assert "Admin/no ingress[0] keep out" in compiled(state).rules.values()


def test_any_number_of_alternating_policies_fits_the_precedence() -> None:
    things = [
        cluster(f"p{i:04}", (deny if i % 2 else accept)(BANK, ports=(tcp(i + 1),)), priority=i)
        for i in range(1000)
    ]
    state = snapshot(WEB, DB, policy("shop/in", select("app=web"), ()), *things, bank="team=blue")
    result, _ = compile_snapshot(state, Numbers(), POLICED)
    rows = Rows(result, state)
    for port in (1, 2, 999, 1000, 1001):
        packet = Packet(DB.addresses[0], WEB.addresses[0], Protocol.TCP, port)
        assert rows.ask(packet).ingress == ("ALLOW" if port % 2 and port < 1001 else "DENY")
