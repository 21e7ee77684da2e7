"""What the tests of this folder share: the kernel runs one program on one packet.

`World` is one test's view of the node: it fills rows, sends packets, and tells what became of
each. Everything is empty again afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from typing import Any

from scapy.layers.l2 import Ether
from scapy.packet import Packet

from pyagent.compiler.rows import ANY_PEER, IDENTITY_NODE, IDENTITY_WORLD, Verdict
from pyagent.kernel import abi
from pyagent.model import Direction, Protocol
from tests.prog.node import Interface, Node, context

ABI = abi.load()
REASONS = {choice.name: choice.number for choice in ABI.lists["DROP_REASONS"]}
STATES = {choice.name: choice.number for choice in ABI.lists["FLOW_STATES"]}
STATS = {choice.name: choice.number for choice in ABI.lists["STATS"]}
TYPES = {choice.name: choice.number for choice in ABI.lists["EVENT_TYPES"]}

OK, SHOT, REDIRECT = 0, 2, 7  # TC_ACT_*
INGRESS, EGRESS = Direction.INGRESS, Direction.EGRESS
CLIENT_LEG = 1

ROWS = ("workloads", "local_addrs", "identities", "policy", "conntrack", "fragments", "tenants")
PROXY_ROWS = ("proxies", "proxy_clients")


@dataclass(frozen=True, slots=True)
class Workload:
    """One workload: its interface, identity, tenant, MAC and addresses."""

    interface: Interface
    identity: int
    tenant: int
    mac: str
    v4: str
    v6: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one packet.

    `counted` maps (reason, direction, identity) to packets, `stats` and `events` are what came
    in addition.
    """

    action: int
    packet: bytes
    counted: Mapping[tuple[str, Direction, int], int]
    stats: Mapping[str, int]
    events: list[abi.Record] = field(default_factory=list)

    @property
    def reason(self) -> str:
        """The reason under which the packet was counted."""
        ((reason, _, _),) = self.counted
        return reason

    @property
    def passed(self) -> bool:
        """Whether it went on, by whichever way."""
        return self.reason == "NONE" and self.action in (OK, REDIRECT)

    @property
    def parsed(self) -> Packet:
        """The packet as the program left it."""
        return Ether(self.packet)

    def dropped(self, reason: str) -> bool:
        """Dropped for this very reason, with one event that says so."""
        (event,) = self.events
        return (
            self.action == SHOT
            and self.reason == reason
            and event["type"] == TYPES["DROP"]
            and event["reason"] == REASONS[reason]
        )


class World:
    """The node as one test fills it."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.tables = node.tables
        self.out = node.interfaces["out"]
        for prefix in ("0.0.0.0/0", "::/0"):
            self.identity(prefix, IDENTITY_WORLD)
        self.tables["settings"].put({"index": 0}, {"revision": 1})

    def clear(self) -> None:
        """Removes every row but the counters, which only ever grow."""
        self.forget(*ROWS, *PROXY_ROWS)
        while self.node.events.poll(0):
            pass

    def forget(self, *names: str) -> None:
        """Removes every row of some maps."""
        for name in names:
            table = self.tables[name]
            for key, _ in list(table.map.entries()):
                table.map.delete(key)

    # Rows

    def identity(self, prefix: str, number: int, node: bool = False) -> None:
        """A row of `identities`."""
        network = ip_network(prefix)
        bits = network.prefixlen + (96 if network.version == 4 else 0)
        key = {"prefixlen": bits, "address": network.network_address}
        self.tables["identities"].put(key, {"identity": number, "flags": int(node)})

    def workload(self, name: str, identity: int, tenant: int = 0) -> Workload:
        """The workload behind interface `name` (w1 to w4), 10.1.0.N and fd00:1::N."""
        interface, number = self.node.interfaces[name], int(name[1:])
        made = Workload(
            interface,
            identity,
            tenant,
            f"02:51:00:00:00:{number:02x}",
            f"10.1.0.{number}",
            f"fd00:1::{number}",
        )
        value = {"identity": identity, "tenant": tenant, "mac": made.mac, "node_mac": interface.mac}
        self.tables["workloads"].put({"ifindex": interface.index}, value)
        for address in (made.v4, made.v6):
            self.tables["local_addrs"].put(
                {"address": ip_address(address)}, {"ifindex": interface.index, **value}
            )
            self.identity(f"{address}/{128 if ':' in address else 32}", identity)
        return made

    def node_address(self, *addresses: str) -> None:
        """Addresses of the node itself."""
        for address in addresses:
            self.identity(f"{address}/{128 if ':' in address else 32}", IDENTITY_NODE, node=True)

    def rule(
        self,
        subject: Workload,
        direction: Direction,
        peer: int = ANY_PEER,
        protocol: int = Protocol.ANY,
        port: int | None = None,
        bits: int = 16,
        verdict: Verdict = Verdict.ALLOW,
        precedence: int = 1,
        number: int = 1,
    ) -> abi.Record:
        """A row of `policy`; returns its key."""
        key: abi.Record = {
            "prefixlen": 72 if protocol == 0 else 80 if port is None else 80 + bits,
            "subject": subject.identity,
            "peer": peer,
            "direction": int(direction),
            "protocol": int(protocol),
            "port": port or 0,
        }
        value = {"verdict": int(verdict), "precedence": precedence, "rule": number}
        self.tables["policy"].put(key, value)
        return key

    def open(self, *workloads: Workload) -> None:
        """No policy selects these: everything is allowed both ways."""
        for workload in workloads:
            self.rule(workload, INGRESS)
            self.rule(workload, EGRESS)

    def withdraw(self, key: abi.Record) -> None:
        """Removes a row of `policy` and moves the revision."""
        assert self.tables["policy"].delete(key)
        self.tables.move_revision()

    def proxy(self, name: str, tenant: int, ready: bool = True, fail_open: bool = False) -> int:
        """The tenant's proxy behind interface `name` (p1, p2); returns the ifindex."""
        index = self.node.interfaces[name].index
        mac = f"02:51:00:00:01:{name[1:]:0>2}"
        self.tables["proxies"].put({"ifindex": index}, {"tenant": tenant, "mac": mac})
        self.tables["tenants"].put(
            {"tenant": tenant},
            {"proxy": index, "ready": int(ready), "failure_mode": int(fail_open)},
        )
        return index

    # What there is

    def flows(self) -> list[abi.Record]:
        """Every flow, key and value in one record."""
        return [{**key, **value} for key, value in self.tables["conntrack"].records()]

    def clear_flows(self) -> None:
        """Forgets every flow."""
        for key, _ in list(self.tables["conntrack"].records()):
            self.tables["conntrack"].delete(key)

    def age_flows(self, seconds: float) -> None:
        """Makes every flow look as if its last packet was that much longer ago."""
        for key, value in list(self.tables["conntrack"].records()):
            value["seen"] = max(int(value["seen"]) - int(seconds * 1e9), 0)
            self.tables["conntrack"].put(key, value)

    def clients(self) -> list[tuple[int, str]]:
        """Whom proxies may speak for: (ifindex, address)."""
        return [
            (int(k["proxy"]), str(k["client"])) for k, _ in self.tables["proxy_clients"].records()
        ]

    # Packets

    def send(
        self,
        hook: str,
        packet: Packet | bytes,
        at: Workload | Interface,
        ingress: int = 0,
        gso_segs: int = 0,
    ) -> Outcome:
        """Runs program `hook` on the packet; exactly one count must come of it."""
        interface = at.interface if isinstance(at, Workload) else at
        raw = bytes(packet)
        before, stats = self.counted(), self.stats()
        with self.node.inside():
            result = self.node.run(hook, raw, context(interface.index, ingress, gso_segs))
        counted = {
            key: (value[0] - before.get(key, (0, 0))[0], value[1] - before.get(key, (0, 0))[1])
            for key, value in self.counted().items()
            if value != before.get(key)
        }
        if hook != "to_proxy":
            assert list(counted.values()) == [(1, len(raw))], counted
        return Outcome(
            result.retval,
            result.packet,
            {key: packets for key, (packets, _) in counted.items()},
            {name: n - stats[name] for name, n in self.stats().items() if n != stats[name]},
            [ABI.layouts["event"].unpack(event) for event in self.node.events.poll(0)],
        )

    def leave(self, packet: Packet | bytes, of: Workload, **more: Any) -> Outcome:
        """What the workload sends."""
        return self.send("from_workload", packet, of, **more)

    def arrive(self, packet: Packet | bytes, to: Workload, ingress: int | None = None) -> Outcome:
        """What comes to the workload from outside; `ingress` 0: from the node itself."""
        return self.send("to_workload", packet, to, self.out.index if ingress is None else ingress)

    def counted(self) -> dict[tuple[str, Direction, int], tuple[int, int]]:
        names = {number: name for name, number in REASONS.items()}
        return {
            (names[int(k["reason"])], Direction(k["direction"]), int(k["identity"])): (
                int(v["packets"]),
                int(v["bytes"]),
            )
            for k, v in self.tables["counters"].records()
        }

    def stats(self) -> dict[str, int]:
        values = {int(k["index"]): int(v["value"]) for k, v in self.tables["stats"].records()}
        return {name: values[number] for name, number in STATS.items()}
