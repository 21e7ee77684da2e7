"""The kernel against the plain oracle: drawn clusters put in force one after the other, and the
loaded program's own answer on drawn packets after each.

Left out are packets of a workload to itself, which never leave it (the oracle allows them), and
those between two ends of which neither is a workload, which no program of ours sees.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from pyagent.compiler import NodeFacts, Numbers, compile_snapshot
from pyagent.kernel import pins
from pyagent.kernel.question import Asker, Question
from pyagent.oracle import Oracle, Packet
from pyagent.plan import Observed, Rows, Wired, desired_rows, plan
from pyagent.verify import Outcome, expected, seen
from tests.prog import rounds
from tests.prog.harness import World
from tests.prog.node import Interface, Node
from tests.strategies import Cluster, clusters, every_packet

EXAMPLES = 170  # of one to three clusters each
PACKETS = 150  # of those that matter, for each cluster
ENOUGH = 20_000  # pairs of (state, packet)


class Kernel:
    """The programs and maps of the node, filled by plans from one cluster to the next."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._tables = node.tables
        self._numbers = Numbers()
        self._have = Rows()
        self._tenants: dict[int, str] = {}
        node.tables.allow_questions()

    def clear(self) -> None:
        """Starts anew, whatever an example before has left behind."""
        self._tables.apply(plan(self._tables.read(), Rows()))
        self._numbers, self._have = Numbers(), Rows()

    def put(self, cluster: Cluster) -> None:
        """Takes the steps of the agent from the cluster in force to this one."""
        facts = NodeFacts(cluster.node_addresses, cluster.node_traffic)
        compiled, self._numbers = compile_snapshot(cluster.snapshot, self._numbers, facts)
        want = desired_rows(cluster.snapshot, compiled, self._observe(cluster))
        self._tables.apply(plan(self._have, want))
        self._have = want
        self._tenants = {number: name for name, number in compiled.tenants.items()}

    def _observe(self, cluster: Cluster) -> Observed:
        """Real interfaces stand in for the workloads'. One tenant's proxy serves, one's doesn't,
        a third tenant has none."""
        numbers = {key: int(w.name[1:]) for key, w in cluster.snapshot.workloads.items()}
        tenants = sorted(cluster.snapshot.tenants)
        return Observed(
            node_addresses=cluster.node_addresses,
            workloads={key: self._wired(f"w{number + 1}") for key, number in numbers.items()},
            proxies={
                name: self._wired(interface)
                for name, interface in zip(tenants, ("p1", "p2"), strict=False)
            },
            ready=frozenset(tenants[:1]),
        )

    def _wired(self, name: str) -> Wired:
        interface: Interface = self._node.interfaces[name]
        return Wired(interface.index, "02" + interface.mac[2:], interface.mac)

    def ask(self, packets: Iterable[Packet]) -> Iterator[tuple[Packet, Outcome]]:
        """What the program that sees each packet first does with it."""
        with self._node.inside(), Asker(pins.pin_directory(self._node.state_dir)) as asker:
            for packet in packets:
                question = Question(packet.source, packet.destination, packet.protocol, packet.port)
                answer = asker.ask(question)
                tenant = self._tenants.get(answer.tenant)
                yield packet, seen(answer.verdict, answer.reason, tenant)


@pytest.fixture
def kernel(world: World) -> Kernel:
    world.clear()
    return Kernel(world.node)


def _some(cluster: Cluster, dice: random.Random) -> list[Packet]:
    between = [packet for packet in every_packet(cluster) if packet.source != packet.destination]
    return dice.sample(between, min(PACKETS, len(between)))


def _agree(kernel: Kernel, history: list[Cluster], dice: random.Random) -> int:
    """Puts one cluster after the other in force; how many packets were asked about."""
    kernel.clear()
    asked = 0
    for cluster in history:
        kernel.put(cluster)
        oracle = Oracle(cluster.snapshot, cluster.node_addresses, cluster.node_traffic)
        for packet, outcome in kernel.ask(_some(cluster, dice)):
            assert outcome == expected(oracle.ask(packet)), packet
            asked += 1
    return asked


@pytest.mark.timeout(120 + rounds.SECONDS)
def test_the_kernel_does_what_the_oracle_says(kernel: Kernel) -> None:
    for number in rounds.seeds():
        asked = 0

        @seed(number)
        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            derandomize=False,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
        )
        @given(st.lists(clusters(), min_size=1, max_size=3), st.integers(0, 2**32 - 1))
        def agree(history: list[Cluster], dice: int) -> None:
            nonlocal asked
            asked += _agree(kernel, history, random.Random(dice))

        agree()
        print(f"{asked} pairs of state and packet")
        assert asked >= ENOUGH


def test_every_outcome_is_drawn(kernel: Kernel) -> None:
    """Or the agreement would say little."""
    found: set[str] = set()

    @seed(1)
    @settings(
        max_examples=25, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(clusters(), st.integers(0, 2**32 - 1))
    def draw(cluster: Cluster, dice: int) -> None:
        kernel.clear()
        kernel.put(cluster)
        found.update(str(outcome) for _, outcome in kernel.ask(_some(cluster, random.Random(dice))))

    draw()
    handoffs = {f"handoff to {name}" for name in ("shop", "bank", "lab")}
    assert found == {"allow", "audit", "deny egress", "deny ingress"} | handoffs
