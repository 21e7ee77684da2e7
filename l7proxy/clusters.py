"""Where a request goes: to the address that the client dialled.

Pure. Written by `process`, watched by Envoy.
"""

from __future__ import annotations

from datetime import timedelta

from envoy_data_plane.envoy.config.cluster.v3 import (
    CircuitBreakers,
    CircuitBreakersThresholds,
    Cluster,
    ClusterDiscoveryType,
    ClusterLbPolicy,
    UpstreamConnectionOptions,
)
from envoy_data_plane.envoy.config.core.v3 import HttpProtocolOptions as CommonHttpOptions
from envoy_data_plane.envoy.extensions.upstreams.http.v3 import (
    HttpProtocolOptions,
    HttpProtocolOptionsUseDownstreamHttpConfig,
)

from l7proxy.http_options import (
    CONNECTION_BUFFER_BYTES,
    MAX_HEADERS_COUNT,
    MAX_HEADERS_KB,
    http1,
    http2,
    keepalive,
    pack,
)
from l7proxy.spec import ProxySpec
from l7proxy.xds import resources

ORIGINAL_DESTINATION = "original_destination"
"""The cluster's name."""

# As long as a patient client's TCP would keep trying a silent server without a second thought.
CONNECT_TIMEOUT = timedelta(seconds=30)

IDLE_TIMEOUT = timedelta(seconds=60)
"""How long an unused connection to a server waits for the same client's next request."""

# Envoy's own default, 1024, would be a limit on a tenant's traffic that nobody chose; clients'
# connections and streams are bounded already, and with them what goes to servers.
UNLIMITED = 2**32 - 1


def clusters(spec: ProxySpec) -> str:
    """The clusters file's text: one cluster, the original destination.

    Connections to servers carry the client's address (a listener filter asks for it), which is
    part of the connection pool's key: clients never share one.
    """
    common = CommonHttpOptions(
        idle_timeout=IDLE_TIMEOUT,
        max_headers_count=MAX_HEADERS_COUNT,
        max_response_headers_kb=MAX_HEADERS_KB,
    )
    as_the_client = HttpProtocolOptions(
        common_http_protocol_options=common,
        use_downstream_protocol_config=HttpProtocolOptionsUseDownstreamHttpConfig(
            http_protocol_options=http1(), http2_protocol_options=http2()
        ),
    )
    cluster = Cluster(
        name=ORIGINAL_DESTINATION,
        type=ClusterDiscoveryType.ORIGINAL_DST,
        lb_policy=ClusterLbPolicy.CLUSTER_PROVIDED,
        connect_timeout=CONNECT_TIMEOUT,
        cleanup_interval=IDLE_TIMEOUT,
        per_connection_buffer_limit_bytes=CONNECTION_BUFFER_BYTES,
        circuit_breakers=CircuitBreakers(
            thresholds=[
                CircuitBreakersThresholds(
                    max_connections=UNLIMITED,
                    max_pending_requests=UNLIMITED,
                    max_requests=UNLIMITED,
                    max_retries=0,
                )
            ]
        ),
        upstream_connection_options=UpstreamConnectionOptions(tcp_keepalive=keepalive()),
        typed_extension_protocol_options={
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": pack(as_the_client)
        },
    )
    return resources([cluster])
