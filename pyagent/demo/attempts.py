"""What the demo tries and what should come of it: plain values, and the commands that try it.

Pure. Read by `run` and `report`. Who and to whom are workloads of the manifests ("shop/web") or
the node. Every attempt has a source port of its own, so that each event of the kernel, and each
line of a proxy's access log, belongs to exactly one.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from pyagent.model import Address

NODE = "node"

FIRST_PORT = 20_001
"""Source ports count from here: below the ports that the kernel itself chooses from."""

_PATIENCE = 5.0  # seconds for what should be answered
_DENIED_AFTER = 0.9  # seconds until silence counts as such; a SYN is repeated after 1 s


class Way(Enum):
    """What is sent."""

    TCP = "TCP"
    UDP = "UDP"
    HTTP1 = "HTTP/1.1"
    HTTP2 = "HTTP/2"
    PING = "ping"

    @property
    def is_http(self) -> bool:
        """Whether it is a request to a web server."""
        return self in (Way.HTTP1, Way.HTTP2)


class Outcome(Enum):
    """What can come of an attempt, as client and kernel agree."""

    PASSED = "passed"
    HANDED_OFF = "handed off"
    DENIED_INGRESS = "denied, ingress"
    DENIED_EGRESS = "denied, egress"


REASONS = {"policy_ingress": Outcome.DENIED_INGRESS, "policy_egress": Outcome.DENIED_EGRESS}
"""The drop reasons that a denial has."""


class Flow(NamedTuple):
    """How events name a connection; a ping's identifier is its source port."""

    protocol: str
    source: Address
    source_port: int
    destination: Address
    destination_port: int


@dataclass(frozen=True, slots=True)
class Attempt:
    """One row of the table. `version` is that of IP; `port` is the server's, 0 for a ping."""

    who: str
    whom: str
    way: Way
    port: int
    version: int
    expected: Outcome

    @property
    def what(self) -> str:
        """For people: "HTTP/2 80 IPv6"."""
        return " ".join(
            (self.way.value, *((str(self.port),) if self.port else ()), f"IPv{self.version}")
        )


@dataclass(frozen=True, slots=True)
class Prepared:
    """An attempt with its addresses, and the command that makes it in the client's namespace."""

    attempt: Attempt
    flow: Flow
    command: tuple[str, ...]


def _both(who: str, whom: str, way: Way, port: int, expected: Outcome) -> tuple[Attempt, Attempt]:
    """The same with IPv4 and with IPv6."""
    four, six = (Attempt(who, whom, way, port, version, expected) for version in (4, 6))
    return four, six


ATTEMPTS = (
    # At layer 4, inside a tenant
    *_both("shop/web", "shop/db", Way.TCP, 5432, Outcome.PASSED),
    *_both("shop/db", "shop/web", Way.TCP, 9000, Outcome.DENIED_INGRESS),
    *_both("shop/cart", "shop/db", Way.TCP, 5432, Outcome.DENIED_EGRESS),
    *_both("shop/web", "shop/db", Way.UDP, 5353, Outcome.PASSED),
    *_both("shop/cart", "shop/db", Way.UDP, 5353, Outcome.DENIED_EGRESS),
    *_both("bank/teller", "bank/web", Way.PING, 0, Outcome.PASSED),
    Attempt("bank/teller", "bank/web", Way.HTTP1, 8080, 4, Outcome.PASSED),
    # Across tenants
    *_both("bank/teller", "shop/web", Way.HTTP1, 80, Outcome.DENIED_INGRESS),
    *_both("shop/web", "bank/web", Way.HTTP2, 80, Outcome.DENIED_INGRESS),
    *_both("bank/teller", "shop/db", Way.UDP, 5353, Outcome.DENIED_INGRESS),
    *_both("shop/web", "bank/web", Way.PING, 0, Outcome.DENIED_INGRESS),
    # Handed off to the proxy of the tenant
    *_both("shop/cart", "shop/web", Way.HTTP1, 80, Outcome.HANDED_OFF),
    *_both("shop/cart", "shop/web", Way.HTTP2, 80, Outcome.HANDED_OFF),
    *_both("bank/teller", "bank/web", Way.HTTP1, 80, Outcome.HANDED_OFF),
    *_both("bank/teller", "bank/web", Way.HTTP2, 80, Outcome.HANDED_OFF),
    # The node's own probes, which neither policy nor proxy may get in the way of
    *_both(NODE, "shop/db", Way.TCP, 5432, Outcome.PASSED),
    Attempt(NODE, "shop/web", Way.HTTP1, 80, 4, Outcome.PASSED),
)

DOWNLOAD = Attempt("bank/teller", "bank/web", Way.HTTP1, 80, 4, Outcome.HANDED_OFF)
"""The download during which the agent is killed."""

AFTERWARDS = (
    Attempt("shop/cart", "shop/web", Way.HTTP2, 80, 6, Outcome.HANDED_OFF),
    Attempt("shop/cart", "shop/db", Way.TCP, 5432, 4, Outcome.DENIED_EGRESS),
)
"""What the restarted agent must show in force."""

SERVERS: Mapping[str, tuple[str, ...]] = {
    "shop/web": ("--http", "80", "--tcp", "9000"),
    "shop/db": ("--tcp", "5432", "--udp", "5353"),
    "bank/web": ("--http", "80", "--http", "8080"),
}
"""Arguments of the server that runs in each workload that has one."""

WORKLOADS = frozenset(
    name
    for attempt in (*ATTEMPTS, DOWNLOAD, *AFTERWARDS)
    for name in (attempt.who, attempt.whom)
    if name != NODE
) | frozenset(SERVERS)
"""The workloads that the manifests must have, each with an IPv4 and an IPv6 address."""

Addresses = Mapping[str, Mapping[int, Address]]  # of a workload or the node, by IP version


def prepare(attempt: Attempt, source_port: int, addresses: Addresses) -> Prepared:
    """The attempt with a source port of its own."""
    source = addresses[attempt.who][attempt.version]
    destination = addresses[attempt.whom][attempt.version]
    flow = Flow(_protocol(attempt), source, source_port, destination, attempt.port)
    handy = attempt.expected in (Outcome.PASSED, Outcome.HANDED_OFF)
    patience = _PATIENCE if handy else _DENIED_AFTER
    if attempt.way.is_http:
        command = curl(attempt.way, flow, "/", "-m", str(patience))
    else:
        command = _client(attempt.way, flow, patience)
    return Prepared(attempt, flow, command)


def _protocol(attempt: Attempt) -> str:
    """The protocol's name in events."""
    if attempt.way is Way.PING:
        return "ICMP" if attempt.version == 4 else "ICMPv6"
    return "UDP" if attempt.way is Way.UDP else "TCP"


def url(address: Address, port: int, path: str) -> str:
    """An http URL, the port left out where it is the usual one."""
    host = str(address) if address.version == 4 else f"[{address}]"
    return f"http://{host}{'' if port == 80 else f':{port}'}{path}"


def curl_protocol(way: Way) -> str:
    """curl's option for a way of HTTP; HTTP/2 without asking for an upgrade first."""
    return "--http2-prior-knowledge" if way is Way.HTTP2 else "--http1.1"


def curl(way: Way, flow: Flow, path: str, *options: str) -> tuple[str, ...]:
    """A request by curl, which no file or variable of the user's turns into another one."""
    return (
        *("curl", "--disable", "--noproxy", "*", "--globoff", "-sS", curl_protocol(way)),
        *("--interface", f"host!{flow.source}", "--local-port", str(flow.source_port)),
        *options,
        url(flow.destination, flow.destination_port, path),
    )


def _client(way: Way, flow: Flow, patience: float) -> tuple[str, ...]:
    """A run of our own client."""
    return (
        *(sys.executable, "-m", "pyagent.demo.client", way.name.lower()),
        *(str(flow.source), str(flow.source_port)),
        *(str(flow.destination), str(flow.destination_port), str(patience)),
    )
