"""`dump_workload` and back; and no input whatever raises anything but InvalidState."""

from __future__ import annotations

import contextlib
import tempfile
import time
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from pyagent.errors import InvalidState
from pyagent.manifests import dump_workload, load_agent_config, load_directory, names
from pyagent.model import NamedPort, Origin, Protocol, Workload

ORIGIN = Origin("", 1)


def load_text(data: str | bytes) -> Workload:
    """The only workload of a directory with the one file."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "a.yaml"
        file.write_bytes(data.encode() if isinstance(data, str) else data)
        (workload,) = load_directory(Path(folder)).workloads.values()
    return replace(workload, origin=ORIGIN)


def test_dump_is_what_a_person_would_write() -> None:
    workload = Workload(
        namespace="shop",
        name="web-1",
        labels={"app": "web", "on": "yes", "number": "1e3"},
        addresses=(ip_address("10.1.0.2"), ip_address("fd00:1::2")),
        ports=(NamedPort("http", 8080, Protocol.TCP),),
        interface=None,
        netns="/run/netns/web-1",
        origin=ORIGIN,
    )
    assert (
        dump_workload(workload)
        == """\
apiVersion: sluice.dev/v1alpha1
kind: Workload
metadata:
  name: web-1
  namespace: shop
  labels:
    app: web
    "on": "yes"
    number: "1e3"
spec:
  netns: /run/netns/web-1
  addresses:
  - 10.1.0.2
  - fd00:1::2
  ports:
  - name: http
    port: 8080
    protocol: TCP
"""
    )


def test_audit_comes_back_from_its_annotation() -> None:
    workload = Workload("a", "b", {}, (ip_address("10.0.0.1"),), (), "e", None, ORIGIN, audit=True)
    assert '  annotations:\n    sluice.dev/policy-audit: "true"\n' in dump_workload(workload)
    assert load_text(dump_workload(workload)) == workload


def accepts(rule: object, text: str) -> bool:
    assert callable(rule)
    try:
        rule(text)
    except ValueError:
        return False
    return True


# Words that YAML could take for something else, beside any that the rules allow.
tricky = st.sampled_from(
    [
        "1",
        "010",
        "0x1f",
        "1e3",
        "yes",
        "no",
        "null",
        "true",
        "1.5",
        "08",
        "0b1",
        "1-1",
        "2024-01-01",
    ]
)
label_values = st.one_of(
    tricky,
    st.just(""),
    st.from_regex(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,9}[A-Za-z0-9])?", fullmatch=True),
)
dns_labels = st.one_of(
    tricky.filter(lambda text: accepts(names.dns_label, text)),
    st.from_regex(r"[a-z0-9]([-a-z0-9]{0,9}[a-z0-9])?", fullmatch=True),
)
port_names = st.from_regex(r"[a-z0-9]{1,14}", fullmatch=True).filter(
    lambda text: accepts(names.port_name, text)
)
paths = st.text(min_size=1, max_size=30).map(lambda text: f"/{text}").filter(
    lambda text: accepts(names.absolute_path, text)
)  # fmt: skip
interfaces = st.text(st.characters(codec="ascii"), min_size=1, max_size=15).filter(
    lambda text: accepts(names.interface_name, text)
)
addresses = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)).filter(
    lambda address: accepts(names.workload_address, str(address))
)
ports = st.builds(
    NamedPort,
    name=port_names,
    port=st.integers(1, 65535),
    protocol=st.sampled_from([Protocol.TCP, Protocol.UDP, Protocol.SCTP]),
)


@st.composite
def workloads(draw: st.DrawFn) -> Workload:
    by_interface = draw(st.booleans())
    return Workload(
        namespace=draw(dns_labels),
        name=draw(st.lists(dns_labels, min_size=1, max_size=3).map(".".join)),
        labels=draw(st.dictionaries(label_values.filter(bool), label_values, max_size=4)),
        addresses=tuple(draw(st.lists(addresses, min_size=1, max_size=4, unique=True))),
        ports=tuple(draw(st.lists(ports, max_size=3, unique_by=lambda port: port.name))),
        interface=draw(interfaces) if by_interface else None,
        netns=None if by_interface else draw(paths),
        origin=ORIGIN,
    )


@settings(deadline=None, max_examples=150)
@given(workloads())
def test_a_dumped_workload_is_read_back_as_it_was(workload: Workload) -> None:
    assert load_text(dump_workload(workload)) == workload


MANIFEST = b"""apiVersion: sluice.dev/v1alpha1
kind: Workload
metadata: {name: w, namespace: shop, labels: {app: web}}
spec: {interface: e, addresses: [10.0.0.1, 'fd00::1'], ports: [{name: http, port: 80}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p}
spec:
  podSelector: {matchExpressions: [{key: a, operator: In, values: [b]}]}
  ingress:
  - from: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}}]
    ports: [{port: 80, endPort: 81}]
---
apiVersion: sluice.dev/v1alpha1
kind: AgentConfig
spec: {source: {directory: x}, mapSizes: {policy: 8}}
"""


def never_fails_otherwise(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "a.yaml"
        file.write_bytes(data)
        for load in (lambda: load_directory(Path(folder)), lambda: load_agent_config(file)):
            with contextlib.suppress(InvalidState):
                load()


@settings(deadline=None)
@given(st.binary())
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    never_fails_otherwise(data)


@settings(deadline=None, max_examples=500)
@given(
    st.lists(
        st.tuples(
            st.integers(0, len(MANIFEST)),
            st.integers(0, 12),
            st.one_of(
                st.binary(max_size=3),
                st.sampled_from([b"[]", b"{}", b"~", b"5", b"'", b"\n", b": ", b"- ", b"9" * 30]),
            ),
        ),
        min_size=1,
        max_size=4,
    )
)
def test_damaged_manifests_are_read_or_refused(damage: list[tuple[int, int, bytes]]) -> None:
    data = MANIFEST
    for start, length, new in damage:
        data = data[:start] + new + data[start + length :]
    never_fails_otherwise(data)


json_like = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(deadline=None, max_examples=300)
@given(
    kind=st.sampled_from(["Workload", "Tenant", "NetworkPolicy", "Namespace", "AgentConfig"]),
    key=st.sampled_from(
        ["metadata", "spec", "metadata.name", "metadata.labels", "spec.addresses", "spec.ports",
         "spec.http", "spec.podSelector", "spec.ingress", "spec.policyTypes", "spec.source",
         "spec.mapSizes", "spec.metrics", "status", "spec.netns"]
    ),
    value=json_like,
)  # fmt: skip
def test_any_value_in_any_field_is_read_or_refused(kind: str, key: str, value: object) -> None:
    group = {"NetworkPolicy": "networking.k8s.io/v1", "Namespace": "v1"}
    document: dict[str, object] = {
        "apiVersion": group.get(kind, "sluice.dev/v1alpha1"),
        "kind": kind,
    }
    top, _, field = key.partition(".")
    document[top] = {field: value} if field else value
    if top != "metadata":
        document["metadata"] = {"name": "a"}
    never_fails_otherwise(yaml.safe_dump(document, allow_unicode=False).encode())


@pytest.mark.parametrize("address", [IPv4Address("240.0.0.1"), IPv6Address("64:ff9b::1")])
def test_unusual_unicast_addresses_are_workload_addresses(
    address: IPv4Address | IPv6Address,
) -> None:
    assert names.workload_address(str(address)) == address


def numbered(number: int) -> Workload:
    return Workload(
        namespace=f"ns-{number % 100}",
        name=f"w-{number}",
        labels={"app": "web", "tier": f"t{number % 7}", "version": f"v{number % 3}"},
        addresses=(IPv4Address((10 << 24) + number), IPv6Address((0xFD << 120) + number)),
        ports=(NamedPort("http", 8080, Protocol.TCP),),
        interface=f"veth{number}",
        netns=None,
        origin=ORIGIN,
    )


def test_ten_thousand_workloads_are_read_quickly(tmp_path: Path) -> None:
    manifests = (dump_workload(numbered(number)) for number in range(10_000))
    (tmp_path / "a.yaml").write_text("---\n".join(manifests))
    start = time.perf_counter()
    snapshot = load_directory(tmp_path)
    seconds = time.perf_counter() - start
    print(f"10,000 workloads read in {seconds:.2f} s")
    assert len(snapshot.workloads) == 10_000
    assert seconds < 10  # about 1 s on two quiet cores; the bound is for busy ones
