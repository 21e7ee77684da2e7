"""The compiler against the plain oracle: drawn clusters, every packet that matters, one answer."""

from __future__ import annotations

from hypothesis import HealthCheck, Phase, given, settings

from pyagent.compiler import NodeFacts, Numbers, compile_snapshot
from pyagent.oracle import Oracle
from tests.rows_eval import Rows
from tests.strategies import Cluster, clusters, every_packet

LEAST = 20_000  # pairs of a state and a packet


def test_rows_say_what_the_oracle_says() -> None:
    asked = 0
    verdicts: set[str] = set()

    @settings(
        max_examples=100,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        # shrinking, over all packets each time, would outlast any patience
        phases=(Phase.explicit, Phase.reuse, Phase.generate),
    )
    @given(clusters())
    def compare(cluster: Cluster) -> None:
        nonlocal asked
        facts = NodeFacts(cluster.node_addresses, cluster.node_traffic)
        compiled, _ = compile_snapshot(cluster.snapshot, Numbers(), facts)
        rows = Rows(compiled, cluster.snapshot)
        oracle = Oracle(cluster.snapshot, cluster.node_addresses, cluster.node_traffic)
        for packet in every_packet(cluster):
            answer = oracle.ask(packet)
            assert rows.ask(packet) == answer, packet
            verdicts.add(answer.verdict)
            asked += 1

    compare()
    assert asked >= LEAST
    assert verdicts == {"ALLOW", "DENY", "AUDIT", "HANDOFF"}
