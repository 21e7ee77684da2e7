"""Wiring: the veth pairs, addresses and routes of workloads and proxies.

Called by the agent. What Sluice makes is recognised by the alias of its node-side end, so that a
restarted agent, or `sluice cleanup`, finds it again without a record of its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from pathlib import Path

from pyagent.errors import KernelError
from pyagent.kernel import bpf
from pyagent.kernel.netlink import (
    Hook,
    Link,
    Netlink,
    VethPeer,
    create_namespace,
    delete_namespace,
    namespace_path,
    network_of,
)
from pyagent.model import Address
from pyagent.plan import Wired

_INSIDE = "eth0"
_TABLE = 100  # of the proxy's namespace: everything is local
_GATEWAYS = (ip_address("169.254.1.1"), ip_address("fe80::1"))
_EVERYTHING = {4: ip_network("0.0.0.0/0"), 6: ip_network("::/0")}


@dataclass(frozen=True, slots=True)
class Wiring:
    """Names of everything that belongs to one agent, which its state directory identifies."""

    state_dir: Path

    @property
    def _tag(self) -> str:
        return hashlib.sha256(str(self.state_dir.resolve()).encode()).hexdigest()[:8]

    def workload_alias(self, key: str) -> str:
        """Alias of the node-side end of workload `namespace/name`."""
        return f"sluice {self._tag} workload {key}"

    def proxy_alias(self, tenant: str) -> str:
        """Alias of the node-side end of a tenant's proxy."""
        return f"sluice {self._tag} proxy {tenant}"

    def proxy_namespace(self, tenant: str) -> str:
        """Name of the network namespace of a tenant's proxy."""
        return f"sluice-{self._tag}-{tenant}"

    def owner(self, link: Link) -> tuple[str, str] | None:
        """("workload", "ns/name") or ("proxy", tenant) of an interface that this agent made."""
        if not link.alias.startswith(f"sluice {self._tag} "):
            return None
        _, _, kind, name = link.alias.split(" ", 3)
        return kind, name


def _digest(alias: str) -> str:
    return hashlib.sha256(alias.encode()).hexdigest()[:8]


def _macs(digest: str) -> tuple[str, str]:
    """MACs of the inner and the node-side end, locally administered."""
    tail = ":".join(digest[at : at + 2] for at in range(0, 8, 2))
    return f"02:51:{tail}", f"06:51:{tail}"


def _conf(family: str, interface: str, name: str, value: str) -> None:
    """One sysctl of an interface in the agent's own namespace; absent where IPv6 is off."""
    with suppress(FileNotFoundError):
        Path(f"/proc/sys/net/{family}/conf/{interface}/{name}").write_text(value)


def _make_pair(netlink: Netlink, name: str, alias: str, netns: str, digest: str) -> Link:
    mac, node_mac = _macs(digest)
    link = netlink.add_veth(name, node_mac, alias, VethPeer(_INSIDE, mac, netns))
    _conf("ipv4", name, "forwarding", "1")
    _conf("ipv4", name, "rp_filter", "2")
    return link


def _configure_inside(
    path: str, node_mac: str, addresses: tuple[Address, ...]
) -> frozenset[Address]:
    """Inside the namespace: the interface up, addresses, and default routes through the node.

    Returns the addresses that were there and are no longer wanted, taken away.
    """
    with Netlink(path) as inside:
        link = inside.link(_INSIDE)
        if link is None:
            raise KernelError(f"{path}: its {_INSIDE} is gone")
        loopback = inside.link("lo")
        if loopback is not None:
            inside.set_up(loopback.index)
        inside.set_up(link.index)
        stale = inside.addresses(link.index) - set(addresses)
        for address in stale:
            inside.delete_address(link.index, address)
        for address in addresses:
            inside.add_address(link.index, address)
        for gateway in _GATEWAYS:
            if not addresses or any(a.version == gateway.version for a in addresses):
                inside.add_neighbour(link.index, gateway, node_mac)
                inside.add_route(_EVERYTHING[gateway.version], link.index, gateway)
    return stale


def _pair_for(netlink: Netlink, alias: str, netns: str) -> Link:
    """The workload's pair: the one made before if it leads to this namespace, else a new one."""
    digest = _digest(alias)
    name = f"slw{digest}"
    mac, _ = _macs(digest)
    with Netlink(netns) as inside:
        end = inside.link(_INSIDE)
    link = netlink.link(name)
    if link is not None and end is not None and end.mac == mac:
        return link
    if end is not None:
        raise KernelError(f"{netns}: has an {_INSIDE} already: give the workload's interface")
    if link is not None:
        netlink.delete_link(link.index)
    return _make_pair(netlink, name, alias, netns, digest)


def wire_workload(
    netlink: Netlink,
    wiring: Wiring,
    key: str,
    netns: str,
    addresses: tuple[Address, ...],
    programs: Mapping[Hook, tuple[int, str]],
) -> Wired:
    """Wires a workload's namespace, programs attached before it can send; again is the same.

    `programs` gives a program's descriptor and name for each hook.
    """
    alias = wiring.workload_alias(key)
    link = _pair_for(netlink, alias, netns)
    mac, node_mac = _macs(_digest(alias))
    attach(netlink, link.index, programs)
    netlink.set_up(link.index)
    for address in _configure_inside(netns, node_mac, addresses):
        netlink.delete_route(network_of(address), link.index)
    for address in addresses:
        netlink.add_neighbour(link.index, address, mac)
        netlink.add_route(network_of(address), link.index)
    return Wired(link.index, mac, node_mac)


def attach(netlink: Netlink, index: int, programs: Mapping[Hook, tuple[int, str]]) -> None:
    """Attaches programs to an interface where others, or none, are attached."""
    there = netlink.attached(index)
    for hook, (program, name) in programs.items():
        if there.get(hook) != bpf.program_id(program):
            netlink.attach(index, hook, program, name)


def wire_proxy(
    netlink: Netlink, wiring: Wiring, tenant: str, from_proxy: int, to_proxy: int
) -> Wired:
    """Makes and wires the namespace of a tenant's proxy; again is the same."""
    alias = wiring.proxy_alias(tenant)
    digest = _digest(alias)
    name = f"slp{digest}"
    namespace = wiring.proxy_namespace(tenant)
    path = str(namespace_path(namespace))
    mac, node_mac = _macs(digest)
    create_namespace(namespace)
    link = netlink.link(name)
    if link is None:
        link = _make_pair(netlink, name, alias, path, digest)
    attach(netlink, link.index, {Hook.INGRESS: (from_proxy, "from_proxy")})
    with Netlink(path) as inside:
        end, loopback = inside.link(_INSIDE), inside.link("lo")
        if end is None or loopback is None:
            raise KernelError(f"{path}: its {_INSIDE} is gone")
        attach(inside, end.index, {Hook.INGRESS: (to_proxy, "to_proxy")})
        inside.set_up(loopback.index)
        inside.deliver_all_locally(_INSIDE, loopback.index, _TABLE)
    netlink.set_up(link.index)
    _configure_inside(path, node_mac, ())
    return Wired(link.index, mac, node_mac)


def unwire_proxy(netlink: Netlink, wiring: Wiring, tenant: str) -> None:
    """Takes a proxy's interface and namespace away."""
    link = netlink.link(f"slp{_digest(wiring.proxy_alias(tenant))}")
    if link is not None:
        netlink.delete_link(link.index)
    delete_namespace(wiring.proxy_namespace(tenant))
