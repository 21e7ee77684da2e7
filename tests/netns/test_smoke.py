"""The shortest way through every room: two workloads, a policy, a handoff."""

from __future__ import annotations

import json

from tests.netns.node import Node, policy, tenant, wait_for, workload


def test_a_request_is_handed_off_and_the_server_sees_the_client(node: Node) -> None:
    web, client = node.host("web"), node.host("client")
    node.write(
        "all.yaml",
        tenant("shop", 80),
        workload(web, "shop", "web", ["10.201.0.1", "fd00:201::1"]),
        workload(client, "shop", "client", ["10.201.0.2", "fd00:201::2"]),
        policy("shop", "own", ingress=[{"from": [{"podSelector": {}}]}]),
    )
    node.start_agent()
    web.serve(http=[80, 8080])
    for url, address in (
        ("http://10.201.0.1/", "10.201.0.2"),
        ("http://[fd00:201::1]/", "fd00:201::2"),
        ("http://10.201.0.1:8080/", "10.201.0.2"),
    ):
        code, body = client.curl(url)
        assert code == 200
        assert json.loads(body)["client"] == address
    log = node.state_dir / "proxies/shop/access.log"
    wait_for(lambda: len(log.read_text().splitlines()) == 2, "both requests in the access log")
