"""`sluice policy verify` on a node with a running agent."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from pyagent.compiler.rows import PolicyKey, PolicyValue
from pyagent.model import Direction, Protocol
from pyagent.plan import Change, Plan
from tests.netns.node import Node, policy, tenant, wait_for, workload

_WEB_PORTS = [{"port": 80}, {"port": 8000, "endPort": 8010}, {"protocol": "UDP", "port": "dns"}]


def _manifests(node: Node) -> list[dict[str, Any]]:
    web, cart = node.hosts
    named = {"ports": [{"name": "dns", "port": 53, "protocol": "UDP"}]}
    block = {"ipBlock": {"cidr": "192.0.2.0/24", "except": ["192.0.2.128/25"]}}
    return [
        tenant("shop", 80),
        tenant("bank", 8080, failure_mode="open"),
        workload(web, "shop", "web", ["10.201.0.1", "fd00:201::1"], **named),
        workload(cart, "bank", "cart", ["10.201.0.2"]),
        policy(
            "shop",
            "web",
            ingress=[{"from": [{"namespaceSelector": {}}, block], "ports": _WEB_PORTS}],
        ),
        policy(
            "bank",
            "cart",
            policyTypes=["Egress"],
            egress=[{"to": [{"namespaceSelector": {}}]}, {"to": [block]}],
        ),
    ]


@pytest.fixture(scope="module")
def shop() -> Iterator[Node]:
    node = Node()
    for name in ("web", "cart"):
        node.host(name)
    node.write("all.yaml", *_manifests(node))
    node.start_agent()
    yield node
    node.close()


def _verify(node: Node, status: int) -> tuple[int, list[dict[str, Any]]]:
    done = node.sluice("policy", "verify", "-o", "json")
    assert done.returncode == status, done.stdout + done.stderr
    told = json.loads(done.stdout)
    return told["questions"], told["differences"]


def _rows_to_web(node: Node, protocol: Protocol, port: int) -> dict[PolicyKey, PolicyValue]:
    """The rows of cart's egress to web and of web's ingress from cart for one port."""
    state = node.state
    assert state is not None
    web = next(w.identity for w in state.workloads if w.key == "shop/web")
    cart = next(w.identity for w in state.workloads if w.key == "bank/cart")
    with node.tables() as tables:
        return {
            key: value
            for key, value in tables.read().policy.items()
            if (key.subject, key.peer, key.direction) == (web, cart, Direction.INGRESS)
            and (key.protocol, key.port) == (protocol, port)
        }


def _tamper(node: Node, change: Change) -> None:
    with node.tables() as tables:
        tables.apply(Plan((change,), new_revision=True))


def test_what_is_tampered_with_is_found(shop: Node) -> None:
    questions, differences = _verify(shop, 0)
    assert questions == 38 * 25  # pairs of ends, services
    assert differences == []

    [(key, value)] = _rows_to_web(shop, Protocol.UDP, 53).items()
    _tamper(shop, Change("policy", remove=(key,)))
    assert _verify(shop, 1) == (
        questions,
        [
            {
                "from": "bank/cart 10.201.0.2",
                "to": "shop/web 10.201.0.1",
                "protocol": "UDP",
                "port": 53,
                "kernel": "deny ingress",
                "manifests": "allow",
                "egress_rule": "bank/cart egress[0]",
                "ingress_rule": None,
            }
        ],
    )
    done = shop.sluice("policy", "verify")
    assert done.returncode == 1
    assert done.stderr == ""
    assert f"1 of {questions} questions" in done.stdout.splitlines()[-1]

    _tamper(shop, Change("policy", put={key: value, key._replace(port=54): value}))
    _verify(shop, 0)  # nobody named 54, so nobody asked
    _tamper(shop, Change("policy", remove=(key._replace(port=54),)))

    # One bit shorter: 8011 comes in, and that is beyond the range.
    [(key, value)] = _rows_to_web(shop, Protocol.TCP, 8010).items()
    wider = key._replace(port_bits=key.port_bits - 1)
    _tamper(shop, Change("policy", put={wider: value}))
    _, differences = _verify(shop, 1)
    found = [(d["protocol"], d["port"], d["kernel"], d["manifests"]) for d in differences]
    assert found == [("TCP", 8011, "allow", "deny ingress")]
    _tamper(shop, Change("policy", remove=(wider,)))
    _verify(shop, 0)


def test_a_proxy_that_does_not_serve_is_no_difference(shop: Node) -> None:
    """What policy says stands, and that one tenant fails open is what its manifest says."""
    with shop.tables() as tables:
        rows = tables.read().tenants
    assert [row.ready for row in rows.values()] == [True, True]
    gone = {number: row._replace(ready=False) for number, row in rows.items()}
    _tamper(shop, Change("tenants", put=gone))
    _verify(shop, 0)
    _tamper(shop, Change("tenants", put=rows))


def test_too_many_questions_are_refused(shop: Node) -> None:
    ports = [{"port": port} for port in range(20_000, 30_000)]
    shop.apply("ports.yaml", policy("shop", "many", ingress=[{"ports": ports}]))
    done = shop.sluice("policy", "verify")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert "--all" in done.stderr
    before = shop.state
    (shop.manifests / "ports.yaml").unlink()
    shop.wait_applied(before)


def test_manifests_that_are_not_in_force_are_refused(shop: Node) -> None:
    more = shop.host("more")
    shop.write("bad.yaml", policy("shop", "bad", podSelector=7))
    wait_for(lambda: shop.state and shop.state.problems, "the refusal")
    done = shop.sluice("policy", "verify")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert "podSelector" in done.stderr

    (shop.manifests / "bad.yaml").unlink()
    wait_for(lambda: shop.state and not shop.state.problems, "the state without problems")
    shop.stop_agent()
    shop.write("more.yaml", workload(more, "shop", "more", ["10.201.0.9"]))
    done = shop.sluice("policy", "verify")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert "not in force yet" in done.stderr
    assert "shop/more" in done.stderr
