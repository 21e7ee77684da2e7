"""Checks between objects: what may be given once in a whole directory."""

from __future__ import annotations

from collections.abc import Callable

from pyagent.model import Snapshot

Load = Callable[..., Snapshot]
Refused = Callable[..., list[str]]


def workload(name: str, spec: str, namespace: str = "shop") -> str:
    return (
        f"{{apiVersion: sluice.dev/v1alpha1, kind: Workload,"
        f" metadata: {{name: {name}, namespace: {namespace}}}, spec: {{{spec}}}}}\n"
    )


def other(api_version: str, kind: str, metadata: str, rest: str = "") -> str:
    return f"{{apiVersion: {api_version}, kind: {kind}, metadata: {metadata}{rest}}}\n"


def test_the_same_object_twice(refused: Refused) -> None:
    spec = "interface: e, addresses: [10.0.0.1]"
    text = "---\n".join(
        [
            workload("w", spec),
            workload("w", spec),
            other("networking.k8s.io/v1", "NetworkPolicy", "{name: p}", ", spec: {}"),
            other("networking.k8s.io/v1", "NetworkPolicy", "{name: p}", ", spec: {}"),
            other("v1", "Namespace", "{name: n}"),
            other("v1", "Namespace", "{name: n}"),
            other("sluice.dev/v1alpha1", "Tenant", "{name: t}"),
            other("sluice.dev/v1alpha1", "Tenant", "{name: t}"),
        ]
    )
    assert refused(text) == [
        f"a.yaml: document {second}: metadata.name: {what} is given twice,"
        f" first in a.yaml: document {second - 1}"
        for second, what in (
            (2, "Workload shop/w"),
            (4, "NetworkPolicy default/p"),
            (6, "Namespace n"),
            (8, "Tenant t"),
        )
    ]


def test_equal_names_in_different_namespaces_or_kinds_are_different_objects(load: Load) -> None:
    text = "---\n".join(
        [
            workload("x", "interface: a, addresses: [10.0.0.1]", "one"),
            workload("x", "interface: b, addresses: [10.0.0.2]", "two"),
            other(
                "networking.k8s.io/v1", "NetworkPolicy", "{name: x, namespace: one}", ", spec: {}"
            ),
            other("v1", "Namespace", "{name: x}"),
            other("sluice.dev/v1alpha1", "Tenant", "{name: x}"),
        ]
    )
    snapshot = load(text)
    assert list(snapshot.workloads) == ["one/x", "two/x"]
    assert list(snapshot.policies) == ["one/x"]


def test_addresses_interfaces_and_netns_belong_to_one_workload(refused: Refused) -> None:
    first = "---\n".join(
        [
            workload("a", "interface: e, addresses: [10.0.0.1, 'fd00::1']"),
            workload("b", "netns: /n, addresses: [10.0.0.2]"),
        ]
    )
    second = "---\n".join(
        [
            workload("c", "interface: e, addresses: [10.0.0.3, 'FD00:0::1', 10.0.0.2]"),
            workload("d", "netns: /n, addresses: [10.0.0.4, 10.0.0.4]"),
        ]
    )
    in_a, in_b = "Workload shop/a in a.yaml: document 1", "Workload shop/b in a.yaml: document 2"
    assert refused(files={"a.yaml": first, "b.yaml": second}) == [
        f"b.yaml: document 1: spec.addresses[1]: fd00::1 is already used by {in_a}",
        f"b.yaml: document 1: spec.addresses[2]: 10.0.0.2 is already used by {in_b}",
        f"b.yaml: document 1: spec.interface: e is already used by {in_a}",
        "b.yaml: document 2: spec.addresses[1]: 10.0.0.4 is given twice",
        f"b.yaml: document 2: spec.netns: /n is already used by {in_b}",
    ]


def test_problems_between_objects_stand_among_the_others_in_file_order(refused: Refused) -> None:
    good = workload("a", "interface: a, addresses: [10.0.0.1]")
    clash = workload("b", "interface: b, addresses: [10.0.0.1]")
    lines = refused(
        files={"a.yaml": f"{good}---\n{clash}---\n- x\n", "b.yaml": "- y", "c.yaml": clash}
    )
    assert [line.split(": ")[:3:2] for line in lines] == [
        ["a.yaml", "spec.addresses[0]"],
        ["a.yaml", "must be a mapping with apiVersion and kind, not a list"],
        ["b.yaml", "must be a mapping with apiVersion and kind, not a list"],
        ["c.yaml", "metadata.name"],
    ]
