"""`sluice policy trace`: the program's own answer, on a node with a running agent."""

from __future__ import annotations

import json
from collections.abc import Iterator
from ipaddress import ip_address
from typing import Any

import pytest

from pyagent.kernel import bpf, pins
from pyagent.kernel.question import Question, packet
from tests.netns.node import Node, policy, tenant, workload


@pytest.fixture(scope="module")
def shop() -> Iterator[Node]:
    node = Node()
    web, cart = node.host("web"), node.host("cart")
    node.write(
        "all.yaml",
        tenant("shop", 80),
        workload(web, "shop", "web", ["10.201.0.1", "fd00:201::1"]),
        workload(cart, "shop", "cart", ["10.201.0.2", "fd00:201::2"]),
        policy(
            "shop",
            "web",
            podSelector={"matchLabels": {"app": "web"}},
            ingress=[
                {
                    "from": [{"podSelector": {}}],
                    "ports": [{"port": 80}, {"port": 443}, {"protocol": "SCTP", "port": 132}],
                }
            ],
        ),
        policy(
            "shop",
            "cart",
            podSelector={"matchLabels": {"app": "cart"}},
            policyTypes=["Egress"],
            egress=[{"to": [{"podSelector": {"matchLabels": {"app": "web"}}}]}],
        ),
    )
    node.start_agent()
    yield node
    node.close()


def _ask(node: Node, source: str, destination: str, *more: str) -> list[dict[str, Any]]:
    words = ("policy", "trace", "--from", source, "--to", destination, *more, "-o", "json")
    done = node.sluice(*words)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    return answer if isinstance(answer, list) else [answer]


_EGRESS, _INGRESS = "shop/cart egress[0]", "shop/web ingress[0]"


@pytest.mark.parametrize(
    ("ends", "more", "outcome", "rules", "proxy"),
    [
        ("shop/cart shop/web", "--port 443", "allow none", (_EGRESS, _INGRESS), None),
        (
            "shop/cart shop/web",
            "--port 80",
            "handoff none",
            (_EGRESS, "tenant shop http 80"),
            "shop",
        ),
        (
            "shop/cart shop/web",
            "--port 132 --protocol SCTP",
            "allow none",
            (_EGRESS, _INGRESS),
            None,
        ),
        ("shop/cart shop/web", "--port 22", "deny policy_ingress", (_EGRESS, None), None),
        ("shop/cart shop/web", "--protocol ICMP", "deny policy_ingress", (_EGRESS, None), None),
        ("shop/cart 192.0.2.1", "--port 443", "deny policy_egress", (None, None), None),
        ("192.0.2.1 shop/web", "--port 443", "deny policy_ingress", (None, None), None),
        ("10.200.0.1 shop/web", "--port 22", "allow none", (None, "node"), None),
    ],
)
def test_the_program_answers(
    shop: Node,
    ends: str,
    more: str,
    outcome: str,
    rules: tuple[str | None, str | None],
    proxy: str | None,
) -> None:
    for answer in _ask(shop, *ends.split(), *more.split()):
        assert f"{answer['verdict']} {answer['drop_reason']}" == outcome
        assert (answer["egress_rule"], answer["ingress_rule"]) == rules
        assert answer["proxy"] == proxy
        assert (answer["missing"] is not None) == outcome.startswith("deny")


def test_both_families_are_asked(shop: Node) -> None:
    answers = _ask(shop, "shop/cart", "shop/web", "--port", "443")
    assert [answer["from"]["address"] for answer in answers] == ["10.201.0.2", "fd00:201::2"]


def test_asking_opens_no_flow_and_names_no_client(shop: Node) -> None:
    def everything() -> dict[str, Any]:
        with shop.tables() as tables:
            return {
                name: sorted(map(repr, tables[name].records()))
                for name in ("conntrack", "proxy_clients", "fragments")
            }

    before = everything()
    for port in ("80", "443", "22"):
        _ask(shop, "shop/cart", "shop/web", "--port", port)
    assert everything() == before


def test_a_packet_without_the_secret_is_judged_and_counted(shop: Node) -> None:
    """A workload cannot pass for a question: cb is not its to write, and it has no secret."""
    with shop.tables() as tables:
        assert int(tables.settings["trace"]) != 0
    frame = packet(Question(ip_address("10.201.0.2"), ip_address("10.201.0.1"), 6, 443))
    folder = next(pins.pin_directory(shop.state_dir).glob("programs-*"))
    fd = bpf.open_pin(folder / "from_workload")
    before = sum(shop.drops().values())
    bpf.run(fd, frame, bytes(192))  # no such interface: dropped, and counted
    bpf.close(fd)
    assert sum(shop.drops().values()) > before


@pytest.mark.parametrize(
    ("words", "status", "line"),
    [
        (("--from", "shop/none", "--to", "shop/web", "--port", "1"), 1, "neither an address nor"),
        (("--from", "192.0.2.1", "--to", "192.0.2.2", "--port", "1"), 1, "is a workload of this"),
        (("--from", "shop/cart", "--to", "shop/web"), 2, "need --port"),
        (("--from", "192.0.2.1", "--to", "fd00:201::1", "--port", "1"), 1, "no address family"),
    ],
)
def test_what_cannot_be_asked_is_one_line(
    shop: Node, words: tuple[str, ...], status: int, line: str
) -> None:
    done = shop.sluice("policy", "trace", *words)
    assert done.returncode == status
    assert done.stderr.count("\n") == 1
    assert line in done.stderr


def test_the_table_is_for_people(shop: Node) -> None:
    done = shop.sluice(
        "policy", "trace", "--from", "shop/cart", "--to", "10.201.0.1", "--port", "22"
    )
    assert done.returncode == 0
    assert done.stdout.splitlines()[0] == "DROP policy_ingress"
    assert "missing  ingress rule for shop/web" in done.stdout
