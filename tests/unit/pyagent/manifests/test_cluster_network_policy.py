"""ClusterNetworkPolicy v1alpha2: good ones become what they say, bad ones one line each."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_network
from pathlib import Path

import pytest

from pyagent.model import (
    Action,
    ClusterNetworkPolicy,
    ClusterRule,
    IPBlock,
    LabelSelector,
    Origin,
    PolicyPeer,
    PolicyPort,
    Protocol,
    Snapshot,
    Tier,
)

Load = Callable[..., Snapshot]
Refused = Callable[..., list[str]]
HEAD = (
    "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\n"
    "metadata: {name: p}\n"
)
SPEC = "tier: Admin, priority: 5, subject: {namespaces: {}}"
FROM = "from: [{namespaces: {}}]"
TO = "to: [{namespaces: {}}]"


def test_whole(load: Load, tmp_path: Path) -> None:
    snapshot = load(f"""{HEAD}
spec:
  tier: Baseline
  priority: 1000
  subject:
    pods: {{namespaceSelector: {{matchLabels: {{team: red}}}}, podSelector: {{}}}}
  ingress:
  - name: "scrape\\nall"
    action: Accept
    from: [{{pods: {{podSelector: {{matchLabels: {{app: prom}}}}}}}}]
    protocols: [{{destinationNamedPort: metrics}}, {{tcp: {{destinationPort: {{number: 80}}}}}}]
  egress:
  - action: Pass
    to: [{{namespaces: {{}}}}]
  - action: Deny
    to: [{{networks: [10.0.0.0/8, "fd00::/8"]}}]
    protocols:
    - udp: {{destinationPort: {{range: {{start: 5, end: 9}}}}}}
    - sctp: {{destinationPort: {{number: 7}}}}
status: {{conditions: []}}
""")
    every = LabelSelector()
    assert snapshot.cluster_policies == {
        "p": ClusterNetworkPolicy(
            name="p",
            tier=Tier.BASELINE,
            priority=1000,
            namespace_selector=LabelSelector({"team": "red"}),
            pod_selector=every,
            ingress=(
                ClusterRule(
                    (PolicyPeer(LabelSelector({"app": "prom"}), every),),
                    (PolicyPort(Protocol.ANY, "metrics"), PolicyPort(Protocol.TCP, 80)),
                    Action.ACCEPT,
                    "scrape\\nall",
                ),
            ),
            egress=(
                ClusterRule((PolicyPeer(every, every),), (), Action.PASS),
                ClusterRule(
                    (
                        PolicyPeer(ip_block=IPBlock(ip_network("10.0.0.0/8"))),
                        PolicyPeer(ip_block=IPBlock(ip_network("fd00::/8"))),
                    ),
                    (PolicyPort(Protocol.UDP, 5, 9), PolicyPort(Protocol.SCTP, 7)),
                    Action.DENY,
                ),
            ),
            origin=Origin(f"{tmp_path}/a.yaml", 1),
        )
    }
    assert not snapshot.namespaces


def ingress(text: str) -> str:
    return f"{{{SPEC}, ingress: [{{action: Deny, {text}}}]}}"


def egress(text: str) -> str:
    return f"{{{SPEC}, egress: [{{action: Deny, {text}}}]}}"


NOT_YET = "valid, but not supported in this version; leave it out"
BAD = [
    ("{}", "spec.tier: is required"),
    (
        f"{{{SPEC.replace('Admin', 'admin')}}}",
        "spec.tier: must be 'Admin' or 'Baseline', not 'admin'",
    ),
    (f"{{{SPEC.replace('5', '1001')}}}", "spec.priority: must be from 0 to 1000, not 1001"),
    (
        f"{{{SPEC.replace('{namespaces: {}}', '{}')}}}",
        "spec.subject: must have exactly one of namespaces, pods",
    ),
    (
        f"{{{SPEC.replace('{namespaces: {}}', '{pods: {namespaceSelector: {}}}')}}}",
        "spec.subject.pods.podSelector: is required",
    ),
    (f"{{{SPEC}, ingress: [{{{FROM}}}]}}", "spec.ingress[0].action: is required"),
    (
        f"{{{SPEC}, ingress: [{{action: Allow, {FROM}}}]}}",
        "spec.ingress[0].action: must be 'Accept', 'Deny' or 'Pass', not 'Allow'",
    ),
    (
        ingress(f"{FROM}, ports: []"),
        "spec.ingress[0]: unknown field 'ports' (known: name, action, protocols, from)",
    ),
    (ingress("from: []"), "spec.ingress[0].from: must have 1 to 25 entries, not 0"),
    (
        ingress("from: [{networks: [10.0.0.0/8]}]"),
        "spec.ingress[0].from[0]: unknown field 'networks' (known: namespaces, pods)",
    ),
    (
        ingress(f"{FROM}, name: {'x' * 101}"),
        "spec.ingress[0].name: must have at most 100 characters, not 101",
    ),
    (
        ingress(f"{FROM}, protocols: []"),
        "spec.ingress[0].protocols: must have 1 to 25 entries, not 0",
    ),
    (
        ingress(f"{FROM}, protocols: [{{tcp: {{}}}}]"),
        "spec.ingress[0].protocols[0].tcp.destinationPort: is required",
    ),
    (
        ingress(f"{FROM}, protocols: [{{}}]"),
        "spec.ingress[0].protocols[0]: must have exactly one of tcp, udp, sctp,"
        " destinationNamedPort",
    ),
    (
        ingress(f"{FROM}, protocols: [{{tcp: {{destinationPort: {{}}}}}}]"),
        "spec.ingress[0].protocols[0].tcp.destinationPort: must have exactly one of number, range",
    ),
    (
        ingress(
            f"{FROM}, protocols: [{{tcp: {{destinationPort: {{range: {{start: 5, end: 5}}}}}}}}]"
        ),
        "spec.ingress[0].protocols[0].tcp.destinationPort.range.end: must be above 'start' (5),"
        " but is 5",
    ),
    (
        egress("to: [{namespaces: {}, networks: [10.0.0.0/8]}]"),
        "spec.egress[0].to[0]: must have exactly one of namespaces, pods, nodes, networks,"
        " domainNames",
    ),
    (egress("to: [{nodes: {}}]"), f"spec.egress[0].to[0].nodes: {NOT_YET}"),
    (egress("to: [{domainNames: [a.b]}]"), f"spec.egress[0].to[0].domainNames: {NOT_YET}"),
    (
        egress("to: [{networks: [10.0.0.0/8, 10.0.0.0/8]}]"),
        "spec.egress[0].to[0].networks[1]: 10.0.0.0/8 is given twice",
    ),
    (
        egress("to: [{networks: [10.0.0.0/8]}], protocols: [{destinationNamedPort: http}]"),
        "spec.egress[0].to[0].networks: no network has the named port 'http' of 'protocols'",
    ),
    (
        f"{{{SPEC}, ingress: [{', '.join([f'{{action: Pass, {FROM}}}'] * 26)}]}}",
        "spec.ingress: must have at most 25 rules, not 26",
    ),
]


@pytest.mark.parametrize(("spec", "line"), BAD)
def test_bad_input_is_told_in_one_line(refused: Refused, spec: str, line: str) -> None:
    assert refused(f"{HEAD}spec: {spec}")[0] == f"a.yaml: document 1: {line}"


def test_older_versions_and_namespaces_are_refused(refused: Refused) -> None:
    assert refused(HEAD.replace("v1alpha2", "v1alpha1") + f"spec: {{{SPEC}}}") == [
        "a.yaml: document 1: apiVersion: must be 'policy.networking.k8s.io/v1alpha2' for"
        " ClusterNetworkPolicy, not 'policy.networking.k8s.io/v1alpha1'"
    ]
    assert refused(HEAD.replace("name: p", "name: p, namespace: a") + f"spec: {{{SPEC}}}") == [
        "a.yaml: document 1: metadata.namespace: a ClusterNetworkPolicy is not in a namespace;"
        " leave it out"
    ]


def test_two_of_one_name_are_refused(refused: Refused) -> None:
    text = f"{HEAD}spec: {{{SPEC}}}\n"
    assert refused(f"{text}---\n{text}")[0].startswith(
        "a.yaml: document 2: metadata.name: ClusterNetworkPolicy p is given twice"
    )
