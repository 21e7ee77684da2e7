"""Whole plans for small clusters: one test for each sentence of NetworkPolicy's meaning."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pyagent.compiler import Numbers, compile_snapshot
from pyagent.compiler.rows import FIRST_IDENTITY
from pyagent.model import Direction, NamedPort, PolicyPeer, PolicyPort, Protocol
from tests.unit.pyagent.compiler.build import (
    ALL,
    block,
    compiled,
    egress,
    ingress,
    lines,
    namespaces,
    node,
    only,
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
OPEN = "ALLOW 100 | default: no policy selects"


def test_no_policy_is_all_allowed() -> None:
    result = compiled(snapshot(WEB), node("192.0.2.1"))
    assert plan(result) == lines(
        f"shop: app=web < * | ANY | {OPEN}",
        f"shop: app=web > * | ANY | {OPEN}",
        "shop: app=web < node | ANY | ALLOW 300 | node",
    )


def test_selected_without_rules_is_default_deny() -> None:
    result = compiled(snapshot(WEB, DB, policy("shop/deny", select("app=web"), (), ())))
    assert plan(result) == lines(
        f"shop: app=db < * | ANY | {OPEN}",
        f"shop: app=db > * | ANY | {OPEN}",
    )


def test_a_direction_that_policy_types_leave_out_stays_open() -> None:
    result = compiled(snapshot(WEB, policy("shop/in", ALL, ingress=())))
    assert plan(result) == [f"shop: app=web > * | ANY | {OPEN}"]


def test_rules_of_a_direction_that_policy_types_leave_out_say_nothing() -> None:
    written = policy("shop/in", ALL, (), (rule(block("10.0.0.0/8"), tcp("http")),))
    only_in = replace(written, directions=frozenset({Direction.INGRESS}))
    port = NamedPort("http", 80, Protocol.TCP)
    result = compiled(snapshot(replace(WEB, ports=(port,)), only_in))
    assert plan(result) == [f"shop: app=web > * | ANY | {OPEN}"]
    assert "10.0.0.0/8" not in who(result)


def test_a_policy_selects_in_its_own_namespace_only() -> None:
    result = compiled(snapshot(WEB, BANK, policy("shop/deny", ALL, (), ())))
    assert plan(result) == lines(
        f"bank: app=web < * | ANY | {OPEN}",
        f"bank: app=web > * | ANY | {OPEN}",
    )


@pytest.mark.parametrize(
    ("peer", "found"),
    [
        (pods("app=db"), ["shop: app=db"]),
        (pods(), ["shop: app=db", "shop: app=web"]),
        (namespaces("team=blue"), ["bank: app=web"]),
        (namespaces(), ["bank: app=web", "shop: app=db", "shop: app=web"]),
        (
            PolicyPeer(pod_selector=select("app=web"), namespace_selector=ALL),
            ["bank: app=web", "shop: app=web"],
        ),
        (pods("app=nothing"), []),
    ],
)
def test_peers_by_selector(peer: PolicyPeer, found: list[str]) -> None:
    state = snapshot(
        WEB,
        DB,
        BANK,
        policy("shop/in", select("app=web"), ingress=(rule(peer, tcp(80)),)),
        bank="team=blue",
    )
    mine = [line for line in ingress(compiled(state)) if line.startswith("shop: app=web")]
    assert mine == [
        f"shop: app=web < {name} | TCP 80/16 | ALLOW 100 | shop/in ingress[0]" for name in found
    ]


def test_no_peers_is_everybody_and_no_ports_is_everything() -> None:
    state = snapshot(WEB, policy("shop/all", ALL, (rule(),), (rule((), udp(53)),)))
    assert plan(compiled(state)) == lines(
        "shop: app=web < * | ANY | ALLOW 100 | shop/all ingress[0]",
        "shop: app=web > * | UDP 53/16 | ALLOW 100 | shop/all egress[0]",
    )


def test_policies_and_rules_add_up() -> None:
    state = snapshot(
        WEB,
        DB,
        policy("shop/a", select("app=web"), (rule(pods("app=db"), tcp(80)), rule((), udp(53)))),
        policy("shop/b", select("app=web"), (rule(pods("app=db"), tcp(443)),)),
    )
    assert ingress(compiled(state)) == lines(
        f"shop: app=db < * | ANY | {OPEN}",
        "shop: app=web < shop: app=db | TCP 80/16 | ALLOW 100 | shop/a ingress[0]",
        "shop: app=web < * | UDP 53/16 | ALLOW 100 | shop/a ingress[1]",
        "shop: app=web < shop: app=db | TCP 443/16 | ALLOW 100 | shop/b ingress[0]",
    )


def test_ports_protocols_and_ranges() -> None:
    sctp = PolicyPort(Protocol.SCTP, 7)
    ports = (tcp(8000, 8010), udp(), sctp)
    state = snapshot(WEB, policy("shop/in", ALL, ingress=(rule((), ports),)))
    assert ingress(compiled(state)) == lines(
        "shop: app=web < * | TCP 8000/13 | ALLOW 100 | shop/in ingress[0]",
        "shop: app=web < * | TCP 8008/15 | ALLOW 100 | shop/in ingress[0]",
        "shop: app=web < * | TCP 8010/16 | ALLOW 100 | shop/in ingress[0]",
        "shop: app=web < * | UDP | ALLOW 100 | shop/in ingress[0]",
        "shop: app=web < * | SCTP 7/16 | ALLOW 100 | shop/in ingress[0]",
    )


def test_a_row_names_the_first_of_the_rules_that_allow() -> None:
    state = snapshot(
        WEB,
        policy("shop/b", ALL, ingress=(rule((), tcp(80)),)),
        policy("shop/a", ALL, ingress=(rule((), tcp(80)), rule((), tcp(443)), rule((), tcp()))),
    )
    assert ingress(compiled(state)) == lines(
        "shop: app=web < * | TCP 80/16 | ALLOW 100 | shop/a ingress[0]",
        "shop: app=web < * | TCP 443/16 | ALLOW 100 | shop/a ingress[1]",
        "shop: app=web < * | TCP | ALLOW 100 | shop/a ingress[2]",
    )


def test_a_row_inside_a_larger_one_of_the_same_rule_is_left_out() -> None:
    state = snapshot(WEB, policy("shop/in", ALL, ingress=(rule((), (tcp(80), tcp(80, 81))),)))
    assert ingress(compiled(state)) == [
        "shop: app=web < * | TCP 80/15 | ALLOW 100 | shop/in ingress[0]"
    ]


def test_same_labels_share_identity_and_rows() -> None:
    twin = replace(WEB, name="web-2", addresses=(DB.addresses))
    result = compiled(snapshot(WEB, twin))
    assert set(result.workload_identity) == {"shop/web", "shop/web-2"}
    assert set(result.workload_identity.values()) == {FIRST_IDENTITY}
    assert len(result.policy) == 2


def test_labels_of_the_namespace_are_part_of_the_identity() -> None:
    named = policy("bank/in", ALL, (rule(namespaces("team=red")),))
    before = compile_snapshot(snapshot(WEB, named, shop="team=red"), Numbers(), node())
    after = compile_snapshot(snapshot(WEB, named, shop="team=blue"), before[1], node())
    assert before[0].workload_identity != after[0].workload_identity


def test_addresses_without_ip_blocks() -> None:
    six = replace(WEB, addresses=(*WEB.addresses, *workload("a/b", "", "fd00::2").addresses))
    assert who(compiled(snapshot(six, DB), node("192.0.2.1 fd00::1"))) == {
        "0.0.0.0/0": "world",
        "::/0": "world",
        "192.0.2.1/32": "node",
        "fd00::1/128": "node",
        "10.1.0.2/32": "shop: app=web",
        "fd00::2/128": "shop: app=web",
        "10.1.0.3/32": "shop: app=db",
    }


def test_an_ip_block_matches_whoever_is_in_it() -> None:
    state = snapshot(
        WEB,
        DB,
        policy("shop/in", select("app=web"), (rule(block("10.1.0.3/32"), tcp(80)),)),
        policy("shop/out", select("app=web"), None, (rule(block("10.0.0.0/8", "10.1.0.0/16")),)),
    )
    result = compiled(state)
    assert who(result) == {
        "0.0.0.0/0": "world",
        "::/0": "world",
        "10.0.0.0/8": "10.0.0.0/8 except 10.1.0.0/16",
        "10.1.0.0/16": "world",
        "10.1.0.2/32": "shop: app=web",
        "10.1.0.3/32": "shop: app=db in 10.1.0.3/32",
    }
    assert plan(result) == lines(
        f"shop: app=db < * | ANY | {OPEN}",
        f"shop: app=db > * | ANY | {OPEN}",
        "shop: app=web < shop: app=db in 10.1.0.3/32 | TCP 80/16 | ALLOW 100 | shop/in ingress[0]",
        "shop: app=web > 10.0.0.0/8 except 10.1.0.0/16 | ANY | ALLOW 100 | shop/out egress[0]",
    )


def test_a_workload_is_one_subject_in_whatever_blocks_its_addresses_are() -> None:
    twins = [replace(DB, name=f"db-{i}", addresses=a.addresses) for i, a in enumerate((WEB, DB))]
    state = snapshot(*twins, policy("shop/in", ALL, (rule((block("10.1.0.3/32"), pods())),)))
    result = compiled(state)
    subject = only(set(result.workload_identity.values()))
    assert result.identity_labels[subject] == "shop: app=db"
    assert ingress(result) == lines(
        "shop: app=db < shop: app=db | ANY | ALLOW 100 | shop/in ingress[0]",
        "shop: app=db < shop: app=db in 10.1.0.3/32 | ANY | ALLOW 100 | shop/in ingress[0]",
    )


def test_overlapping_blocks_each_allow_their_own() -> None:
    state = snapshot(
        WEB,
        policy(
            "shop/out",
            ALL,
            egress=(
                rule(block("0.0.0.0/0", "192.0.2.0/24"), tcp(443)),
                rule(block("192.0.2.128/25"), tcp(80)),
                rule(block("198.51.100.0/24"), tcp(80)),
            ),
        ),
    )
    result = compiled(state)
    wide = "0.0.0.0/0 except 192.0.2.0/24"
    assert who(result) == {
        "0.0.0.0/0": wide,
        "::/0": "world",
        "192.0.2.0/24": "world",
        "192.0.2.128/25": "192.0.2.128/25",
        "198.51.100.0/24": f"198.51.100.0/24, {wide}",
        "10.1.0.2/32": f"shop: app=web in {wide}",
    }
    nested = f"198.51.100.0/24, {wide}"
    assert egress(result) == lines(
        f"shop: app=web > {wide} | TCP 443/16 | ALLOW 100 | shop/out egress[0]",
        f"shop: app=web > {nested} | TCP 443/16 | ALLOW 100 | shop/out egress[0]",
        f"shop: app=web > shop: app=web in {wide} | TCP 443/16 | ALLOW 100 | shop/out egress[0]",
        "shop: app=web > 192.0.2.128/25 | TCP 80/16 | ALLOW 100 | shop/out egress[1]",
        f"shop: app=web > {nested} | TCP 80/16 | ALLOW 100 | shop/out egress[2]",
    )


HTTP = NamedPort("http", 80, Protocol.TCP)
HIGH = NamedPort("http", 8080, Protocol.TCP)


def test_a_named_port_on_ingress_is_the_subjects() -> None:
    state = snapshot(
        replace(WEB, ports=(HTTP,)),
        replace(DB, labels=WEB.labels, ports=(HIGH, NamedPort("http", 8, Protocol.UDP))),
        replace(BANK, namespace="shop", name="none"),
        policy("shop/in", ALL, ingress=(rule((), tcp("http")),)),
    )
    assert ingress(compiled(state)) == lines(
        "shop: app=web (http=80/TCP) < * | TCP 80/16 | ALLOW 100 | shop/in ingress[0]",
        "shop: app=web (http=8080/TCP, http=8/UDP) < * | TCP 8080/16 | ALLOW 100 "
        "| shop/in ingress[0]",
    )


def test_a_named_port_on_egress_is_each_peers() -> None:
    peers = (pods("app=db"), namespaces("team=blue"), block("0.0.0.0/0"))
    state = snapshot(
        WEB,
        replace(DB, ports=(HTTP,)),
        replace(BANK, ports=(HIGH,)),
        policy("shop/out", select("app=web"), None, (rule(peers, (tcp("http"), udp(53))),)),
        bank="team=blue",
    )
    mine = [line for line in egress(compiled(state)) if line.startswith("shop: app=web >")]
    web = "shop: app=web > "
    assert mine == lines(
        f"{web}0.0.0.0/0 | UDP 53/16 | ALLOW 100 | shop/out egress[0]",
        f"{web}shop: app=web in 0.0.0.0/0 | UDP 53/16 | ALLOW 100 | shop/out egress[0]",
        f"{web}shop: app=db (http=80/TCP) in 0.0.0.0/0 | UDP 53/16 | ALLOW 100 "
        "| shop/out egress[0]",
        f"{web}shop: app=db (http=80/TCP) in 0.0.0.0/0 | TCP 80/16 | ALLOW 100 "
        "| shop/out egress[0]",
        f"{web}bank: app=web (http=8080/TCP) in 0.0.0.0/0 | UDP 53/16 | ALLOW 100 "
        "| shop/out egress[0]",
        f"{web}bank: app=web (http=8080/TCP) in 0.0.0.0/0 | TCP 8080/16 | ALLOW 100 "
        "| shop/out egress[0]",
    )


def test_a_named_port_towards_everybody_is_for_workloads_that_have_it() -> None:
    state = snapshot(
        WEB,
        replace(DB, ports=(HTTP,)),
        policy("shop/out", select("app=web"), None, (rule((), tcp("http")),)),
    )
    mine = [line for line in egress(compiled(state)) if line.startswith("shop: app=web >")]
    assert mine == [
        "shop: app=web > shop: app=db (http=80/TCP) | TCP 80/16 | ALLOW 100 | shop/out egress[0]"
    ]


def test_tenants_of_workloads_and_names_of_rules() -> None:
    state = snapshot(WEB, BANK, tenant("bank"), policy("shop/in", ALL, (rule(), rule())))
    result = compiled(state, node("192.0.2.1"))
    assert result.tenants == {"bank": 1}
    assert result.workload_tenant == {"shop/web": 0, "bank/web": 1}
    assert result.rules == {
        1: "default: no policy selects",
        2: "node",
        3: "shop/in ingress[0]",
        4: "shop/in ingress[1]",
    }
    assert result.identity_labels == {
        1: "node",
        2: "world",
        FIRST_IDENTITY: "bank: app=web",
        FIRST_IDENTITY + 1: "shop: app=web",
    }


def test_numbers_stay_while_their_owners_do() -> None:
    many = snapshot(WEB, DB, BANK, policy("shop/a", ALL, (rule(),)), policy("shop/b", ALL, ()))
    first, numbers = compile_snapshot(many, Numbers(), node())
    fewer = snapshot(WEB, BANK, policy("shop/b", ALL, (rule(),)))
    second, _ = compile_snapshot(fewer, numbers, node())
    assert second.workload_identity == {
        key: first.workload_identity[key] for key in ("shop/web", "bank/web")
    }
    gone = {number for number, name in first.rules.items() if name == "shop/a ingress[0]"}
    assert not gone & second.rules.keys()
