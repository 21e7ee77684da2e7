"""The packets that the tests of this folder send, made with scapy; either IP version by address."""

from __future__ import annotations

from typing import Any

from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoReply, ICMPv6EchoRequest, IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet

MAC, ROUTER_MAC = "02:51:00:00:00:aa", "02:51:00:00:00:bb"
OUTSIDE = {4: "192.0.2.9", 6: "2001:db8::9"}
STRANGER = {4: "198.51.100.7", 6: "2001:db8:7::7"}


def version(address: str) -> int:
    """4 or 6."""
    return 6 if ":" in address else 4


def ends(one: Any, other: Any, family: int) -> tuple[str, str]:
    """The addresses of two workloads, or of a workload and an address, in one IP version."""
    pair = [x if isinstance(x, str) else (x.v4 if family == 4 else x.v6) for x in (one, other)]
    return pair[0], pair[1]


def numbered(family: int, protocol: int, hops: int = 64) -> dict[str, Any]:
    """Fields of the IP header for a payload of another protocol."""
    return {"proto": protocol, "ttl": hops} if family == 4 else {"nh": protocol, "hlim": hops}


def ip(source: str, destination: str, payload: Any, **fields: Any) -> Packet:
    """One Ethernet frame with an IP packet in it."""
    layer = IPv6 if version(source) == 6 else IP
    link = Ether(src=MAC, dst=fields.pop("mac", ROUTER_MAC))
    made: Packet = link / layer(src=source, dst=destination, **fields) / payload
    return made


def tcp(
    source: str,
    destination: str,
    sport: int,
    dport: int,
    flags: str = "S",
    data: bytes = b"",
    **fields: Any,
) -> Packet:
    """A TCP segment."""
    header = TCP(sport=sport, dport=dport, flags=flags, seq=1000, ack=2000 if "A" in flags else 0)
    return ip(source, destination, header / data, **fields)


def udp(source: str, destination: str, sport: int, dport: int, data: bytes = b"x") -> Packet:
    """A UDP datagram."""
    return ip(source, destination, UDP(sport=sport, dport=dport) / data)


def echo(source: str, destination: str, number: int, reply: bool = False) -> Packet:
    """An ICMP or ICMPv6 echo."""
    if version(source) == 4:
        return ip(source, destination, ICMP(type=0 if reply else 8, id=number))
    kind = ICMPv6EchoReply if reply else ICMPv6EchoRequest
    return ip(source, destination, kind(id=number))


def back(packet: Packet, flags: str | None = None) -> Packet:
    """The same ends the other way round: what the receiver of `packet` would answer."""
    layer = packet[IPv6] if IPv6 in packet else packet[IP]
    if TCP in packet:
        return tcp(layer.dst, layer.src, packet[TCP].dport, packet[TCP].sport, flags or "SA")
    return udp(layer.dst, layer.src, packet[UDP].dport, packet[UDP].sport)
