"""What the agent counts itself, and the endpoint; what the maps tell is in tests/prog."""

from __future__ import annotations

import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from pyagent.errors import SluiceError
from pyagent.metrics import Endpoint, Metrics, NodeCollector, serve
from pyagent.state import NodeState

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]
DEADLINE = 5.0


OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def get(port: int, path: str = "/metrics", host: str = "127.0.0.1") -> str:
    with OPENER.open(f"http://{host}:{port}{path}", timeout=DEADLINE) as answer:
        text: str = answer.read().decode()
        return text


def samples(text: str) -> Samples:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def key(name: str, **labels: str) -> tuple[str, frozenset[tuple[str, str]]]:
    return name, frozenset(labels.items())


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(version="1.2.3")


@pytest.fixture
def endpoint(metrics: Metrics) -> Iterator[Endpoint]:
    served = serve("127.0.0.1:0", metrics)
    yield served
    served.close()


def test_what_the_agent_counts_is_told(metrics: Metrics, endpoint: Endpoint) -> None:
    metrics.observe_reconcile(0.004)
    metrics.observe_reconcile(0.2)
    metrics.observe_reconcile(90)
    metrics.map_op("policy", "update", "ok", 5)
    metrics.map_op("policy", "update", "ok")
    metrics.map_op("policy", "update", "full")
    found = samples(get(endpoint.port))
    assert found[key("sluice_reconcile_seconds_count")] == 3
    assert found[key("sluice_reconcile_seconds_sum")] == pytest.approx(90.204)
    assert found[key("sluice_reconcile_seconds_bucket", le="0.005")] == 1
    assert found[key("sluice_reconcile_seconds_bucket", le="0.25")] == 2
    assert found[key("sluice_reconcile_seconds_bucket", le="+Inf")] == 3
    operation = {"map": "policy", "operation": "update"}
    assert found[key("sluice_map_ops_total", **operation, outcome="ok")] == 6
    assert found[key("sluice_map_ops_total", **operation, outcome="full")] == 1
    assert found[key("sluice_build_info", version="1.2.3", abi="1")] == 1


def test_the_process_is_told(endpoint: Endpoint) -> None:
    found = samples(get(endpoint.port))
    assert found[key("process_resident_memory_bytes")] > 1e6
    assert found[key("process_open_fds")] > 3


def test_every_family_has_a_type_and_a_help_text(endpoint: Endpoint) -> None:
    text = get(endpoint.port)
    families = list(text_string_to_metric_families(text))
    assert {"sluice_reconcile_seconds", "sluice_map_ops", "sluice_build_info"} <= {
        family.name for family in families
    }
    for family in families:
        assert family.type != "unknown", family.name
        assert family.documentation.strip(), family.name
    assert "_created" not in text


def test_nothing_is_kept_between_two_scrapes(metrics: Metrics, endpoint: Endpoint) -> None:
    metrics.map_op("tenants", "delete", "ok")
    first = samples(get(endpoint.port))
    metrics.map_op("tenants", "delete", "ok")
    second = samples(get(endpoint.port))
    series = key("sluice_map_ops_total", map="tenants", operation="delete", outcome="ok")
    assert (first[series], second[series]) == (1, 2)


def test_only_one_path_is_served(endpoint: Endpoint) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        get(endpoint.port, "/")
    assert refused.value.code == 404
    assert "/metrics" in refused.value.read().decode()


def test_maps_that_cannot_be_read_fail_the_scrape_in_one_line(
    tmp_path: Path, metrics: Metrics
) -> None:
    state = NodeState(node="n", version="0", pid=1, started=0.0)
    served = serve("127.0.0.1:0", NodeCollector(tmp_path, lambda: state, metrics))
    try:
        with pytest.raises(urllib.error.HTTPError) as refused:
            get(served.port)
        assert refused.value.code == 503
        said = refused.value.read().decode()
        assert str(tmp_path) in said
        assert said.count("\n") == 1
    finally:
        served.close()


def test_ipv6_in_brackets(metrics: Metrics) -> None:
    served = serve("[::1]:0", metrics)
    try:
        assert key("sluice_reconcile_seconds_count") in samples(get(served.port, host="[::1]"))
    finally:
        served.close()


def test_a_name_is_resolved(metrics: Metrics) -> None:
    serve("localhost:0", metrics).close()


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("127.0.0.1", "HOST:PORT"),
        ("127.0.0.1:http", "HOST:PORT"),
        ("127.0.0.1:70000", "HOST:PORT"),
        ("192.0.2.1:9464", "assign requested address"),
        (":9464", "HOST:PORT"),
    ],
)
def test_an_address_that_will_not_do(metrics: Metrics, address: str, why: str) -> None:
    with pytest.raises(SluiceError, match=why) as refused:
        serve(address, metrics)
    assert str(refused.value).startswith("metrics cannot be served on ")
    assert "\n" not in str(refused.value)


def test_a_taken_port(metrics: Metrics, endpoint: Endpoint) -> None:
    before = descriptors()
    with pytest.raises(SluiceError, match="Address already in use"):
        serve(f"127.0.0.1:{endpoint.port}", metrics)
    assert descriptors() == before


def test_close_ends_the_thread_and_frees_the_port(metrics: Metrics) -> None:
    threads = threading.active_count()
    served = serve("127.0.0.1:0", metrics)
    get(served.port)
    begun = time.monotonic()
    served.close()
    served.close()
    assert time.monotonic() - begun < 1.0
    assert threading.active_count() == threads
    serve(f"127.0.0.1:{served.port}", metrics).close()


def test_a_client_that_says_nothing_keeps_nobody_waiting(endpoint: Endpoint) -> None:
    with socket.create_connection(("127.0.0.1", endpoint.port), timeout=DEADLINE):
        assert "sluice_build_info" in get(endpoint.port)


def test_many_scrapes_leak_no_descriptor(endpoint: Endpoint) -> None:
    get(endpoint.port)
    before = descriptors()
    for _ in range(50):
        get(endpoint.port)
    until = time.monotonic() + DEADLINE
    while descriptors() > before and time.monotonic() < until:
        time.sleep(0.01)
    assert descriptors() <= before
