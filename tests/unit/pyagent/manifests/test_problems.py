"""Every defect is told in one exact line."""

from __future__ import annotations

from collections.abc import Callable

import pytest

Refused = Callable[..., list[str]]

WORKLOAD = "apiVersion: sluice.dev/v1alpha1\nkind: Workload\n"
POLICY = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p}\n"
TENANT = "apiVersion: sluice.dev/v1alpha1\nkind: Tenant\nmetadata: {name: t}\n"
NAMESPACE = "apiVersion: v1\nkind: Namespace\n"

LABEL_KEY = (
    "must be at most 63 letters, digits, '-', '_' and '.', beginning and ending with a letter or"
    " digit (a DNS prefix and '/' may stand before)"
)
LABEL_VALUE = (
    "must be empty or at most 63 letters, digits, '-', '_' and '.', beginning and ending with a"
    " letter or digit"
)
DNS_LABEL = (
    "must be at most 63 lowercase letters, digits and '-', beginning and ending with a letter or"
    " digit"
)
DNS_SUBDOMAIN = (
    "must be at most 253 lowercase letters, digits, '-' and '.', each part beginning and ending"
    " with a letter or digit"
)
PORT_NAME = "must be at most 15 lowercase letters, digits and single '-', with at least one letter"
INTERFACE = "must be an interface name of 1 to 15 characters without spaces, '/' and ':'"
PATH = "must be an absolute path without '.', '..', '//' and a '/' at its end"
CIDR = "must be a CIDR block such as 10.0.0.0/8 or fd00::/8"
UNICAST = "must be a unicast address of the workload"

# (document, what follows "a.yaml: document 1: ")
DOCUMENTS = [
    ("- a", "must be a mapping with apiVersion and kind, not a list"),
    ("5", "must be a mapping with apiVersion and kind, not the number 5"),
    ("kind: Workload", "apiVersion: is required"),
    ("apiVersion: v1", "kind: is required"),
    ("apiVersion: v1\nkind: [a]", "kind: must be text, not a list"),
    ("apiVersion: 1\nkind: a", "apiVersion: must be text, not the number 1"),
    (
        "apiVersion: v1\nkind: Pod",
        "kind: unknown kind 'Pod' (known: Namespace, NetworkPolicy, ClusterNetworkPolicy, Workload,"
        " Tenant)",
    ),
    (
        "apiVersion: v1\nkind: NetworkPolicy",
        "apiVersion: must be 'networking.k8s.io/v1' for NetworkPolicy, not 'v1'",
    ),
    ("apiVersion: v1\nkind: Service", "kind: Service is not supported in this version"),
    (
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute",
        "kind: HTTPRoute is not supported in this version",
    ),
    (
        "apiVersion: other.example/v1\nkind: Service",
        "kind: unknown kind 'Service' (known: Namespace, NetworkPolicy, ClusterNetworkPolicy,"
        " Workload, Tenant)",
    ),
    (
        "apiVersion: sluice.dev/v1alpha1\nkind: AgentConfig",
        "kind: AgentConfig belongs into a file of its own, not here",
    ),
    (NAMESPACE + "metadata: {name: a}\nSpec: {}", "unknown field 'Spec' (did you mean 'spec'?)"),
    (NAMESPACE + "metadata:", "metadata: must be a mapping, not null"),
    (NAMESPACE + "metadata: {labels: {a: b}}", "metadata.name: is required"),
    (
        NAMESPACE + "metadata: {name: 1}",
        "metadata.name: must be text, not the number 1 (put it in quotes)",
    ),
    (
        NAMESPACE + "metadata: {name: no}",
        "metadata.name: must be text, not false (put it in quotes)",
    ),
    (NAMESPACE + "metadata: {name: A}", f"metadata.name: {DNS_LABEL}, not 'A'"),
    (NAMESPACE + "metadata: {name: a.b}", f"metadata.name: {DNS_LABEL}, not 'a.b'"),
    (NAMESPACE + "metadata: {name: 'a\n\n'}", f"metadata.name: {DNS_LABEL}, not 'a\\n'"),
    (
        NAMESPACE + f"metadata: {{name: {'a' * 64}}}",
        f"metadata.name: {DNS_LABEL}, not '{'a' * 59}…'",
    ),
    (
        NAMESPACE + "metadata: {name: a, namespace: a}",
        "metadata.namespace: a Namespace is not in a namespace; leave it out",
    ),
    (
        NAMESPACE + "metadata: {name: a, labels: {kubernetes.io/metadata.name: b}}",
        "metadata.labels[\"kubernetes.io/metadata.name\"]: must be 'a', the namespace's name,"
        " or be left out",
    ),
    (
        NAMESPACE + "metadata: {name: a}\nspec: {x: 1}",
        "spec: unknown field 'x' (known: finalizers)",
    ),
    (
        NAMESPACE + "metadata: {name: a, labels: [b]}",
        "metadata.labels: must be a mapping, not a list",
    ),
    (
        NAMESPACE + "metadata: {name: a, labels: {b c: d}}",
        f"metadata.labels: the key 'b c' {LABEL_KEY}",
    ),
    (
        NAMESPACE + "metadata: {name: a, labels: {b/: d}}",
        f"metadata.labels: the key 'b/' {LABEL_KEY}",
    ),
    (
        NAMESPACE + "metadata: {name: a, labels: {B/c: d}}",
        "metadata.labels: the key 'B/c' must have a lowercase DNS name before the '/'",
    ),
    (
        NAMESPACE + "metadata: {name: a, labels: {/c: d}}",
        "metadata.labels: the key '/c' must have a lowercase DNS name before the '/'",
    ),
    (
        NAMESPACE + "metadata: {name: a, labels: {b: -c}}",
        f"metadata.labels.b: {LABEL_VALUE}, not '-c'",
    ),
    (
        NAMESPACE + "metadata: {name: a, labels: {b: 1.10}}",
        "metadata.labels.b: must be text, not the number 1.1 (put it in quotes)",
    ),
    (NAMESPACE + "metadata: {name: a, labels: {b: }}", "metadata.labels.b: must be text, not null"),
    (
        NAMESPACE + "metadata: {name: a, annotations: {sluice.dev/policy-audit: 'yes'}}",
        "metadata.annotations[\"sluice.dev/policy-audit\"]: must be 'true' or 'false', not 'yes'",
    ),
    (
        TENANT.replace("name: t", "name: t, annotations: {sluice.dev/policy-audit: 'true'}"),
        'metadata.annotations["sluice.dev/policy-audit"]: is for a Namespace or a Workload only',
    ),
    (
        NAMESPACE + "metadata: {name: a, annotations: {sluice.dev/x: y}}",
        "metadata.annotations: unknown annotation 'sluice.dev/x'",
    ),
]

METADATA = [
    (
        "{name: w, uid: x}",
        "metadata: unknown field 'uid' (known: name, namespace, labels, annotations)",
    ),
    ("{name: a_b}", f"metadata.name: {DNS_SUBDOMAIN}, not 'a_b'"),
    ("{name: a..b}", f"metadata.name: {DNS_SUBDOMAIN}, not 'a..b'"),
    ("{name: w, namespace: a.b}", f"metadata.namespace: {DNS_LABEL}, not 'a.b'"),
]

WORKLOADS = [
    ("", "spec: must be a mapping, not null"),
    ("{interface: e}", "spec.addresses: is required"),
    ("{addresses: [10.0.0.1]}", "spec: one of 'interface' and 'netns' is required"),
    (
        "{interface: e, netns: /n, addresses: [10.0.0.1]}",
        "spec: give either 'interface' or 'netns', not both",
    ),
    ("{interface: e, addresses: []}", "spec.addresses: must have at least one address"),
    ("{interface: e, addresses: 10.0.0.1}", "spec.addresses: must be a list, not '10.0.0.1'"),
    (
        "{interface: e, addresses: [10.0.0.1], mtu: 1}",
        "spec: unknown field 'mtu' (known: interface, netns, addresses, ports)",
    ),
    (
        "{interface: e, addresses: [10.0.0.1, 10.0.0.2, 10.0.0.1]}",
        "spec.addresses[2]: 10.0.0.1 is given twice",
    ),
]

INTERFACES = [
    ("''", f"{INTERFACE}, not ''"),
    ("abcdefghijklmnop", f"{INTERFACE}, not 'abcdefghijklmnop'"),
    ("a b", f"{INTERFACE}, not 'a b'"),
    ("a/b", f"{INTERFACE}, not 'a/b'"),
    ("a:b", f"{INTERFACE}, not 'a:b'"),
    ("..", f"{INTERFACE}, not '..'"),
    ("ü", f"{INTERFACE}, not 'ü'"),
    ('"a\\tb"', f"{INTERFACE}, not 'a\\tb'"),
    ("lo", "must not be the loopback interface"),
    ("5", "must be text, not the number 5 (put it in quotes)"),
]

NETNS = [
    ("a", f"{PATH}, not 'a'"),
    ("''", f"{PATH}, not ''"),
    ("/a/../b", f"{PATH}, not '/a/../b'"),
    ("/a/", f"{PATH}, not '/a/'"),
    ("//a", f"{PATH}, not '//a'"),
    ('"/a\\0b"', f"{PATH}, not '/a\\x00b'"),
]

ADDRESSES = [
    ("10.1", "must be text, not the number 10.1 (put it in quotes)"),
    ("10.0.0", "must be an IPv4 or IPv6 address, not '10.0.0'"),
    ("10.0.0.01", "must be an IPv4 or IPv6 address, not '10.0.0.01'"),
    ("10.0.0.1/24", "must be an IPv4 or IPv6 address, not '10.0.0.1/24'"),
    ("'fd00::1%e'", "must be an address without a zone, not 'fd00::1%e'"),
    ("'::ffff:1.2.3.4'", "write the IPv4 address 1.2.3.4 as IPv4"),
    ("0.0.0.0", f"{UNICAST}, not the unspecified address (0.0.0.0)"),
    ("'::'", f"{UNICAST}, not the unspecified address (::)"),
    ("127.3.0.1", f"{UNICAST}, not a loopback address (127.3.0.1)"),
    ("'::1'", f"{UNICAST}, not a loopback address (::1)"),
    ("169.254.1.1", f"{UNICAST}, not a link-local address (169.254.1.1)"),
    ("'fe80::1'", f"{UNICAST}, not a link-local address (fe80::1)"),
    ("224.0.0.1", f"{UNICAST}, not a multicast address (224.0.0.1)"),
    ("'ff02::1'", f"{UNICAST}, not a multicast address (ff02::1)"),
    ("255.255.255.255", f"{UNICAST}, not the broadcast address (255.255.255.255)"),
]

WORKLOAD_PORTS = [
    ("[{port: 80}]", "[0].name: is required"),
    ("[{name: a}]", "[0].port: is required"),
    (
        "[{name: a, port: '80'}]",
        "[0].port: must be a whole number, not '80' (leave out the quotes)",
    ),
    ("[{name: a, port: 80.0}]", "[0].port: must be a whole number, not the number 80.0"),
    ("[{name: a, port: yes}]", "[0].port: must be a whole number, not true"),
    ("[{name: a, port: 0}]", "[0].port: must be from 1 to 65535, not 0"),
    ("[{name: a, port: 65536}]", "[0].port: must be from 1 to 65535, not 65536"),
    ("[{name: A, port: 1}]", f"[0].name: {PORT_NAME}, not 'A'"),
    ("[{name: a--b, port: 1}]", f"[0].name: {PORT_NAME}, not 'a--b'"),
    (
        "[{name: a, port: 1, protocol: tcp}]",
        "[0].protocol: must be 'TCP', 'UDP' or 'SCTP', not 'tcp'",
    ),
    ("[{name: a, port: 1}, {name: a, port: 2}]", "[1].name: the name 'a' is given twice"),
]

TENANTS = [
    ("{placement: node}", "spec.placement: 'node' is not supported yet; use 'tenant'"),
    ("{placement: workload}", "spec.placement: 'workload' is not supported yet; use 'tenant'"),
    (
        "{placement: pod}",
        "spec.placement: must be 'tenant', 'workload' or 'node', not 'pod'",
    ),
    ("{failureMode: off}", "spec.failureMode: must be 'closed' or 'open', not false"),
    ("{resources: {}}", "spec.resources: valid, but not supported in this version; leave it out"),
    ("{detect: {}}", "spec.detect: valid, but not supported in this version; leave it out"),
    ("{tls: []}", "spec.tls: valid, but not supported in this version; leave it out"),
    ("{http: {port: 80}}", "spec.http: must be a list, not a mapping"),
    ("{http: [80]}", "spec.http[0]: must be a mapping, not the number 80"),
    ("{http: [{port: 80}, {port: 80}]}", "spec.http[1].port: the port 80 is given twice"),
    ("{https: []}", "spec: unknown field 'https' (did you mean 'http'?)"),
]

POLICIES = [
    ("", "spec: must be a mapping, not null"),
    ("{podselector: {}}", "spec: unknown field 'podselector' (did you mean 'podSelector'?)"),
    ("{podSelector: []}", "spec.podSelector: must be a mapping, not a list"),
    (
        "{policyTypes: [ingress]}",
        "spec.policyTypes[0]: must be 'Ingress' or 'Egress', not 'ingress'",
    ),
    (
        "{policyTypes: [Ingress, Egress, Egress]}",
        "spec.policyTypes: must have at most two entries, 'Ingress' and 'Egress'",
    ),
    ("{ingress: [null]}", "spec.ingress[0]: must be a mapping, not null"),
    ("{ingress: [{to: []}]}", "spec.ingress[0]: unknown field 'to' (known: from, ports)"),
    ("{egress: [{from: []}]}", "spec.egress[0]: unknown field 'from' (known: to, ports)"),
]

REQUIREMENTS = [
    ("{operator: Exists}", ".key: is required"),
    ("{key: a}", ".operator: is required"),
    (
        "{key: a, operator: Foo}",
        ".operator: must be 'In', 'NotIn', 'Exists' or 'DoesNotExist', not 'Foo'",
    ),
    ("{key: a b, operator: Exists}", f".key: the key 'a b' {LABEL_KEY}"),
    ("{key: a, operator: In}", ".values: the operator In needs at least one value"),
    (
        "{key: a, operator: NotIn, values: []}",
        ".values: the operator NotIn needs at least one value",
    ),
    ("{key: a, operator: In, values: [b, -c]}", f".values[1]: {LABEL_VALUE}, not '-c'"),
    ("{key: a, operator: Exists, values: [b]}", ".values: the operator Exists takes no values"),
    (
        "{key: a, operator: DoesNotExist, values: [b]}",
        ".values: the operator DoesNotExist takes no values",
    ),
    (
        "{key: a, operator: Exists, value: b}",
        ": unknown field 'value' (did you mean 'values'?)",
    ),
]

PEERS = [
    ("{}", ": must have a podSelector, a namespaceSelector or an ipBlock"),
    ("{podSelector: null}", ": must have a podSelector, a namespaceSelector or an ipBlock"),
    (
        "{podSelector: {}, ipBlock: {cidr: 10.0.0.0/8}}",
        ": ipBlock cannot stand beside a selector; make them two peers",
    ),
    ("{ipBlock: {}}", ".ipBlock.cidr: is required"),
    ("{ipBlock: {cidr: 10.0.0.0}}", f".ipBlock.cidr: {CIDR}, not '10.0.0.0'"),
    ("{ipBlock: {cidr: 10.0.0.0/33}}", f".ipBlock.cidr: {CIDR}, not '10.0.0.0/33'"),
    ("{ipBlock: {cidr: 10.0.0.0/255.0.0.0}}", f".ipBlock.cidr: {CIDR}, not '10.0.0.0/255.0.0.0'"),
    ("{ipBlock: {cidr: 'fe80::%e/64'}}", f".ipBlock.cidr: {CIDR}, not 'fe80::%e/64'"),
    (
        "{ipBlock: {cidr: '::ffff:10.0.0.0/104'}}",
        ".ipBlock.cidr: write the IPv4 block '::ffff:10.0.0.0/104' as IPv4",
    ),
    (
        "{ipBlock: {cidr: 10.0.0.0/8, except: [11.0.0.0/24]}}",
        ".ipBlock.except[0]: 11.0.0.0/24 must be a smaller block inside 10.0.0.0/8",
    ),
    (
        "{ipBlock: {cidr: 10.0.0.0/8, except: [10.0.0.0/9, 10.0.0.0/8]}}",
        ".ipBlock.except[1]: 10.0.0.0/8 must be a smaller block inside 10.0.0.0/8",
    ),
    (
        "{ipBlock: {cidr: 10.0.0.0/8, except: ['fd00::/9']}}",
        ".ipBlock.except[0]: fd00::/9 must be a smaller block inside 10.0.0.0/8",
    ),
    ("{ipBlock: {cidr: 10.0.0.0/8, except: [x]}}", f".ipBlock.except[0]: {CIDR}, not 'x'"),
]

POLICY_PORTS = [
    ("{port: '80'}", ".port: must be a number or a port's name, not '80' (leave out the quotes)"),
    ("{port: 0}", ".port: must be from 1 to 65535, not 0"),
    ("{port: 1.5}", ".port: must be a number or a port's name, not the number 1.5"),
    ("{port: yes}", ".port: must be a number or a port's name, not true"),
    ("{port: a_b}", f".port: {PORT_NAME}, not 'a_b'"),
    ("{port: sixteen-letters-x}", f".port: {PORT_NAME}, not 'sixteen-letters-x'"),
    ("{port: 80, endPort: 79}", ".endPort: must not be below 'port' (80), but is 79"),
    ("{port: 80, endPort: 65536}", ".endPort: must be from 1 to 65535, not 65536"),
    ("{port: http, endPort: 80}", ".endPort: needs a number as 'port', not the name 'http'"),
    ("{endPort: 80}", ".endPort: needs 'port', the first port of the range"),
    ("{protocol: ICMP}", ".protocol: must be 'TCP', 'UDP' or 'SCTP', not 'ICMP'"),
]

GOOD = "metadata: {name: w}\nspec: "
BAD_INPUT = [
    *DOCUMENTS,
    *((f"{WORKLOAD}metadata: {text}\nspec: {{interface: e, addresses: [10.0.0.1]}}", line)
      for text, line in METADATA),
    *((f"{WORKLOAD}{GOOD}{text}", line) for text, line in WORKLOADS),
    *((f"{WORKLOAD}{GOOD}{{interface: {text}, addresses: [10.0.0.1]}}", f"spec.interface: {line}")
      for text, line in INTERFACES),
    *((f"{WORKLOAD}{GOOD}{{netns: {text}, addresses: [10.0.0.1]}}", f"spec.netns: {line}")
      for text, line in NETNS),
    *((f"{WORKLOAD}{GOOD}{{interface: e, addresses: [{text}]}}", f"spec.addresses[0]: {line}")
      for text, line in ADDRESSES),
    *((f"{WORKLOAD}{GOOD}{{interface: e, addresses: [10.0.0.1], ports: {text}}}",
       f"spec.ports{line}") for text, line in WORKLOAD_PORTS),
    *((f"{TENANT}spec: {text}", line) for text, line in TENANTS),
    (TENANT.replace("name: t", "name: t, namespace: t"),
     "metadata.namespace: a Tenant is not in a namespace: metadata.name is the namespace"),
    *((f"{POLICY}spec: {text}", line) for text, line in POLICIES),
    *((f"{POLICY}spec: {{podSelector: {{matchExpressions: [{text}]}}}}",
       f"spec.podSelector.matchExpressions[0]{line}") for text, line in REQUIREMENTS),
    *((f"{POLICY}spec: {{ingress: [{{}}, {{from: [{text}]}}]}}", f"spec.ingress[1].from[0]{line}")
      for text, line in PEERS),
    *((f"{POLICY}spec: {{egress: [{{ports: [{{}}, {text}]}}]}}", f"spec.egress[0].ports[1]{line}")
      for text, line in POLICY_PORTS),
]  # fmt: skip


@pytest.mark.parametrize(("text", "line"), BAD_INPUT)
def test_bad_input_is_told_in_one_line(refused: Refused, text: str, line: str) -> None:
    assert refused(text) == [f"a.yaml: document 1: {line}"]


def test_all_defects_of_all_files_are_told_in_order(refused: Refused) -> None:
    bad = f"{WORKLOAD}metadata: {{name: W}}\nspec: {{interface: e, addresses: [x, y]}}\n"
    assert refused(files={"b.yaml": f"---\n---\n- a\n---\n{bad}", "a.yml": "a: ["}) == [
        "a.yml: document 1: line 2, column 1: not valid YAML: did not find expected node content"
        " while parsing a flow node",
        "b.yaml: document 2: must be a mapping with apiVersion and kind, not a list",
        f"b.yaml: document 3: metadata.name: {DNS_SUBDOMAIN}, not 'W'",
        "b.yaml: document 3: spec.addresses[0]: must be an IPv4 or IPv6 address, not 'x'",
        "b.yaml: document 3: spec.addresses[1]: must be an IPv4 or IPv6 address, not 'y'",
    ]


def test_several_defects_of_one_peer_are_all_told(refused: Refused) -> None:
    peer = "{ipBlock: {cidr: 10.0.0.0/8, except: [x, 10.1.0.0/16, 11.0.0.0/8]}, podSelector: 5}"
    at = "a.yaml: document 1: spec.ingress[0].from[0]"
    assert refused(f"{POLICY}spec: {{ingress: [{{from: [{peer}]}}]}}") == [
        f"{at}.podSelector: must be a mapping, not the number 5",
        f"{at}.ipBlock.except[0]: {CIDR}, not 'x'",
        f"{at}.ipBlock.except[2]: 11.0.0.0/8 must be a smaller block inside 10.0.0.0/8",
    ]


def test_a_wrong_selector_beside_an_ip_block_is_told_with_the_combination(
    refused: Refused,
) -> None:
    at = "a.yaml: document 1: spec.ingress[0].from[0]"
    peer = "{ipBlock: {cidr: 10.0.0.0/8}, podSelector: 5}"
    assert refused(f"{POLICY}spec: {{ingress: [{{from: [{peer}]}}]}}") == [
        f"{at}.podSelector: must be a mapping, not the number 5",
        f"{at}: ipBlock cannot stand beside a selector; make them two peers",
    ]
