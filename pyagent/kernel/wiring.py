"""Wiring: the veth pairs, addresses and routes of workloads and proxies.

Called by the agent. What Sluice makes is recognised by the alias of its node-side end, so that a
restarted agent, or `sluice cleanup`, finds it again without a record of its own. An alias can be
set only after the interface was made; one that lacks it is known by its name.
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
from pyagent.kernel.namespaces import entered, namespace_id
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
from pyagent.model import Address, Network
from pyagent.plan import Wired

_INSIDE = "eth0"
_HAS_INTERFACE = f"has an {_INSIDE} already: give the workload's interface instead"
_PREFIX = "slc"
ALIAS = "sluice "
"""Begins the alias of every interface that any agent has made."""

_TABLE = 100  # of the proxy's namespace: everything is local
_GATEWAYS = (ip_address("169.254.1.1"), ip_address("fe80::1"))
# Of each proxy's node-side end. The kernel filters what comes in through an interface without any
# IPv4 address strictly, whatever rp_filter says; nobody can reach this one through a wire.
_FILTER_LOOSELY = ip_address("127.15.0.1")
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
        return f"{ALIAS}{self._tag} workload {key}"

    def proxy_alias(self, tenant: str) -> str:
        """Alias of the node-side end of a tenant's proxy."""
        return f"{ALIAS}{self._tag} proxy {tenant}"

    def proxy_namespace(self, tenant: str) -> str:
        """Name of the network namespace of a tenant's proxy."""
        return f"sluice-{self._tag}-{tenant}"

    def interface(self, alias: str) -> str:
        """Name of the node-side end with that alias: 15 characters, the most there can be."""
        return f"{_PREFIX}{self._tag[:4]}{_digest(alias)}"

    def owner(self, link: Link) -> tuple[str, str] | None:
        """("workload", "ns/name") or ("proxy", tenant) of an interface that this agent made,
        ("unfinished", "") of one whose making was interrupted."""
        if not link.alias and link.name.startswith(f"{_PREFIX}{self._tag[:4]}"):
            return "unfinished", ""
        before, _, rest = link.alias.partition(f"{ALIAS}{self._tag} ")
        kind, _, name = rest.partition(" ")
        return (kind, name) if name and not before else None


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


def _make_pair(netlink: Netlink, name: str, alias: str, netns: str) -> Link:
    mac, node_mac = _macs(_digest(alias))
    link = netlink.add_veth(name, node_mac, alias, VethPeer(_INSIDE, mac, netns))
    _conf("ipv4", name, "forwarding", "1")
    _conf("ipv4", name, "rp_filter", "2")
    return link


def _configure_inside(inside: Netlink, node_mac: str, addresses: tuple[Address, ...]) -> None:
    """Inside the namespace: the interface up, addresses, and default routes through the node."""
    link, loopback = inside.link(_INSIDE), inside.link("lo")
    if link is None or loopback is None:
        raise KernelError(f"{inside.where}: its {_INSIDE} is gone")
    inside.set_up(loopback.index)
    inside.set_up(link.index)
    for address in inside.addresses(link.index) - set(addresses):
        inside.delete_address(link.index, address)
    for address in addresses:
        inside.add_address(link.index, address)
    for gateway in _GATEWAYS:
        if not addresses or any(a.version == gateway.version for a in addresses):
            inside.add_neighbour(link.index, gateway, node_mac)
            inside.add_route(_EVERYTHING[gateway.version], link.index, gateway)


def _configure_outside(
    netlink: Netlink,
    index: int,
    mac: str,
    addresses: tuple[Address, ...],
    routes: frozenset[Network],
) -> None:
    """On the node: a route to each address, and none of `routes` to others."""
    for stale in routes - {network_of(address) for address in addresses}:
        netlink.delete_route(stale, index)
        netlink.delete_neighbour(index, stale.network_address)
    for address in addresses:
        netlink.add_neighbour(index, address, mac)
        netlink.add_route(network_of(address), index)


def _our_end(netlink: Netlink, wiring: Wiring, end: Link) -> Link | None:
    """The node-side end of a pair that this agent made, None of any other interface."""
    other = netlink.link_by_index(end.peer_index) if end.kind == "veth" else None
    if other is None or other.peer_index != end.index or wiring.owner(other) is None:
        return None
    return other


def obstacle(netlink: Netlink, wiring: Wiring, netns: str) -> str:
    """Why a workload's namespace cannot be wired; "" when it can, or has been."""
    if namespace_id(netns) is None:
        return f"there is no network namespace {netns}"
    if namespace_id(netns) == namespace_id("/proc/thread-self/ns/net"):
        return f"{netns} is the node's own network namespace"
    try:
        with Netlink(netns) as inside:
            end = inside.link(_INSIDE)
    except KernelError:
        return f"{netns} is not a network namespace"
    if end is not None and _our_end(netlink, wiring, end) is None:
        return f"{netns} {_HAS_INTERFACE}"
    return ""


def _pair_for(netlink: Netlink, wiring: Wiring, alias: str, inside: Netlink) -> Link:
    """The workload's pair: the one made before if it leads to this namespace, else a new one.

    A pair of ours that another workload had there gives way: a namespace is one workload's. It is
    removed from inside, since whoever rules there may have made one that claims any other end.
    """
    name = wiring.interface(alias)
    mac, _ = _macs(_digest(alias))
    end, link = inside.link(_INSIDE), netlink.link(name)
    if link is not None and end is not None and end.mac == mac:
        if link.alias != alias:
            netlink.set_alias(link.index, alias)
        return link
    if end is not None:
        if _our_end(netlink, wiring, end) is None:
            raise KernelError(f"{inside.where} {_HAS_INTERFACE}")
        inside.delete_link(end.index)
    if link is not None:
        netlink.delete_link(link.index)
    return _make_pair(netlink, name, alias, inside.where)


def wire_workload(
    netlink: Netlink,
    wiring: Wiring,
    key: str,
    netns: str,
    addresses: tuple[Address, ...],
    programs: Mapping[Hook, tuple[int, str]],
    routes: Mapping[int, frozenset[Network]],
) -> Wired:
    """Wires a workload's namespace, programs attached before it can send; again is the same.

    `programs` gives a program's descriptor and name for each hook; `routes` are those that there
    are (`Netlink.routes`).
    """
    alias = wiring.workload_alias(key)
    mac, node_mac = _macs(_digest(alias))
    with Netlink(netns) as inside:
        link = _pair_for(netlink, wiring, alias, inside)
        attach(netlink, link.index, programs)
        netlink.set_up(link.index)
        _configure_inside(inside, node_mac, addresses)
    there = routes.get(link.index, frozenset())
    _configure_outside(netlink, link.index, mac, addresses, there)
    return Wired(link.index, mac, node_mac)


def attach(netlink: Netlink, index: int, programs: Mapping[Hook, tuple[int, str]]) -> None:
    """Attaches programs to an interface where others, or none, are attached."""
    there = netlink.attached(index)
    for hook, (program, name) in programs.items():
        if there.get(hook) != bpf.program_id(program):
            netlink.attach(index, hook, program, name)


def _forget_closed(netns: str) -> None:
    """Lets no connection of the namespace stay in TIME-WAIT.

    There is no listener at the address that a client dialled, which is where the kernel looks for
    one when a SYN meets TIME-WAIT (RFC 9293, 3.6.1): the client's ports would not serve again for
    a minute. The servers' side is safe: timestamps tell old segments from new ones (RFC 7323).
    """
    try:
        with entered(netns):
            Path("/proc/sys/net/ipv4/tcp_max_tw_buckets").write_text("0")
    except OSError as error:
        raise KernelError(f"{netns}: TIME-WAIT cannot be turned off: {error.strerror}") from None


def wire_proxy(
    netlink: Netlink, wiring: Wiring, tenant: str, from_proxy: int, to_proxy: int
) -> Wired:
    """Makes and wires the namespace of a tenant's proxy; again is the same."""
    alias = wiring.proxy_alias(tenant)
    namespace = wiring.proxy_namespace(tenant)
    mac, node_mac = _macs(_digest(alias))
    create_namespace(namespace)
    _forget_closed(str(namespace_path(namespace)))
    with Netlink(str(namespace_path(namespace))) as inside:
        link = _pair_for(netlink, wiring, alias, inside)
        netlink.add_address(link.index, _FILTER_LOOSELY)
        attach(netlink, link.index, {Hook.INGRESS: (from_proxy, "from_proxy")})
        end, loopback = inside.link(_INSIDE), inside.link("lo")
        if end is None or loopback is None:
            raise KernelError(f"{inside.where}: its {_INSIDE} is gone")
        attach(inside, end.index, {Hook.INGRESS: (to_proxy, "to_proxy")})
        inside.set_up(loopback.index)
        inside.deliver_all_locally(_INSIDE, loopback.index, _TABLE)
        netlink.set_up(link.index)
        _configure_inside(inside, node_mac, ())
    return Wired(link.index, mac, node_mac)


def unwire_proxy(netlink: Netlink, wiring: Wiring, tenant: str) -> None:
    """Takes a proxy's interface and namespace away."""
    link = netlink.link(wiring.interface(wiring.proxy_alias(tenant)))
    if link is not None:
        netlink.delete_link(link.index)
    delete_namespace(wiring.proxy_namespace(tenant))
