"""The confused deputy: what code in a proxy's namespace reaches, as root there and as its user.

It may speak for a client as long as that client speaks to this very proxy, and then reaches what
the client itself would, and nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet, Raw

from tests.netns.node import Node, ip
from tests.netns.tenants import ADDRESSES, ProxySpace, Site, build
from tests.netns.traffic import (
    Frames,
    ask,
    connect,
    dropped,
    http,
    listen,
    ping_dropped,
    tcp,
    tcp_dropped,
    udp_dropped,
)

MARK = b"forged by the proxy"
PRESENT = ("client", "limited", "world")  # have spoken to the proxy of shop


@pytest.fixture(scope="module")
def site(shared_node: Node) -> Iterator[Site]:
    site = build(shared_node)
    for of in (0, 1):
        for name in PRESENT:
            assert http(site.hosts[name], ADDRESSES["web"][of]).status == 200
        assert http(site.hosts["clerk"], ADDRESSES["teller"][of]).status == 200
    yield site


@pytest.fixture(scope="module")
def deputy(site: Site) -> ProxySpace:
    """The namespace of shop's proxy, entered as root."""
    return ProxySpace(site.node, "shop")


@pytest.fixture(scope="module", params=(0, 1), ids=("ipv4", "ipv6"))
def of(request: pytest.FixtureRequest) -> int:
    """Which of a host's two addresses."""
    return int(request.param)


@pytest.mark.parametrize(
    ("claimed", "to", "port"),
    [
        ("client", "web", 5000),
        ("client", "teller", 5000),
        ("client", "world", 5000),
        ("world", "web", 5000),
    ],
)
def test_as_a_client_it_reaches_what_the_client_does(
    deputy: ProxySpace, claimed: str, to: str, port: int, of: int
) -> None:
    source = ADDRESSES[claimed][of]
    assert tcp(deputy, ADDRESSES[to][of], port, source=source) == source


@pytest.mark.parametrize(
    ("claimed", "to", "port", "reason"),
    [
        # what the client itself may not
        ("limited", "web", 5000, "policy_egress"),
        ("limited", "teller", 80, "policy_egress"),
        ("limited", "world", 80, "policy_egress"),
        ("limited", "node", 22, "policy_egress"),
        ("client", "teller", 5001, "policy_ingress"),
        ("world", "teller", 5001, "policy_ingress"),
        # past another tenant's proxy
        ("client", "teller", 80, "proxy_tenant"),
        ("client", "teller", 8080, "policy_ingress"),
        # for a host outside, to a place where no policy of this node has a say
        ("world", "far", 5000, "proxy_source"),
        ("world", "node", 22, "proxy_source"),
        # as somebody who is no client of this proxy
        ("clerk", "web", 80, "proxy_source"),
        ("clerk", "teller", 80, "proxy_source"),
        ("guest", "web", 80, "proxy_source"),
        ("web", "client", 80, "proxy_source"),
        ("trap", "web", 80, "proxy_source"),
        ("far", "web", 80, "proxy_source"),
        ("node", "web", 80, "proxy_source"),
        ("node", "teller", 5001, "proxy_source"),
    ],
)
def test_everything_else_it_does_not(
    site: Site, deputy: ProxySpace, claimed: str, to: str, port: int, reason: str, of: int
) -> None:
    source = ADDRESSES[claimed][of]
    tcp_dropped(site.node, reason, deputy, ADDRESSES[to][of], port, source=source)


def test_with_an_address_of_its_own_it_reaches_nobody(
    site: Site, deputy: ProxySpace, of: int
) -> None:
    own = ("10.99.0.1", "fd00:99::1")[of]
    ip("-n", deputy.name, "addr", "add", f"{own}/{(32, 128)[of]}", "dev", "lo")
    try:
        for to, port in (("web", 80), ("teller", 5000), ("world", 5000), ("node", 22)):
            tcp_dropped(site.node, "proxy_source", deputy, ADDRESSES[to][of], port, source=own)
    finally:
        ip("-n", deputy.name, "addr", "del", f"{own}/{(32, 128)[of]}", "dev", "lo")


def test_it_speaks_nothing_but_tcp(site: Site, deputy: ProxySpace, of: int) -> None:
    client = ADDRESSES["client"][of]
    for to in ("web", "teller", "world", "node"):
        destination = ADDRESSES[to][of]
        udp_dropped(site.node, "proxy_protocol", deputy, destination, 5000, source=client)
        ping_dropped(site.node, "proxy_protocol", deputy, destination, source=client)


def raw_frames(of: int, client_port: int) -> dict[str, tuple[Packet, str]]:
    """Frames that fit no connection of the proxy's, and why each is dropped."""

    def packet(source: str, destination: str) -> Packet:
        return (IP, IPv6)[of](src=ADDRESSES[source][of], dst=ADDRESSES[destination][of])

    mark = Raw(MARK)
    echo = (ICMP() / mark, ICMPv6EchoRequest(data=MARK))[of]
    return {
        "data out of nowhere": (
            packet("client", "web") / TCP(sport=1234, dport=5000, flags="PA") / mark,
            "proxy_midstream",
        ),
        "the second step of a handshake": (
            packet("client", "web") / TCP(sport=1234, dport=5000, flags="SA") / mark,
            "proxy_midstream",
        ),
        "an answer to another proxy's client": (
            packet("teller", "clerk") / TCP(sport=80, dport=client_port, flags="PA") / mark,
            "proxy_source",
        ),
        "a reset for another proxy's client": (
            packet("teller", "clerk") / TCP(sport=80, dport=client_port, flags="R") / mark,
            "proxy_source",
        ),
        "a request of another proxy's client": (
            packet("clerk", "teller") / TCP(sport=client_port, dport=80, flags="PA") / mark,
            "proxy_source",
        ),
        "a datagram": (packet("client", "web") / UDP(dport=5000) / mark, "proxy_protocol"),
        "an echo request": (packet("client", "web") / echo, "proxy_protocol"),
    }


@pytest.mark.parametrize("kind", raw_frames(0, 1))
def test_raw_frames(site: Site, deputy: ProxySpace, kind: str, of: int) -> None:
    [gateway] = [
        entry["lladdr"]
        for entry in json.loads(ip("-n", deputy.name, "-j", "neigh"))
        if entry["dst"] == "169.254.1.1"
    ]
    with (
        connect(site.hosts["clerk"], ADDRESSES["teller"][of], 80) as theirs,
        Frames(site.hosts["web"]) as web,
        Frames(site.hosts["clerk"]) as clerk,
        Frames(site.hosts["teller"]) as teller,
        Frames(deputy) as wire,
    ):
        assert ask(theirs).status == 200
        frame, reason = raw_frames(of, theirs.getsockname()[1])[kind]
        with dropped(site.node, reason):
            wire.send(Ether(dst=gateway) / frame)
        for host in (web, clerk, teller):
            assert not [seen for seen in host.seen() if MARK in seen]
        assert ask(theirs).status == 200


def test_it_is_nobody_s_neighbour(site: Site, deputy: ProxySpace) -> None:
    claim = ARP(op=2, psrc=ADDRESSES["web"][0], pdst=ADDRESSES["client"][0])
    with Frames(deputy) as wire, dropped(site.node, "proxy_protocol"):
        wire.send(Ether(dst="ff:ff:ff:ff:ff:ff") / claim)


AS_ITS_USER = """
import json, socket, sys
family, source, tries = json.loads(sys.argv[1])
for to, port in tries:
    one = socket.socket(socket.AF_INET6 if family == 6 else socket.AF_INET)
    one.setsockopt(*((41, 75, 1) if family == 6 else (0, 19, 1)))  # IP_TRANSPARENT
    one.bind((source, 0))
    one.settimeout(1)
    try:
        one.connect((to, port))
        print(to, port, "connected")
    except OSError as error:
        print(to, port, type(error).__name__)
"""


def test_as_its_own_user_it_reaches_the_same(site: Site, deputy: ProxySpace, of: int) -> None:
    """With the one capability that Envoy has."""
    uid = str(site.proxy_directory("shop").stat().st_uid)
    only = "-all,+net_raw"
    tries = [[ADDRESSES["web"][of], 80], [ADDRESSES["web"][of], 5000]]
    done = deputy.run(
        *("setpriv", "--reuid", uid, "--regid", uid, "--clear-groups", "--no-new-privs"),
        *(f"--inh-caps={only}", f"--ambient-caps={only}", f"--bounding-set={only}", "--"),
        *("/usr/bin/python3", "-c", AS_ITS_USER),
        json.dumps([(4, 6)[of], ADDRESSES["limited"][of], tries]),
    )
    web = ADDRESSES["web"][of]
    assert done.stdout.splitlines() == [f"{web} 80 connected", f"{web} 5000 TimeoutError"], (
        done.stderr
    )


def test_the_node_s_services_are_judged_as_the_client(
    site: Site, deputy: ProxySpace, of: int
) -> None:
    node = ADDRESSES["node"][of]
    with listen(site.node, node, 9465):
        client, limited = ADDRESSES["client"][of], ADDRESSES["limited"][of]
        connect(deputy, node, 9465, source=client).close()
        tcp_dropped(site.node, "policy_egress", deputy, node, 9465, source=limited)


def test_what_listens_on_the_node_s_loopback_is_out_of_reach(deputy: ProxySpace) -> None:
    """127.15.0.1 is the address of the node's end of the wire."""
    for to in ("127.0.0.1", "127.15.0.1"):
        with pytest.raises(ConnectionRefusedError):  # its own loopback answers
            connect(deputy, to, 9464)
