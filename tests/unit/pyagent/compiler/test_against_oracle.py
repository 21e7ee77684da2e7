"""The compiler against the plain oracle: drawn clusters, every packet that matters, one answer."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings

from pyagent.compiler import NodeFacts, Numbers, compile_snapshot
from pyagent.oracle import Oracle
from tests.rows_eval import Rows
from tests.strategies import Cluster, clusters, every_packet


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(clusters())
def test_rows_say_what_the_oracle_says(cluster: Cluster) -> None:
    facts = NodeFacts(cluster.node_addresses, cluster.node_traffic)
    compiled, _ = compile_snapshot(cluster.snapshot, Numbers(), facts)
    rows = Rows(compiled, cluster.snapshot)
    oracle = Oracle(cluster.snapshot, cluster.node_addresses, cluster.node_traffic)
    for packet in every_packet(cluster):
        assert rows.ask(packet) == oracle.ask(packet), packet
