"""Envoy's static part: who it is, its admin socket, where its listeners and clusters come from.

Pure. Written by `process` before each start.
"""

from __future__ import annotations

from envoy_data_plane.envoy.config.bootstrap.v3 import (
    Admin,
    Bootstrap,
    BootstrapDynamicResources,
)
from envoy_data_plane.envoy.config.core.v3 import (
    Address,
    ApiVersion,
    ConfigSource,
    Node,
    PathConfigSource,
    Pipe,
)
from envoy_data_plane.envoy.config.overload.v3 import OverloadManager, ResourceMonitor
from envoy_data_plane.envoy.extensions.resource_monitors.downstream_connections.v3 import (
    DownstreamConnectionsConfig,
)

from l7proxy.http_options import pack
from l7proxy.spec import ProxySpec
from l7proxy.xds import as_json

MAX_CONNECTIONS = 8192
"""Clients' connections at once; one more is closed at its accept. Each may need two descriptors."""


def bootstrap(spec: ProxySpec) -> str:
    """The bootstrap file's text. The only way to administer this Envoy is the unix socket in it."""
    return as_json(
        Bootstrap(
            node=Node(id=spec.tenant, cluster=spec.tenant),
            admin=Admin(
                address=Address(pipe=Pipe(path=spec.admin_path, mode=0o600)),
                # A flood of clients must not hide the proxy from whoever looks after it.
                ignore_global_conn_limit=True,
            ),
            dynamic_resources=BootstrapDynamicResources(
                lds_config=_watched(spec.listeners_path),
                cds_config=_watched(spec.clusters_path),
            ),
            overload_manager=OverloadManager(
                resource_monitors=[
                    ResourceMonitor(
                        name="envoy.resource_monitors.global_downstream_max_connections",
                        typed_config=pack(
                            DownstreamConnectionsConfig(
                                max_active_downstream_connections=MAX_CONNECTIONS
                            )
                        ),
                    )
                ]
            ),
        )
    )


def _watched(path: str) -> ConfigSource:
    # Without watched_directory, Envoy reads a file again when another is renamed over it, and only
    # that file; with it, any rename in the directory would have both read again.
    return ConfigSource(
        resource_api_version=ApiVersion.V3, path_config_source=PathConfigSource(path=path)
    )
