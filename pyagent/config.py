"""What `kind: AgentConfig` says, with its defaults. Made by `manifests`, used by the agent."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path


class NodeTraffic(Enum):
    """Whether the node's own traffic to its workloads is always allowed or judged by policy."""

    ALLOW = "allow"
    POLICY = "policy"


@dataclass(frozen=True, slots=True)
class MapSizes:
    """Capacity of each map in entries (`events`: bytes, a power of two)."""

    workloads: int = 16_384
    local_addrs: int = 65_536
    identities: int = 131_072
    policy: int = 262_144
    conntrack: int = 262_144
    fragments: int = 8_192
    tenants: int = 1_024
    proxies: int = 1_024
    proxy_clients: int = 65_536
    counters: int = 65_536
    events: int = 4_194_304


@dataclass(frozen=True, slots=True)
class AgentConfig:
    """`sluice.dev/v1alpha1 AgentConfig`.

    `state_dir` keeps what must outlive the agent (pins, numbers, proxies); `run_dir` what lives
    with it (lock, event socket). `cgroup` is a cgroup v2 folder of Sluice's own, None for the
    one it makes below the mount it finds. `metrics_address` is "HOST:PORT" or None for off.
    """

    node: str
    source_directory: Path
    state_dir: Path = Path("/var/lib/sluice")
    run_dir: Path = Path("/run/sluice")
    cgroup: Path | None = None
    metrics_address: str | None = "127.0.0.1:9464"
    node_traffic: NodeTraffic = NodeTraffic.ALLOW
    map_sizes: MapSizes = field(default_factory=MapSizes)
