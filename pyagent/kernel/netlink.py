"""Netlink, as far as the agent needs it: links, addresses, routes, rules, TC filters, namespaces.

Called by `wiring` and the agent. The only module that imports pyroute2. A `Netlink` speaks to one
network namespace: the agent's own, or the one at a path. Everything that adds is done when it is
there already; everything that removes, when it is gone.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from enum import Enum
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute, netns
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.rtnl.tcmsg import sched_bpf

from pyagent.errors import KernelError
from pyagent.kernel.namespaces import entered
from pyagent.model import Address, Network

ROUTE_PROTOCOL = 92  # marks our routes, as `ip route show proto 92` lists them
FILTER_PRIORITY = 1
FILTER_HANDLE = 0x51CE  # one of our own, so that nobody else's filter is replaced
FILTER_PREFIX = "sluice/"

_IFA_F_NODAD = 0x02
_NUD_PERMANENT = 0x80
_RTN_LOCAL = 2
_RT_TABLE_MAIN = 254
_SCOPE_LINK = 253
_SCOPE_HOST = 254
_RTNH_F_ONLINK = 4
_NAMESPACES = Path("/run/netns")

# Also what the kernel says of a filter where there is no clsact, and of an address or route.
_GONE = (errno.ENODEV, errno.ENOENT, errno.ENXIO, errno.EINVAL, errno.EADDRNOTAVAIL, errno.ESRCH)

# TCA_BPF_ID tells which program is attached; pyroute2's list ends three attributes before it.
sched_bpf.options.nla_map = (
    *sched_bpf.options.nla_map[:9],
    ("TCA_BPF_FLAGS_GEN", "uint32"),
    ("TCA_BPF_TAG", "hex"),
    ("TCA_BPF_ID", "uint32"),
)


class Hook(Enum):
    """The two ends of clsact, by the parent that TC knows them by."""

    INGRESS = 0xFFFFFFF2
    EGRESS = 0xFFFFFFF3


@dataclass(frozen=True, slots=True)
class Link:
    """One interface. `peer_namespace` is the kernel's id of the other end's namespace, None when
    that is this one; `peer_index` the other end's ifindex there."""

    index: int
    name: str
    mac: str
    kind: str
    alias: str
    up: bool
    peer_index: int
    peer_namespace: int | None


@dataclass(frozen=True, slots=True)
class VethPeer:
    """The other end of a veth pair to be made: its name, MAC and namespace's path."""

    name: str
    mac: str
    netns: str


@contextmanager
def _wording(what: str) -> Iterator[None]:
    try:
        yield
    except NetlinkError as error:
        raise KernelError(f"{what}: {error.args[-1]}") from None
    except OSError as error:
        raise KernelError(f"{what}: {error.strerror or error}") from None


def _family(address: Address) -> int:
    return socket.AF_INET if address.version == 4 else socket.AF_INET6


class Netlink:
    """A netlink socket in one network namespace; a context manager. `where` is that one's path."""

    def __init__(self, path: str | None = None) -> None:
        self.where = path or "this namespace"
        with _wording(f"{self.where}: cannot be entered"):
            if path is not None and not Path(path).exists():
                raise KernelError(f"{path}: there is no such network namespace")
            with entered(path) if path else nullcontext():
                self._ipr: Any = IPRoute()

    def __enter__(self) -> Netlink:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the socket."""
        self._ipr.close()

    # Links

    def links(self) -> tuple[Link, ...]:
        """All interfaces of the namespace."""
        with _wording("interfaces cannot be listed"):
            return tuple(_link(message) for message in self._ipr.link("dump"))

    def link(self, name: str) -> Link | None:
        """The interface of that name, or None."""
        with _wording(f"{name}: cannot be looked up"):
            try:
                return _link(next(iter(self._ipr.link("get", ifname=name))))
            except NetlinkError as error:
                if error.code == errno.ENODEV:
                    return None
                raise

    def link_by_index(self, index: int) -> Link | None:
        """The interface of that number, or None."""
        with _wording(f"interface {index} cannot be looked up"):
            try:
                return _link(next(iter(self._ipr.link("get", index=index))))
            except NetlinkError as error:
                if error.code == errno.ENODEV:
                    return None
                raise

    def peer_mac(self, link: Link) -> str | None:
        """The MAC of a veth's other end, asked of the namespace it is in; None when not told."""
        if link.peer_namespace is None or not link.peer_index:
            return None
        try:
            answer = self._ipr.link(
                "get", index=link.peer_index, IFLA_IF_NETNSID=link.peer_namespace
            )
            return str(next(iter(answer)).get_attr("IFLA_ADDRESS"))
        except (NetlinkError, StopIteration):
            return None

    def add_veth(self, name: str, mac: str, alias: str, peer: VethPeer) -> Link:
        """Makes a pair, this end down and named, the other in `peer.netns`; fails if it exists."""
        with _wording(f"{name}: the veth pair to {peer.netns} cannot be made"):
            self._ipr.link(
                "add",
                ifname=name,
                kind="veth",
                address=mac,
                peer={"ifname": peer.name, "address": peer.mac, "net_ns_fd": peer.netns},
            )
        made = self.link(name)
        if made is None:
            raise KernelError(f"{name}: vanished while it was made")
        self.set_alias(made.index, alias)
        return made

    def set_alias(self, index: int, alias: str) -> None:
        """Sets an interface's alias."""
        with _wording(f"interface {index}: its alias cannot be set"):
            self._ipr.link("set", index=index, ifalias=alias)

    def delete_link(self, index: int) -> None:
        """Removes an interface, and a veth's other end with it."""
        with _wording(f"interface {index} cannot be removed"), _gone_is_fine():
            self._ipr.link("del", index=index)

    def set_up(self, index: int) -> None:
        """Brings an interface up."""
        with _wording(f"interface {index} cannot be brought up"):
            self._ipr.link("set", index=index, state="up")

    # Addresses, neighbours, routes, rules

    def addresses(self, index: int | None = None) -> frozenset[Address]:
        """Every address, or those of one interface; loopback's and link-local ones left out."""
        match = {} if index is None else {"index": index}
        with _wording("addresses cannot be listed"):
            own = frozenset(
                ip_address(m.get_attr("IFA_LOCAL") or m.get_attr("IFA_ADDRESS"))
                for m in self._ipr.get_addr(**match)
            )
        return frozenset(a for a in own if not (a.is_loopback or a.is_link_local))

    def delete_address(self, index: int, address: Address) -> None:
        """Removes a host address."""
        with _wording(f"{address} cannot be removed"), _gone_is_fine():
            self._ipr.addr(
                "del", index=index, address=str(address), prefixlen=address.max_prefixlen
            )

    def routes(self) -> dict[int, frozenset[Network]]:
        """Destinations of our routes in the main table, by the interface that they go out of."""
        found: dict[int, set[Network]] = {}
        with _wording("routes cannot be listed"):
            for message in self._ipr.get_routes(table=_RT_TABLE_MAIN):
                to, index = message.get_attr("RTA_DST"), message.get_attr("RTA_OIF")
                if message["proto"] == ROUTE_PROTOCOL and to and index:
                    found.setdefault(int(index), set()).add(
                        ip_network(f"{to}/{message['dst_len']}")
                    )
        return {index: frozenset(networks) for index, networks in found.items()}

    def delete_route(self, to: Network, index: int) -> None:
        """Removes a route of ours to the link."""
        scope = {"scope": _SCOPE_LINK} if to.version == 4 else {}
        with _wording(f"the route to {to} cannot be removed"), _gone_is_fine():
            self._ipr.route(
                "del",
                family=_family(to.network_address),
                dst=str(to),
                oif=index,
                proto=ROUTE_PROTOCOL,
                **scope,
            )

    def add_address(self, index: int, address: Address) -> None:
        """Adds a host address (/32, /128), without duplicate address detection."""
        more: dict[str, int] = {"IFA_FLAGS": _IFA_F_NODAD} if address.version == 6 else {}
        if address.is_loopback:
            more["scope"] = _SCOPE_HOST
        with _wording(f"{address} cannot be added"), _there_is_fine():
            self._ipr.addr(
                "add", index=index, address=str(address), prefixlen=address.max_prefixlen, **more
            )

    def add_neighbour(self, index: int, address: Address, mac: str) -> None:
        """A permanent entry of the neighbour table."""
        with _wording(f"neighbour {address} cannot be added"):
            self._ipr.neigh(
                "replace", dst=str(address), lladdr=mac, ifindex=index, state=_NUD_PERMANENT
            )

    def delete_neighbour(self, index: int, address: Address) -> None:
        """Removes an entry of the neighbour table."""
        with _wording(f"neighbour {address} cannot be removed"), _gone_is_fine():
            self._ipr.neigh("del", dst=str(address), ifindex=index)

    def add_route(self, to: Network, index: int, gateway: Address | None = None) -> None:
        """A route out of an interface, to the link or through a gateway taken to be on it."""
        extra: dict[str, Any] = {"scope": _SCOPE_LINK} if to.version == 4 else {}
        if gateway is not None:
            extra = {"gateway": str(gateway), "flags": _RTNH_F_ONLINK}
        with _wording(f"the route to {to} cannot be added"):
            self._ipr.route(
                "replace",
                family=_family(to.network_address),
                dst=str(to),
                oif=index,
                proto=ROUTE_PROTOCOL,
                **extra,
            )

    def deliver_all_locally(self, name: str, index: int, table: int) -> None:
        """What comes in through `name` is for this namespace, whatever its destination."""
        for family, everything in ((socket.AF_INET, "0.0.0.0/0"), (socket.AF_INET6, "::/0")):
            with _wording(f"{self.where}: local delivery cannot be set up"):
                self._ipr.route(
                    "replace",
                    family=family,
                    dst=everything,
                    oif=index,
                    table=table,
                    type=_RTN_LOCAL,
                    proto=ROUTE_PROTOCOL,
                    **({"scope": _SCOPE_HOST} if family == socket.AF_INET else {}),
                )
                with _there_is_fine():
                    self._ipr.rule("add", family=family, iifname=name, table=table)

    # TC

    def attach(self, index: int, hook: Hook, program: int, name: str) -> None:
        """Attaches a program, or puts it atomically in the place of the one attached before."""
        with _wording(f"{name} cannot be attached to interface {index}"):
            with _there_is_fine():
                self._ipr.tc("add", "clsact", index)
            self._ipr.tc(
                "replace-filter",
                "bpf",
                index,
                FILTER_HANDLE,
                fd=program,
                name=FILTER_PREFIX + name,
                parent=hook.value,
                prio=FILTER_PRIORITY,
                protocol=0x0003,  # ETH_P_ALL
                direct_action=True,
            )

    def attached(self, index: int) -> dict[Hook, int]:
        """Ids of our programs on an interface, by hook."""
        found = {}
        for hook in Hook:
            with _wording(f"filters of interface {index} cannot be listed"), _gone_is_fine():
                for message in self._ipr.get_filters(index=index, parent=hook.value):
                    options = message.get_attr("TCA_OPTIONS")
                    name = options.get_attr("TCA_BPF_NAME") if options else None
                    if name and str(name).startswith(FILTER_PREFIX):
                        found[hook] = int(options.get_attr("TCA_BPF_ID"))
        return found

    def detach(self, index: int) -> None:
        """Removes our programs from an interface, and clsact when nobody else uses it."""
        for hook in self.attached(index):
            with _wording(f"filters of interface {index} cannot be removed"), _gone_is_fine():
                self._ipr.tc(
                    "del-filter",
                    "bpf",
                    index,
                    FILTER_HANDLE,
                    parent=hook.value,
                    prio=FILTER_PRIORITY,
                    protocol=0x0003,
                )
        with _wording(f"clsact of interface {index} cannot be removed"), _gone_is_fine():
            if not any(self._ipr.get_filters(index=index, parent=hook.value) for hook in Hook):
                self._ipr.tc("del", "clsact", index)


def _link(message: Any) -> Link:
    info = message.get_attr("IFLA_LINKINFO")
    namespace = message.get_attr("IFLA_LINK_NETNSID")
    return Link(
        index=int(message["index"]),
        name=str(message.get_attr("IFLA_IFNAME")),
        mac=str(message.get_attr("IFLA_ADDRESS") or ""),
        kind=str(info.get_attr("IFLA_INFO_KIND")) if info else "",
        alias=str(message.get_attr("IFLA_IFALIAS") or ""),
        up=bool(message["flags"] & 1),
        peer_index=int(message.get_attr("IFLA_LINK") or 0),
        peer_namespace=None if namespace is None or int(namespace) < 0 else int(namespace),
    )


@contextmanager
def _there_is_fine() -> Iterator[None]:
    try:
        yield
    except NetlinkError as error:
        if error.code != errno.EEXIST:
            raise


@contextmanager
def _gone_is_fine() -> Iterator[None]:
    try:
        yield
    except NetlinkError as error:
        if error.code not in _GONE:
            raise


def network_of(address: Address) -> Network:
    """The host route's destination."""
    return ip_interface(address).network


def namespace_path(name: str) -> Path:
    """Where a named network namespace is mounted, as iproute2 has it."""
    return _NAMESPACES / name


def create_namespace(name: str) -> None:
    """Makes a named network namespace, visible to `ip netns`."""
    if namespace_path(name).exists():
        return
    with _wording(f"the network namespace {name} cannot be made"):
        netns.create(name)


def delete_namespace(name: str) -> None:
    """Removes a named network namespace; it ends when nothing runs in it any more."""
    if not namespace_path(name).exists():
        return
    with _wording(f"the network namespace {name} cannot be removed"):
        netns.remove(name)
