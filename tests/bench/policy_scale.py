"""How long one change takes at 10,000 workloads, 1,000 policies and 100,000 rows, up to the writes.

Run it from the root of the checkout: `python -m tests.bench.policy_scale [ONE_FILE]`; with an
argument all manifests are one file instead of one for each namespace. It prints a table of CPU
time, which is the wall's where nothing else runs.
"""

from __future__ import annotations

import gc
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

from pyagent.compiler import Compiler, NodeFacts, Numbers
from pyagent.config import NodeTraffic
from pyagent.manifests import DirectoryReader
from pyagent.plan import Observed, RowMaker, Rows, Wired, plan

NAMESPACES, WORKLOADS, POLICIES, APPS = 50, 10_000, 1_000, 20
ROUNDS = 15
NODE = NodeFacts(frozenset({IPv4Address("172.16.0.1")}), NodeTraffic.ALLOW)


def workload(number: int, app: str) -> str:
    address = IPv4Address("10.0.0.10") + number
    labels = f"{{app: {app}, tier: {'front' if number % 3 else 'back'}, pod: p{number}}}"
    return (
        "apiVersion: sluice.dev/v1alpha1\nkind: Workload\n"
        f"metadata: {{name: w{number}, namespace: n{number % NAMESPACES}, labels: {labels}}}\n"
        f"spec: {{interface: v{number}, addresses: [{address}]}}\n"
    )


def policy(number: int, port: int) -> str:
    app = number // NAMESPACES % APPS
    near = ", ".join(f"a{(app + step) % APPS}" for step in range(8))
    other = f"{{matchLabels: {{kubernetes.io/metadata.name: n{(number + 1) % NAMESPACES}}}}}"
    return f"""apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{name: p{number}, namespace: n{number % NAMESPACES}}}
spec:
  podSelector: {{matchLabels: {{app: a{app}}}}}
  policyTypes: [Ingress, Egress]
  ingress:
  - from: [{{podSelector: {{matchExpressions: [{{key: app, operator: In, values: [{near}]}}]}}}}]
    ports: [{{port: 80}}, {{port: {port}}}]
  - from: [{{namespaceSelector: {other}, podSelector: {{matchLabels: {{app: a{app}}}}}}}]
    ports: [{{port: 443}}]
  egress:
  - to: [{{podSelector: {{matchLabels: {{tier: back}}}}}}]
    ports: [{{port: 5432}}]
  - ports: [{{port: 53, protocol: UDP}}]
  - to: [{{ipBlock: {{cidr: 192.168.{number % 100}.0/24}}}}]
"""


class Manifests:
    """The directory, and changes to single documents in it."""

    def __init__(self, folder: Path, one_file: bool) -> None:
        self._folder, self._one_file = folder, one_file
        self._documents: dict[str, str] = {}
        for number in range(WORKLOADS):
            self.change_label(number, f"a{number // NAMESPACES % APPS}", write=False)
        for number in range(POLICIES):
            self.change_port(number, 8080, write=False)
        for number in range(NAMESPACES):
            self._write(number)

    def change_label(self, number: int, app: str, write: bool = True) -> None:
        """Give a workload another label."""
        self._documents[f"w{number}"] = workload(number, app)
        if write:
            self._write(number)

    def change_port(self, number: int, port: int, write: bool = True) -> None:
        """Give a policy's first rule another port."""
        self._documents[f"p{number}"] = policy(number, port)
        if write:
            self._write(number)

    def _write(self, number: int) -> None:
        space = number % NAMESPACES
        mine = self._documents.items()
        texts = [t for key, t in mine if self._one_file or int(key[1:]) % NAMESPACES == space]
        name = "all.yaml" if self._one_file else f"n{space}.yaml"
        (self._folder / name).write_text("---\n".join(texts))


@dataclass(slots=True)
class Node:
    """What the agent does with a snapshot, short of the writes."""

    reader: DirectoryReader
    compiler: Compiler
    maker: RowMaker
    numbers: Numbers
    have: Rows

    def step(self) -> tuple[list[float], int]:
        """Return ms of CPU for reading, compiling, rows, plan; how many rows to write."""
        times = [time.process_time()]
        snapshot = self.reader.read()
        times.append(time.process_time())
        compiled, self.numbers = self.compiler.compile(snapshot, self.numbers, NODE)
        times.append(time.process_time())
        want = self.maker.rows(snapshot, compiled, Observed(NODE.addresses, WIRED, {}))
        times.append(time.process_time())
        todo = plan(self.have, want)
        times.append(time.process_time())
        self.have = want
        parts = [1000 * (b - a) for a, b in itertools.pairwise(times)]
        return parts, todo.writes


WIRED = {
    f"n{n % NAMESPACES}/w{n}": Wired(10 + n, "02:00:00:00:00:01", "02:00:00:00:00:02")
    for n in range(WORKLOADS)
}


def resident() -> float:
    """Return this process's resident memory, MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024


def tell(case: str, rounds: list[list[float]], writes: int) -> None:
    columns = [statistics.median(column) for column in zip(*rounds, strict=True)]
    sums = [sum(parts) for parts in rounds]
    cells = "".join(f"{value:9.1f}" for value in columns)
    print(f"{case:24}{cells}{statistics.median(sums):9.1f}{max(sums):9.1f}{writes:8}")


def repeat(node: Node, case: str, change: Callable[[int], None]) -> None:
    rounds, writes = [], 0
    for number in range(ROUNDS):
        change(number)
        parts, writes = node.step()
        rounds.append(parts)
    tell(case, rounds, writes)


def main() -> None:
    """Print what each change costs."""
    with tempfile.TemporaryDirectory() as folder:
        manifests = Manifests(Path(folder), len(sys.argv) > 1)
        before = resident()
        node = Node(DirectoryReader(Path(folder)), Compiler(), RowMaker(), Numbers(), Rows())
        print(f"{'ms of CPU':24}     read  compile     rows     plan   median     most  writes")
        parts, writes = node.step()
        tell("cold", [parts], writes)
        gc.collect()
        gc.freeze()  # as the agent does
        repeat(node, "nothing", lambda _: None)
        repeat(node, "label, known set", lambda n: manifests.change_label(51, f"a{n % APPS}"))
        repeat(node, "label, new set", lambda n: manifests.change_label(51, f"new{n}"))
        repeat(node, "rule's port", lambda n: manifests.change_port(1, 9000 + n))
        print(f"policy rows {len(node.have.policy)}, {resident():.0f} MiB ({before:.0f} before)")


if __name__ == "__main__":
    main()
