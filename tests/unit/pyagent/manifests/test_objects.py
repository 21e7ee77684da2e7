"""Good manifests become exactly the values they say."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from pyagent.model import (
    Direction,
    FailureMode,
    IPBlock,
    LabelSelector,
    NamedPort,
    Namespace,
    NetworkPolicy,
    Operator,
    Origin,
    Placement,
    PolicyPeer,
    PolicyPort,
    PolicyRule,
    Protocol,
    Requirement,
    Snapshot,
    Tenant,
    Workload,
)

Load = Callable[..., Snapshot]
EVERYTHING = LabelSelector()


def test_an_empty_directory_is_an_empty_snapshot(load: Load) -> None:
    assert load() == Snapshot({}, {}, {}, {})


def test_workload_whole(load: Load, tmp_path: Path) -> None:
    snapshot = load("""
apiVersion: sluice.dev/v1alpha1
kind: Workload
metadata: {name: web-1, namespace: shop, labels: {app: web}, annotations: {note: x}}
spec:
  interface: veth12
  addresses: [10.1.0.2, "FD00:1:0::2"]
  ports: [{name: http, port: 8080, protocol: TCP}, {name: dns, port: 53, protocol: UDP}]
""")
    assert snapshot.workloads == {
        "shop/web-1": Workload(
            namespace="shop",
            name="web-1",
            labels={"app": "web"},
            addresses=(ip_address("10.1.0.2"), ip_address("fd00:1::2")),
            ports=(NamedPort("http", 8080, Protocol.TCP), NamedPort("dns", 53, Protocol.UDP)),
            interface="veth12",
            netns=None,
            origin=Origin(f"{tmp_path}/a.yaml", 1),
        )
    }


def test_workload_defaults(load: Load, tmp_path: Path) -> None:
    snapshot = load("""
apiVersion: sluice.dev/v1alpha1
kind: Workload
metadata: {name: a.b}
spec: {netns: /run/netns/a, addresses: ["1:2:3:4:5:6:7:8"], ports: [{name: x, port: 1}]}
""")
    assert snapshot.workloads["default/a.b"] == Workload(
        namespace="default",
        name="a.b",
        labels={},
        addresses=(ip_address("1:2:3:4:5:6:7:8"),),
        ports=(NamedPort("x", 1, Protocol.TCP),),
        interface=None,
        netns="/run/netns/a",
        origin=Origin(f"{tmp_path}/a.yaml", 1),
    )


def test_an_unquoted_ipv6_address_is_no_base_60_number(load: Load) -> None:
    snapshot = load("""
apiVersion: sluice.dev/v1alpha1
kind: Workload
metadata: {name: w}
spec:
  interface: e
  addresses:
  - 1:2:3:4:5:6:7:8
""")
    assert snapshot.workloads["default/w"].addresses == (ip_address("1:2:3:4:5:6:7:8"),)


def test_tenant(load: Load, tmp_path: Path) -> None:
    snapshot = load("""
apiVersion: sluice.dev/v1alpha1
kind: Tenant
metadata: {name: shop}
spec: {placement: tenant, failureMode: open, http: [{port: 80}, {port: 8080}]}
---
apiVersion: sluice.dev/v1alpha1
kind: Tenant
metadata: {name: bank}
""")
    file = f"{tmp_path}/a.yaml"
    assert snapshot.tenants == {
        "shop": Tenant(
            "shop", Placement.TENANT, FailureMode.OPEN, frozenset({80, 8080}), Origin(file, 1)
        ),
        "bank": Tenant("bank", Placement.TENANT, FailureMode.CLOSED, frozenset(), Origin(file, 2)),
    }


def test_namespace_as_kubectl_prints_it(load: Load, tmp_path: Path) -> None:
    snapshot = load("""
apiVersion: v1
kind: Namespace
metadata:
  name: shop
  uid: 6e6e3f0a
  resourceVersion: "12"
  creationTimestamp: 2024-01-01T00:00:00Z
  managedFields: [{manager: kubectl, fieldsV1: {"f:metadata": {}}}]
  labels: {team: a, kubernetes.io/metadata.name: shop}
  annotations: {kubectl.kubernetes.io/last-applied-configuration: "{}"}
spec: {finalizers: [kubernetes]}
status: {phase: Active}
""")
    assert snapshot.namespaces == {
        "shop": Namespace(
            "shop",
            {"team": "a", "kubernetes.io/metadata.name": "shop"},
            Origin(f"{tmp_path}/a.yaml", 1),
        )
    }


def test_namespaces_that_are_only_named_are_implied(load: Load, tmp_path: Path) -> None:
    workload = """
apiVersion: sluice.dev/v1alpha1
kind: Workload
metadata: {name: w, namespace: shop}
spec: {interface: e, addresses: [10.0.0.1]}
"""
    tenant = "{apiVersion: sluice.dev/v1alpha1, kind: Tenant, metadata: {name: bank}}"
    namespaces = """
{apiVersion: v1, kind: Namespace, metadata: {name: own, labels: {a: b}}}
--- {apiVersion: sluice.dev/v1alpha1, kind: Tenant, metadata: {name: shop}}
--- {apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: p}, spec: {}}
--- {apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: p, namespace: own},
     spec: {}}
"""
    snapshot = load(files={"1.yaml": workload, "2.yml": tenant, "3.yaml": namespaces})

    def implied(name: str, file: str, document: int) -> Namespace:
        origin = Origin(f"{tmp_path}/{file}", document)
        return Namespace(name, {"kubernetes.io/metadata.name": name}, origin)

    assert snapshot.namespaces == {
        "own": Namespace(
            "own",
            {"a": "b", "kubernetes.io/metadata.name": "own"},
            Origin(f"{tmp_path}/3.yaml", 1),
        ),
        "shop": implied("shop", "1.yaml", 1),
        "bank": implied("bank", "2.yml", 1),
        "default": implied("default", "3.yaml", 3),
    }


def test_network_policy_whole(load: Load, tmp_path: Path) -> None:
    snapshot = load("""
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: all, namespace: shop, generation: 3}
spec:
  podSelector:
    matchLabels: {app: web}
    matchExpressions:
    - {key: tier, operator: In, values: [a, b]}
    - {key: x.io/tier, operator: NotIn, values: [""]}
    - {key: e, operator: Exists}
    - {key: d, operator: DoesNotExist, values: []}
  policyTypes: [Egress, Ingress]
  ingress:
  - from:
    - podSelector: {}
    - namespaceSelector: {}
    - podSelector: {matchLabels: {a: b}}
      namespaceSelector: {matchLabels: {c: d}}
    - ipBlock: {cidr: 10.0.0.9/8, except: [10.1.0.0/16, 10.2.0.1/32]}
    - ipBlock: {cidr: "fd00::/8"}
    ports: [{}, {port: 80}, {protocol: UDP, port: dns}, {protocol: SCTP, port: 5, endPort: 5},
            {port: 1, endPort: 65535}, {protocol: UDP}]
  - {}
  egress:
  - to: []
    ports:
""")
    policy = snapshot.policies["shop/all"]
    assert policy == NetworkPolicy(
        namespace="shop",
        name="all",
        pod_selector=LabelSelector(
            {"app": "web"},
            (
                Requirement("tier", Operator.IN, ("a", "b")),
                Requirement("x.io/tier", Operator.NOT_IN, ("",)),
                Requirement("e", Operator.EXISTS),
                Requirement("d", Operator.DOES_NOT_EXIST),
            ),
        ),
        directions=frozenset(Direction),
        ingress=(
            PolicyRule(
                (
                    PolicyPeer(pod_selector=EVERYTHING),
                    PolicyPeer(namespace_selector=EVERYTHING),
                    PolicyPeer(LabelSelector({"a": "b"}), LabelSelector({"c": "d"})),
                    PolicyPeer(
                        ip_block=IPBlock(
                            ip_network("10.0.0.0/8"),
                            (ip_network("10.1.0.0/16"), ip_network("10.2.0.1/32")),
                        )
                    ),
                    PolicyPeer(ip_block=IPBlock(ip_network("fd00::/8"))),
                ),
                (
                    PolicyPort(Protocol.TCP),
                    PolicyPort(Protocol.TCP, 80),
                    PolicyPort(Protocol.UDP, "dns"),
                    PolicyPort(Protocol.SCTP, 5, 5),
                    PolicyPort(Protocol.TCP, 1, 65535),
                    PolicyPort(Protocol.UDP),
                ),
            ),
            PolicyRule(),
        ),
        egress=(PolicyRule(),),
        origin=Origin(f"{tmp_path}/a.yaml", 1),
    )


@pytest.mark.parametrize(
    ("spec", "directions"),
    [
        ("{}", {Direction.INGRESS}),
        ("{podSelector: null}", {Direction.INGRESS}),
        ("{ingress: [{}]}", {Direction.INGRESS}),
        ("{egress: []}", {Direction.INGRESS}),
        ("{egress: [{}]}", {Direction.INGRESS, Direction.EGRESS}),
        ("{policyTypes: [], egress: [{}]}", {Direction.INGRESS, Direction.EGRESS}),
        ("{policyTypes: [Egress]}", {Direction.EGRESS}),
        ("{policyTypes: [Egress], ingress: [{}]}", {Direction.EGRESS}),
        ("{policyTypes: [Ingress], egress: [{}]}", {Direction.INGRESS}),
        ("{policyTypes: [Ingress, Ingress]}", {Direction.INGRESS}),
    ],
)
def test_policy_types_have_kubernetes_defaults(
    load: Load, spec: str, directions: set[Direction]
) -> None:
    snapshot = load(f"""
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{name: p}}
spec: {spec}
""")
    policy = snapshot.policies["default/p"]
    assert policy.directions == directions
    assert policy.pod_selector == EVERYTHING


def test_aliases_stand_for_what_they_name(load: Load) -> None:
    snapshot = load("""
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: &name p, labels: {a: *name}}
spec:
  podSelector: &web {matchLabels: {app: web}}
  ingress: [{from: [{podSelector: *web}]}]
""")
    policy = snapshot.policies["default/p"]
    assert policy.ingress[0].peers[0].pod_selector == policy.pod_selector
    assert policy.pod_selector == LabelSelector({"app": "web"})


def test_audit_is_the_annotations_true(load: Load) -> None:
    snapshot = load("""
apiVersion: v1
kind: Namespace
metadata: {name: one, annotations: {sluice.dev/policy-audit: "true"}}
---
apiVersion: v1
kind: Namespace
metadata: {name: two, annotations: {sluice.dev/policy-audit: "false"}}
""")
    assert {name: space.audit for name, space in snapshot.namespaces.items()} == {
        "one": True,
        "two": False,
    }
