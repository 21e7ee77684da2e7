"""A disk that a proxy, or anybody, has filled: the agent says so and goes on."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from tests.netns.node import Node, policy, wait_for, workload


@pytest.fixture
def small(node: Node) -> Iterator[Node]:
    """A node whose state directory is on a file system of 4 MiB."""
    place = str(node.state_dir)
    node.state_dir.mkdir()
    subprocess.run(("mount", "-t", "tmpfs", "-o", "size=4m,mode=711", "none", place), check=True)
    yield node
    (node.state_dir / "filler").unlink(missing_ok=True)
    if node.agent is not None:
        node.stop_agent()
    done = node.sluice("cleanup")
    subprocess.run(("umount", place), check=True)
    assert done.returncode == 0, done.stderr


def fill(node: Node) -> None:
    """To the last byte."""
    with (node.state_dir / "filler").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(65_536))
        except OSError:
            return


def test_a_full_disk_stops_no_agent(small: Node) -> None:
    node, host = small, small.host("web")
    node.write("workloads.yaml", workload(host, "shop", "web", ["10.201.0.1"]))
    agent = node.start_agent()
    before = node.state
    fill(node)
    node.write("policies.yaml", policy("shop", "all", ingress=[{}]))
    wait_for(lambda: "No space left on device" in node.read_log(), "the refusal")
    assert "Traceback" not in node.read_log()
    assert agent.poll() is None
    after = node.state
    assert before is not None
    assert after is not None
    # the start may be followed by one more notice of the source, which changes the times alone
    assert (after.counts, after.rules, after.identities, after.workloads) == (
        before.counts,
        before.rules,
        before.identities,
        before.workloads,
    )
    (node.state_dir / "filler").unlink()
    wait_for(lambda: node.state and node.state.counts["policies"] == 1, "the policy", 20.0)
