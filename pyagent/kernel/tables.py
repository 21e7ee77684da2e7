"""The pinned maps as typed tables: rows of `plan` to bytes and back, and records for people.

Called by the agent, which writes, and by every command and the metrics, which read. Opening them
needs the pins and nothing else: no compiler, no running agent.
"""

from __future__ import annotations

import errno
import secrets
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from types import TracebackType
from typing import Any

from pyagent.compiler.rows import PolicyKey, PolicyValue, Verdict
from pyagent.errors import KernelError
from pyagent.kernel import abi, bpf
from pyagent.model import Direction, FailureMode, Network, Protocol
from pyagent.plan import (
    WRITE_ORDER,
    Change,
    IdentityRow,
    LocalRow,
    Plan,
    ProxyRow,
    Rows,
    TenantRow,
    WorkloadRow,
)

_ABI = abi.load()
_POLICY_ANY = _ABI.constants["POLICY_PREFIX_PEER"]
_POLICY_PORTS = _ABI.constants["POLICY_PREFIX_PROTOCOL"]


def _policy_key(key: PolicyKey) -> abi.Record:
    any_protocol = key.protocol is Protocol.ANY
    return {
        "prefixlen": _POLICY_ANY if any_protocol else _POLICY_PORTS + key.port_bits,
        "subject": key.subject,
        "peer": key.peer,
        "direction": key.direction,
        "protocol": key.protocol,
        "port": key.port,
    }


def _read_policy_key(record: abi.Record) -> PolicyKey:
    bits = max(int(record["prefixlen"]) - _POLICY_PORTS, 0)
    return PolicyKey(
        int(record["subject"]),
        int(record["peer"]),
        Direction(record["direction"]),
        Protocol(record["protocol"]),
        int(record["port"]),
        bits,
    )


def _prefix_key(network: Network) -> abi.Record:
    shift = 96 if network.version == 4 else 0
    return {"prefixlen": network.prefixlen + shift, "address": network.network_address}


def _read_prefix(record: abi.Record) -> Network:
    address, bits = record["address"], int(record["prefixlen"])
    if isinstance(ip_network(str(address)), IPv4Network) and bits >= 96:
        return IPv4Network((str(address), bits - 96))
    return IPv6Network((str(address), bits))


@dataclass(frozen=True, slots=True)
class _Codec:
    """How one map's rows stand in the kernel."""

    key: Callable[[Any], abi.Record]
    read_key: Callable[[abi.Record], Any]
    value: Callable[[Any], abi.Record]
    read_value: Callable[[abi.Record], Any]


_CODECS = {
    "workloads": _Codec(
        lambda index: {"ifindex": index},
        lambda r: r["ifindex"],
        WorkloadRow._asdict,
        lambda r: WorkloadRow(**r),
    ),
    "local_addrs": _Codec(
        lambda address: {"address": address},
        lambda r: r["address"],
        LocalRow._asdict,
        lambda r: LocalRow(**r),
    ),
    "identities": _Codec(
        _prefix_key,
        _read_prefix,
        lambda row: {"identity": row.identity, "flags": int(row.node)},
        lambda r: IdentityRow(int(r["identity"]), bool(r["flags"])),
    ),
    "policy": _Codec(
        _policy_key,
        _read_policy_key,
        PolicyValue._asdict,
        lambda r: PolicyValue(Verdict(r["verdict"]), int(r["precedence"]), int(r["rule"])),
    ),
    "tenants": _Codec(
        lambda number: {"tenant": number},
        lambda r: r["tenant"],
        lambda row: {
            "proxy": row.proxy,
            "ready": int(row.ready),
            "failure_mode": int(row.failure_mode is FailureMode.OPEN),
        },
        lambda r: TenantRow(
            int(r["proxy"]),
            bool(r["ready"]),
            FailureMode.OPEN if r["failure_mode"] else FailureMode.CLOSED,
        ),
    ),
    "proxies": _Codec(
        lambda index: {"ifindex": index},
        lambda r: r["ifindex"],
        ProxyRow._asdict,
        lambda r: ProxyRow(**r),
    ),
}


class Table:
    """One pinned map, read as records. A per-CPU map's record has the sums of its CPUs."""

    def __init__(self, pins: Path, layout: abi.MapLayout) -> None:
        self.layout = layout
        path = pins / layout.name
        try:
            self.map = bpf.Map(bpf.open_pin(path))
        except FileNotFoundError:
            raise KernelError(
                f"{path}: no such map: no agent has run with this state directory"
            ) from None
        except PermissionError:
            raise KernelError(f"{path}: permission denied: run as root") from None
        except OSError as error:
            raise KernelError(f"{path}: cannot be opened: {error.strerror}") from None
        sizes = (self.map.info.key_size, self.map.info.value_size)
        if sizes != (layout.key.size, layout.value.size):
            raise KernelError(f"{path}: its layout is another version's: {sizes} bytes")

    @property
    def capacity(self) -> int:
        """How many entries it can hold."""
        return self.map.info.max_entries

    def record(self, raw: bytes) -> abi.Record:
        """The record of one value as `map.entries` gives it."""
        if not self.map.per_cpu:
            return self.layout.value.unpack(raw)
        parts = [self.layout.value.unpack(part) for part in self.map.split(raw)]
        return {name: sum(int(part[name]) for part in parts) for name in parts[0]}

    def records(self) -> Iterator[tuple[abi.Record, abi.Record]]:
        """Keys and values of all entries."""
        for key, value in self.map.entries():
            yield self.layout.key.unpack(key), self.record(value)

    def get(self, key: Mapping[str, Any]) -> abi.Record | None:
        """The value at a key, or None."""
        raw = self.map.get(self.layout.key.pack(key))
        return None if raw is None else self.record(raw)

    def put(self, key: Mapping[str, Any], value: Mapping[str, Any]) -> None:
        """Writes one entry."""
        self.map.put(self.layout.key.pack(key), self.layout.value.pack(value))

    def delete(self, key: Mapping[str, Any]) -> bool:
        """Removes one entry; False when there was none."""
        return self.map.delete(self.layout.key.pack(key))


# How many operations on a map came out how: (map, "update" or "delete", outcome, count).
Tally = Callable[[str, str, str, int], None]


def _no_tally(_map: str, _operation: str, _outcome: str, _count: int) -> None:
    """For readers."""


class Tables:
    """All pinned maps of one agent; a context manager."""

    def __init__(self, pins: Path, tally: Tally = _no_tally) -> None:
        self._tally = tally
        self._tables: dict[str, Table] = {}
        try:
            for name, layout in _ABI.maps.items():
                self._tables[name] = Table(pins, layout)
        except KernelError:
            self.close()
            raise

    def __enter__(self) -> Tables:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the maps; the pins stay."""
        for table in self._tables.values():
            table.map.close()
        self._tables.clear()

    def __getitem__(self, name: str) -> Table:
        return self._tables[name]

    def capacities(self) -> dict[str, int]:
        """Capacity of each map, in entries."""
        return {name: table.capacity for name, table in self._tables.items()}

    def read(self) -> Rows:
        """All rows that an agent writes, as they are in the kernel now."""
        found: dict[str, dict[Any, Any]] = {}
        for name in WRITE_ORDER:
            codec = _CODECS[name]
            found[name] = {
                codec.read_key(key): codec.read_value(value) for key, value in self[name].records()
            }
        return Rows(**found)

    def apply(self, plan: Plan) -> None:
        """Carries a plan out, then moves the policy's revision if flows must be judged again.

        An agent killed between the two leaves `pending`, by which the next one knows.
        """
        if plan.new_revision:
            self._set_revision(self.revision, pending=True)
        for change in plan.changes:
            self._apply(change)
        if plan.new_revision:
            self.move_revision()

    def finish(self) -> None:
        """Moves the revision if an agent was killed before it did."""
        if self.settings["pending"]:
            self.move_revision()

    def allow_questions(self) -> None:
        """Gives the maps the secret that marks packets made for a question, if they have none."""
        if not self.settings["trace"]:
            self._set(trace=secrets.randbits(64) | 1)

    def _apply(self, change: Change) -> None:
        operation = "update" if change.put else "delete"
        try:
            self._put(change) if change.put else self._remove(change)
        except OSError as error:
            full = error.errno in (errno.E2BIG, errno.ENOSPC)
            self._tally(change.map, operation, "full" if full else "error", 1)
            why = f"full with {self[change.map].capacity} entries" if full else error.strerror
            raise KernelError(f"map {change.map}: {why}") from None
        self._tally(change.map, operation, "ok", len(change.put) or len(change.remove))

    def _put(self, change: Change) -> None:
        codec, table = _CODECS[change.map], self[change.map]
        key, value = table.layout.key.pack, table.layout.value.pack
        table.map.put_many(
            [(key(codec.key(k)), value(codec.value(v))) for k, v in change.put.items()]
        )

    def _remove(self, change: Change) -> None:
        codec, table = _CODECS[change.map], self[change.map]
        for gone in change.remove:
            table.map.delete(table.layout.key.pack(codec.key(gone)))

    @property
    def settings(self) -> abi.Record:
        """The one entry of `settings`."""
        settings = self["settings"].get({"index": 0})
        assert settings is not None  # an array's entries are always there
        return settings

    @property
    def revision(self) -> int:
        """The policy's revision: flows judged under another one are judged again."""
        return int(self.settings["revision"])

    def move_revision(self) -> None:
        """Makes every flow's verdict outdated."""
        self._set_revision((self.revision + 1) % 2**32, pending=False)

    def _set_revision(self, revision: int, pending: bool) -> None:
        self._set(revision=revision, pending=int(pending))

    def _set(self, **settings: int) -> None:
        """The agent is the only writer."""
        self["settings"].put({"index": 0}, {**self.settings, **settings})
