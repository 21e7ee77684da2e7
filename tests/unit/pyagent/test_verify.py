"""What `sluice policy verify` asks, and which answers are the right ones."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from pyagent.model import Direction, NamedPort, PolicyPort, Protocol
from pyagent.oracle import Answer, Packet
from pyagent.verify import Outcome, expected, outside_addresses, questions, seen
from tests.unit.pyagent.compiler.build import (
    block,
    policy,
    rule,
    select,
    snapshot,
    tcp,
    tenant,
    workload,
)

NODE = frozenset({ip_address("10.0.0.1"), ip_address("fd00::1")})


def _outside(*cidrs: str, excepts: tuple[str, ...] = ()) -> set[str]:
    peers = tuple(block(cidr, *excepts) for cidr in cidrs)
    state = snapshot(
        workload("shop/web", "app=web", "192.0.2.0"), policy("shop/p", select(), (rule(peers),))
    )
    return {str(address) for address in outside_addresses(state, NODE)}


STRANGERS = {"203.0.113.77", "2001:db8:ffff::77"}


@pytest.mark.parametrize(
    ("cidr", "excepts", "found"),
    [
        (
            "198.51.100.16/30",
            (),
            {f"198.51.100.{n}" for n in (15, 16, 19, 20)} | STRANGERS,
        ),
        ("192.0.2.0/31", (), {"192.0.1.255", "192.0.2.1", "192.0.2.2"} | STRANGERS),  # a workload
        ("10.0.0.0/31", (), {"9.255.255.255", "10.0.0.0", "10.0.0.2"} | STRANGERS),  # the node
        ("0.0.0.0/0", (), STRANGERS),
        ("::/0", (), STRANGERS),
        (
            "2001:db8::/32",
            (),
            {
                "2001:db7:ffff:ffff:ffff:ffff:ffff:ffff",
                "2001:db8::",
                "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff",
                "2001:db9::",
                "203.0.113.77",
                "2001:2:0:ffff::77",
            },
        ),
        (
            "203.0.112.0/22",
            ("203.0.113.0/24",),
            {
                *("203.0.111.255", "203.0.112.0", "203.0.115.255", "203.0.116.0"),
                *("203.0.112.255", "203.0.113.0", "203.0.113.255", "203.0.114.0"),
                *("198.51.100.77", "2001:db8:ffff::77"),
            },
        ),
        ("224.0.0.0/4", (), {"223.255.255.255", "240.0.0.0"} | STRANGERS),
    ],
)
def test_addresses_outside(cidr: str, excepts: tuple[str, ...], found: set[str]) -> None:
    assert _outside(cidr, excepts=excepts) == found


STATE = snapshot(
    workload("shop/web", "app=web", "10.1.0.2 fd00:1::2"),
    workload("shop/client", "app=client", "10.1.0.3", NamedPort("x", 53, Protocol.UDP)),
    tenant("shop", 80),
    policy(
        "shop/in",
        select(),
        (rule((), (tcp(443), PolicyPort(Protocol.SCTP, 1, 20), tcp("x"))),),
    ),
)


def test_every_pair_with_a_workload_is_asked_about() -> None:
    asked = questions(STATE, NODE)
    web, web6, client = (ip_address(text) for text in ("10.1.0.2", "fd00:1::2", "10.1.0.3"))
    node, node6 = (ip_address(text) for text in ("10.0.0.1", "fd00::1"))
    out, out6 = (ip_address(text) for text in ("203.0.113.77", "2001:db8:ffff::77"))
    one_way = {(web, client), (web, node), (web, out), (web6, node6), (web6, out6)}
    one_way |= {(client, node), (client, out)}
    assert set(asked.ends) == one_way | {(b, a) for a, b in one_way}
    assert len(asked.ends) == len(set(asked.ends))


def test_every_port_is_asked_about() -> None:
    asked = questions(STATE, NODE)
    ports = [1, 20, 21, 22, 53, 80, 443]  # 22: of which nothing speaks
    assert list(asked.services) == [(number, port) for number in (6, 17, 132) for port in ports]
    packets = list(asked)
    assert len(packets) == len(asked) == 14 * 22
    assert packets[21] == Packet(*asked.ends[0], 1, 0)
    assert {p.protocol for p in packets if p.source.version == 6} == {6, 17, 132, 58}


def test_where_a_range_takes_every_port_one_is_asked_about_all_the_same() -> None:
    everything = rule((), tcp(1, 65535))
    asked = questions(snapshot(policy("shop/p", select(), (everything,))), NODE)
    assert [port for protocol, port in asked.services if protocol == 6] == [1, 2, 65535]


@pytest.mark.parametrize(
    ("answer", "open_ones", "outcome"),
    [
        (Answer("ALLOW", "ALLOW", "ALLOW", None), (), "allow"),
        (Answer("DENY", "DENY", "DENY", None), (), "deny egress"),
        (Answer("ALLOW", "DENY", "DENY", None), (), "deny ingress"),
        (Answer(None, "HANDOFF", "HANDOFF", "shop"), ("bank",), "handoff to shop"),
        (Answer(None, "HANDOFF", "HANDOFF", "shop"), ("shop",), "allow"),
    ],
)
def test_what_is_expected(answer: Answer, open_ones: tuple[str, ...], outcome: str) -> None:
    assert str(expected(answer, frozenset(open_ones))) == outcome


@pytest.mark.parametrize(
    ("verdict", "reason", "outcome"),
    [
        ("allow", "none", Outcome("allow")),
        ("deny", "policy_egress", Outcome("deny", Direction.EGRESS)),
        ("deny", "policy_ingress", Outcome("deny", Direction.INGRESS)),
        ("handoff", "none", Outcome("handoff", tenant="shop")),
        ("handoff", "proxy_not_ready", Outcome("handoff", tenant="shop")),
        ("deny", "no_workload", Outcome("drop no_workload")),
        ("allow", "malformed", Outcome("drop malformed")),
    ],
)
def test_what_is_seen(verdict: str, reason: str, outcome: Outcome) -> None:
    assert seen(verdict, reason, "shop") == outcome
