"""The agent killed with SIGKILL, again and again, under a load of requests."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Iterator

import pytest

from tests.netns.lifecycle import (
    POLICIES,
    Town,
    assert_grown,
    build,
    counts,
    sampled,
    standing,
)
from tests.netns.load import Load
from tests.netns.node import Node, policy

REPETITIONS = 100
EXTRA = policy("shop", "extra", ingress=[{"from": [{"podSelector": {}}], "ports": [{"port": 1}]}])


@pytest.fixture(scope="module")
def town(shared_node: Node) -> Iterator[Town]:
    yield build(shared_node)


def test_a_restart_adopts_everything(town: Town) -> None:
    node = town.node
    with Load(town.hosts["client"], *town.flows("client", "web")) as load:
        for _ in range(3):
            before, numbers = standing(node, "shop", "bank"), counts(node)
            node.stop_agent(signal.SIGKILL)
            assert standing(node, "shop", "bank") == before
            node.start_agent()
            assert standing(node, "shop", "bank") == before
            assert_grown(numbers, counts(node))
        load.stop_unharmed()
    assert None not in before.proxies.values()
    assert len(before.filters) == 4 * 2 + 2 * 2


@pytest.mark.timeout(400)
def test_killing_the_agent_loses_no_request(town: Town, capsys: pytest.CaptureFixture[str]) -> None:
    """A third of the kills hit a start, a third an agent at rest, a third a change."""
    node, chance = town.node, random.Random(1)
    before = standing(node, "shop", "bank")
    begun, starts = time.monotonic(), []
    with (
        node.tables() as tables,
        sampled(lambda: tuple(v["ready"] for _, v in tables["tenants"].records())) as ready,
        Load(town.hosts["client"], *town.flows("client", "web")) as load,
        Load(town.hosts["clerk"], *town.flows("clerk", "teller", 0.05)) as other,
    ):
        for number in range(REPETITIONS):
            node.stop_agent(signal.SIGKILL)
            started = time.monotonic()
            if number % 3 == 0:
                node.start_agent(wait=False)
                time.sleep(chance.uniform(0.0, 0.6))
                continue
            node.start_agent()
            starts.append(time.monotonic() - started)
            if number % 3 == 2:
                node.write("policies.yaml", *POLICIES, *[EXTRA] * (number % 2))
                time.sleep(chance.uniform(0.0, 0.03))
        node.stop_agent(signal.SIGKILL)
        node.write("policies.yaml", *POLICIES)
        node.start_agent()
        good = load.stop_unharmed() + other.stop_unharmed()
    after = standing(node, "shop", "bank")
    assert (after.maps, after.filters, after.proxies) == (
        before.maps,
        before.filters,
        before.proxies,
    )
    assert after.rows == before.rows
    assert ready == {(1, 1)}
    slowest = max(r.slowest for r in (*load.reports.values(), *other.reports.values()))
    with capsys.disabled():
        print(
            f"\nagent killed {REPETITIONS} times in {time.monotonic() - begun:.0f} s: {good} "
            f"exchanges, none lost, the slowest {slowest * 1000:.0f} ms; a restart is in force "
            f"after {sorted(starts)[len(starts) // 2] * 1000:.0f} ms (median)"
        )
