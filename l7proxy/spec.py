"""What one tenant's Envoy should be. The agent makes these values; everything here reads them."""

from __future__ import annotations

from dataclasses import dataclass

# Names in the proxy's directory.
BOOTSTRAP_FILE = "bootstrap.json"
LISTENERS_FILE = "lds.json"
CLUSTERS_FILE = "cds.json"
ADMIN_SOCKET = "admin.sock"
ACCESS_LOG = "access.log"
LOG = "envoy.log"


@dataclass(frozen=True, slots=True)
class ProxySpec:
    """One Envoy, in a network namespace that exists, as a user that owns nothing else.

    `netns` is a path such as /run/netns/NAME; `directory` is the proxy's own, mode 0700 and owned
    by `uid` (made when missing, its parent must exist); `cgroup` is a cgroup v2 folder that exists,
    or None to stay in the caller's; `envoy` is the binary's path; `concurrency` is the number of
    worker threads.
    """

    tenant: str
    netns: str
    uid: int
    gid: int
    directory: str
    cgroup: str | None
    envoy: str
    listener_port: int = 15001
    concurrency: int = 1

    @property
    def bootstrap_path(self) -> str:
        """Envoy's static configuration, read once at its start."""
        return f"{self.directory}/{BOOTSTRAP_FILE}"

    @property
    def listeners_path(self) -> str:
        """Listeners (LDS), replaced by rename; Envoy watches the file."""
        return f"{self.directory}/{LISTENERS_FILE}"

    @property
    def clusters_path(self) -> str:
        """Clusters (CDS), replaced by rename; Envoy watches the file."""
        return f"{self.directory}/{CLUSTERS_FILE}"

    @property
    def admin_path(self) -> str:
        """Unix socket of Envoy's admin interface."""
        return f"{self.directory}/{ADMIN_SOCKET}"

    @property
    def access_log_path(self) -> str:
        """Access log, one JSON object a line."""
        return f"{self.directory}/{ACCESS_LOG}"

    @property
    def log_path(self) -> str:
        """What Envoy has to say for itself: its standard output and error."""
        return f"{self.directory}/{LOG}"
