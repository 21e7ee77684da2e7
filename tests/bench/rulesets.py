"""The made cluster's policies as nftables and as iptables would have them, from the same values.

Called by `places`. Both are laid out as the better generators do it: established connections
first, then one look at who is asked on either side, then that app's rules. nftables finds the app
by a verdict map and holds peers in sets. iptables, without ipset, finds it through a chain per
/24 and has one rule for each peer's address, in a
chain that is entered when the port is right. Only IPv4 is entered, to the others' advantage.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address

from tests.bench import cluster
from tests.bench.cluster import App, Port

_SIDES = ((1, "in", "daddr", "saddr"), (-1, "out", "saddr", "daddr"))


def _addresses(apps: list[App]) -> Iterator[IPv4Address]:
    for app in apps:
        for pod in range(app.size.pods):
            yield app.v4(pod)


def _ports(app: App, sign: int) -> dict[str, list[int]]:
    """By protocol."""
    ports: tuple[Port, ...] = app.ports if sign == 1 else cluster.EGRESS_PORTS
    found: dict[str, list[int]] = {}
    for protocol, port in ports:
        found.setdefault(protocol.lower(), []).append(port)
    return found


def _peers(app: App, sign: int) -> list[str]:
    """Addresses and, on ingress, the CIDR that a policy admits."""
    found = [str(a) for group in cluster.peers(app, sign) for a in _addresses(group)]
    return found + ([app.block] if sign == 1 and app.size.blocks else [])


def nftables(size: cluster.Size) -> str:
    """A ruleset for `nft -f`."""
    lines = ["table ip bench {"]
    for sign, side, _, peer in _SIDES:
        elements = []
        for app in cluster.apps(size):
            name = f"{side}-{app.namespace}-{app.number}"
            members = f"elements = {{ {', '.join(_peers(app, sign))} }}"
            lines += [
                f"set p-{name} {{ type ipv4_addr; {_interval(app, sign)} {members} }}",
                f"chain {name} {{",
            ]
            for protocol, ports in _ports(app, sign).items():
                allowed = ", ".join(map(str, ports))
                verdict = "accept" if side == "in" else "return"
                lines.append(f"ip {peer} @p-{name} {protocol} dport {{ {allowed} }} {verdict}")
            lines += ["drop", "}"]
            elements += [f"{address} : jump {name}" for address in _addresses([app])]
        joined = ", ".join(elements)
        lines.append(f"map {side} {{ type ipv4_addr : verdict; elements = {{ {joined} }} }}")
    lines += [
        "chain forward {",
        "type filter hook forward priority 0; policy accept;",
        "ct state established,related accept",
        "ct state invalid drop",
        "ip saddr vmap @out",
        "ip daddr vmap @in",
        "}",
        "}",
    ]
    return "\n".join(lines) + "\n"


def _interval(app: App, sign: int) -> str:
    return "flags interval;" if sign == 1 and app.size.blocks else ""


def iptables(size: cluster.Size) -> str:
    """A ruleset for `iptables-restore`."""
    chains: list[str] = []
    rules = [
        "-A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT",
        "-A FORWARD -m conntrack --ctstate INVALID -j DROP",
    ]
    for sign, side, subject, peer in reversed(_SIDES):  # the sender's side first
        blocks: dict[str, list[str]] = {}
        for app in cluster.apps(size):
            name = f"{side}-{app.namespace}-{app.number}"
            chains += [name, f"{name}-p"]
            rules += _app_rules(app, sign, name, peer)
            for address in _addresses([app]):
                block = str(address).rpartition(".")[0]
                blocks.setdefault(block, []).append(f"-{subject[0]} {address}/32 -g {name}")
        for block, lines in blocks.items():
            name = f"{side}-{block}"
            chains.append(name)
            rules.append(f"-A FORWARD -{subject[0]} {block}.0/24 -j {name}")
            rules += [f"-A {name} {line}" for line in lines]
    heads = [":FORWARD ACCEPT [0:0]", *(f":{name} - [0:0]" for name in chains)]
    return "\n".join(["*filter", *heads, *rules, "COMMIT"]) + "\n"


def _app_rules(app: App, sign: int, name: str, peer: str) -> Iterator[str]:
    """Its ports are looked at once, then one peer after the other."""
    target = "ACCEPT" if sign == 1 else "RETURN"
    for protocol, ports in _ports(app, sign).items():
        listed = ",".join(map(str, ports))
        match = f"-m multiport --dports {listed}" if len(ports) > 1 else f"--dport {listed}"
        yield f"-A {name} -p {protocol} -m {protocol} {match} -g {name}-p"
    yield f"-A {name} -j DROP"
    for address in _peers(app, sign):
        yield f"-A {name}-p -{peer[0]} {address} -j {target}"
    yield f"-A {name}-p -j DROP"
