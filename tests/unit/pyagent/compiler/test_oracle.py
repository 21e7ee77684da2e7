"""The oracle itself, on questions that a reader can answer."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from pyagent.config import NodeTraffic
from pyagent.oracle import Answer, Oracle, Packet
from tests.unit.pyagent.compiler.build import (
    block,
    namespaces,
    node,
    pods,
    policy,
    rule,
    select,
    snapshot,
    tcp,
    tenant,
    workload,
)

STATE = snapshot(
    workload("shop/web", "app=web", "10.1.0.2"),
    workload("shop/client", "app=client", "10.1.0.3"),
    workload("bank/db", "app=db", "10.2.0.2"),
    tenant("shop", 80),
    policy(
        "shop/in", select("app=web"), (rule((pods("app=client"), block("192.0.2.0/24")), tcp(80)),)
    ),
    policy("bank/closed", select(), (rule(namespaces("team=red"), tcp(5432)),), ()),
    shop="team=red",
)
NODE = node("10.0.0.1")
WEB, CLIENT, DB = "10.1.0.2", "10.1.0.3", "10.2.0.2"


@pytest.mark.parametrize(
    ("source", "destination", "port", "answer"),
    [
        (CLIENT, WEB, 80, Answer("ALLOW", "HANDOFF", "HANDOFF", "shop")),
        (CLIENT, WEB, 81, Answer("ALLOW", "DENY", "DENY", None)),
        (DB, WEB, 80, Answer("DENY", "DENY", "DENY", None)),
        (WEB, DB, 5432, Answer("ALLOW", "ALLOW", "ALLOW", None)),
        (WEB, DB, 80, Answer("ALLOW", "DENY", "DENY", None)),
        ("192.0.2.7", WEB, 80, Answer(None, "HANDOFF", "HANDOFF", "shop")),
        ("198.51.100.7", WEB, 80, Answer(None, "DENY", "DENY", None)),
        ("10.0.0.1", WEB, 80, Answer(None, "ALLOW", "ALLOW", None)),
        ("10.0.0.1", DB, 1, Answer(None, "ALLOW", "ALLOW", None)),
        (WEB, "198.51.100.7", 80, Answer("HANDOFF", None, "HANDOFF", "shop")),
        (WEB, "198.51.100.7", 81, Answer("ALLOW", None, "ALLOW", None)),
        (WEB, "10.0.0.1", 80, Answer("ALLOW", None, "ALLOW", None)),
        (DB, "10.0.0.1", 80, Answer("DENY", None, "DENY", None)),
        (DB, DB, 80, Answer(None, None, "ALLOW", None)),
    ],
)
def test_answers(source: str, destination: str, port: int, answer: Answer) -> None:
    oracle = Oracle(STATE, NODE.addresses, NodeTraffic.ALLOW)
    assert oracle.ask(Packet(ip_address(source), ip_address(destination), 6, port)) == answer


def test_the_node_judged_by_policy() -> None:
    oracle = Oracle(STATE, NODE.addresses, NodeTraffic.POLICY)
    asked = oracle.ask(Packet(ip_address("10.0.0.1"), ip_address(WEB), 6, 80))
    assert asked == Answer(None, "DENY", "DENY", None)
