"""An agent's own life: how soon a change is in force, how it ends, and that there is but one."""

from __future__ import annotations

import json
import signal
import socket
import statistics
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest
import yaml

from tests.netns.lifecycle import (
    ADDRESSES,
    POLICIES,
    TENANTS,
    Town,
    assert_grown,
    build,
    counts,
    envoy_pid,
    filters,
    standing,
    stat,
)
from tests.netns.load import Load
from tests.netns.node import Node, policy, tenant, wait_for
from tests.netns.traffic import dropped, http, udp

CHANGES = 50
SOON = 0.1  # seconds, the median of CHANGES
WEB, CLIENT = ADDRESSES["web"][0], ADDRESSES["client"][0]
CLOSED = policy(
    "shop",
    "web",
    podSelector={"matchLabels": {"app": "web"}},
    ingress=[{"ports": [{"port": 80}, {"port": 5000}, {"port": 5000, "protocol": "UDP"}]}],
)


@pytest.fixture(scope="module")
def town(shared_node: Node) -> Iterator[Town]:
    yield build(shared_node)


class Pings:
    """Datagrams to the server, one after another, on one socket, hence one flow."""

    def __init__(self, town: Town) -> None:
        self._socket = town.hosts["client"].socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.connect((WEB, 5000))
        self._number = 0

    def passes(self, patience: float) -> bool:
        """Whether one gets an answer."""
        self._number += 1
        number = b"%d" % self._number
        self._socket.settimeout(patience)
        self._socket.send(number)
        with suppress(TimeoutError):
            while self._socket.recv(100) != CLIENT.encode() + b" " + number:
                pass  # a late one's
            return True
        return False

    def first_that(self, passes: bool) -> float:
        """When the first one was sent that fared so."""
        while True:
            sent = time.monotonic()
            if passes and self.passes(0.002):
                return sent
            if not passes and not self.passes(0.05) and not self.passes(0.05):
                return sent

    def close(self) -> None:
        self._socket.close()


def test_a_change_of_a_manifest_is_soon_in_force(
    town: Town, capsys: pytest.CaptureFixture[str]
) -> None:
    """From the rename of the file to the first datagram that gets the new verdict."""
    node, pings = town.node, Pings(town)
    allow = policy("shop", "own", ingress=[{"from": [{"podSelector": {}}]}])
    deny = policy("shop", "own", ingress=[{"ports": [{"port": 80}]}])
    times = []
    for number in range(CHANGES):
        wanted = bool(number % 2)
        begun = time.monotonic()
        node.write("policies.yaml", allow if wanted else deny, POLICIES[1])
        times.append(pings.first_that(wanted) - begun)
    pings.close()
    with capsys.disabled():
        print(
            f"\n{CHANGES} changes of a manifest: in force after "
            f"{statistics.median(times) * 1000:.0f} ms (median), {max(times) * 1000:.0f} ms (most)"
        )
    assert statistics.median(times) < SOON


def assert_denied(node: Node, town: Town, port: int) -> None:
    """A connection of the client to the web server gets no answer, and the reason is policy."""
    with (
        town.hosts["client"].socket(socket.AF_INET, socket.SOCK_STREAM) as connection,
        dropped(node, "policy_ingress"),
    ):
        connection.setblocking(False)
        connection.connect_ex((WEB, port))


def test_sigterm_leaves_everything_working(town: Town) -> None:
    """What was denied stays denied, and the next agent finds it all."""
    node, client = town.node, town.hosts["client"]
    node.apply("policies.yaml", CLOSED, POLICIES[1])
    flows = [flow for flow in town.flows("client", "web") if flow.port != 8080]
    with Load(client, *flows) as load:
        before, numbers = standing(node, "shop", "bank"), counts(node)
        begun = time.monotonic()
        assert node.stop_agent(signal.SIGTERM) == 0
        assert time.monotonic() - begun < 2.0
        assert standing(node, "shop", "bank") == before
        assert_denied(node, town, 8080)
        assert udp(client, WEB, 5000) == CLIENT
        assert json.loads(http(client, WEB).body)["client"] == CLIENT
        node.start_agent()
        assert standing(node, "shop", "bank") == before
        assert_grown(numbers, counts(node))
        assert_denied(node, town, 8080)
        load.stop_unharmed()
    assert None not in before.proxies.values()


def test_the_next_agent_finds_other_manifests(town: Town) -> None:
    """It brings about the difference, and leaves the rest as it is."""
    node, client = town.node, town.hosts["client"]
    node.apply("policies.yaml", CLOSED, POLICIES[1])
    with Load(town.hosts["clerk"], *town.flows("clerk", "teller")) as load:
        before = standing(node, "shop", "bank")
        node.stop_agent()
        node.write("policies.yaml", *POLICIES)
        node.write("tenants.yaml", tenant("shop"), TENANTS[1])
        assert_denied(node, town, 8080)
        node.start_agent()
        assert http(client, WEB, 8080).status == 200
        assert http(client, WEB, 80).status == 200
        load.stop_unharmed()
        handed_off = stat(node, "HANDOFFS")
        assert http(client, WEB, 80).status == 200
        assert stat(node, "HANDOFFS") == handed_off
    wait_for(lambda: len(filters(node)) == len(before.filters) - 2, "the end of shop's proxy")
    assert envoy_pid(node, "shop") is None
    after = standing(node, "bank")
    assert after.maps == before.maps
    assert after.proxies["bank"] == before.proxies["bank"] is not None
    assert after.filters.items() < before.filters.items()


def test_two_agents_on_two_nodes(town: Town) -> None:
    """They have the same names and numbers, and nothing to do with each other."""
    other = Node()
    try:
        second = build(other)
        with (
            Load(town.hosts["clerk"], *town.flows("clerk", "teller")) as load,
            Load(second.hosts["clerk"], *second.flows("clerk", "teller")) as its_load,
        ):
            before = standing(town.node, "bank")
            other.stop_agent(signal.SIGKILL)
            other.start_agent()
            assert standing(town.node, "bank") == before
            other.apply("policies.yaml", *POLICIES, policy("bank", "more"))
            its_load.stop()
            assert other.stop_agent() == 0
            done = other.sluice("cleanup")
            assert done.returncode == 0, done.stderr
            assert standing(town.node, "bank") == before
            load.stop_unharmed()
    finally:
        other.close()


def test_a_second_agent_is_refused(town: Town) -> None:
    """By the run directory, and by the state directory where only that is shared."""
    node = town.node
    before = standing(node, "bank")
    assert node.agent is not None
    again = node.sluice("agent", "--config", str(node.config))
    line = f"sluice: an agent runs already with {node.run_dir} (pid {node.agent.pid})\n"
    assert (again.returncode, again.stderr) == (1, line)
    document = yaml.safe_load(node.config.read_text())
    document["spec"]["runDir"] = f"{node.run_dir}-2"
    document["spec"].pop("metrics")
    config = node.config.with_name("second.yaml")
    config.write_text(yaml.safe_dump(document))
    again = node.sluice("agent", "--config", str(config))
    line = f"sluice: an agent runs already with {node.state_dir}\n"
    assert (again.returncode, again.stderr) == (1, line)
    assert standing(node, "bank") == before
    assert node.agent.poll() is None
