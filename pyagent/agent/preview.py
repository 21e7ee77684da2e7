"""What a directory of manifests would change on this node. `sluice plan` calls it.

It takes the same steps as the reconciler up to the writes, from the same pins and numbers, so it
refuses what the agent would refuse.
"""

from __future__ import annotations

from pyagent.agent.check import check_capacity, check_interfaces
from pyagent.compiler import NodeFacts, Numbers, compile_snapshot
from pyagent.compiler.rows import Compiled
from pyagent.config import AgentConfig
from pyagent.errors import KernelError
from pyagent.kernel import pins
from pyagent.kernel.netlink import Link, Netlink
from pyagent.kernel.tables import Tables
from pyagent.kernel.wiring import Wiring, obstacle
from pyagent.model import Snapshot
from pyagent.plan import Observed, Plan, Rows, Wired, desired_rows, overflow, plan
from pyagent.state import read_numbers


def preview(config: AgentConfig, snapshot: Snapshot) -> tuple[Plan, Compiled]:
    """The writes that would be made, and the compiled snapshot that names their numbers.

    A workload still to be wired stands with a negative interface number. InvalidState when the
    snapshot would be refused.
    """
    with Netlink() as netlink:
        links = {link.name: link for link in netlink.links()}
        wiring = Wiring(config.state_dir)
        check_interfaces(
            snapshot,
            links,
            lambda _key, workload: obstacle(netlink, wiring, workload.netns or ""),
        )
        facts = NodeFacts(netlink.addresses(), config.node_traffic)
        workloads = _wired_workloads(netlink, wiring, snapshot, links)
        proxies = _wired_proxies(wiring, links)
    stored = read_numbers(config.state_dir)
    numbers = Numbers.from_json(stored) if stored is not None else Numbers()
    compiled, _ = compile_snapshot(snapshot, numbers, facts)
    have, capacities = _rows_in_force(config)
    ready = frozenset(name for name, number in numbers.tenants.items() if _is_ready(have, number))
    observed = Observed(facts.addresses, workloads, proxies, ready)
    want = desired_rows(snapshot, compiled, observed)
    needed = overflow(have, want, capacities) if capacities else None
    if needed is not None:
        raise check_capacity(snapshot, compiled, needed, capacities[needed[0]])
    return plan(have, want), compiled


def _is_ready(have: Rows, number: int) -> bool:
    row = have.tenants.get(number)
    return row is not None and row.ready


def _rows_in_force(config: AgentConfig) -> tuple[Rows, dict[str, int]]:
    """The kernel's rows and the maps' capacities; nothing when no agent has run here."""
    try:
        with Tables(pins.pin_directory(config.state_dir)) as tables:
            return tables.read(), tables.capacities()
    except KernelError:
        return Rows(), {}


def _wired_workloads(
    netlink: Netlink, wiring: Wiring, snapshot: Snapshot, links: dict[str, Link]
) -> dict[str, Wired]:
    made = {wiring.owner(link): link for link in links.values()}
    wired = {}
    for at, (key, workload) in enumerate(snapshot.workloads.items()):
        link = links.get(workload.interface or "") or made.get(("workload", key))
        if link is None:
            wired[key] = Wired(-1 - at, "00:00:00:00:00:00", "00:00:00:00:00:00")
        else:
            wired[key] = Wired(link.index, netlink.peer_mac(link) or link.mac, link.mac)
    return wired


def _wired_proxies(wiring: Wiring, links: dict[str, Link]) -> dict[str, Wired]:
    wired = {}
    for link in links.values():
        kind, name = wiring.owner(link) or ("", "")
        if kind == "proxy":
            inner = "02" + link.mac[2:]  # both ends' MACs are derived from one digest
            wired[name] = Wired(link.index, inner, link.mac)
    return wired
