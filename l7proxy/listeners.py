"""Where connections come in: two transparent listeners, IPv4 and IPv6, in the proxy's namespace.

Pure. Written by `process`, watched by Envoy.
"""

from __future__ import annotations

from datetime import timedelta

from betterproto2 import Message
from envoy_data_plane.envoy.config.accesslog.v3 import AccessLog
from envoy_data_plane.envoy.config.core.v3 import (
    Address,
    HttpProtocolOptions,
    SocketAddress,
    SubstitutionFormatString,
)
from envoy_data_plane.envoy.config.listener.v3 import (
    Filter,
    FilterChain,
    Listener,
    ListenerFilter,
)
from envoy_data_plane.envoy.extensions.access_loggers.file.v3 import FileAccessLog
from envoy_data_plane.envoy.extensions.filters.http.router.v3 import Router
from envoy_data_plane.envoy.extensions.filters.listener.original_dst.v3 import OriginalDst
from envoy_data_plane.envoy.extensions.filters.listener.original_src.v3 import OriginalSrc
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import (
    HttpConnectionManager,
    HttpConnectionManagerInternalAddressConfig,
    HttpConnectionManagerPathWithEscapedSlashesAction,
    HttpConnectionManagerServerHeaderTransformation,
    HttpFilter,
)
from envoy_data_plane.google.protobuf import Struct

from l7proxy.http_options import (
    CONNECTION_BUFFER_BYTES,
    MAX_HEADERS_COUNT,
    MAX_HEADERS_KB,
    http1,
    http2,
    keepalive,
    pack,
)
from l7proxy.routes import early_mutations, routes, upgrades
from l7proxy.spec import ProxySpec
from l7proxy.xds import resources

LISTENERS = (("inbound_v4", "0.0.0.0"), ("inbound_v6", "::"))
"""Name and address of each listener."""

STAT_PREFIX = "inbound"
"""Both listeners' HTTP counters are under `http.inbound.`."""

# Addresses are the connection's own: what a header claims (x-forwarded-for) is not believed.
ACCESS_LOG = {
    "time": "%START_TIME%",
    "client": "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS%",
    "destination": "%DOWNSTREAM_LOCAL_ADDRESS%",
    "method": "%REQ(:METHOD)%",
    "authority": "%REQ(:AUTHORITY)%",
    "path": "%REQ(:PATH)%",
    "protocol": "%PROTOCOL%",
    "code": "%RESPONSE_CODE%",
    "flags": "%RESPONSE_FLAGS%",
    "details": "%RESPONSE_CODE_DETAILS%",
    "duration_ms": "%DURATION%",
    "bytes_received": "%BYTES_RECEIVED%",
    "bytes_sent": "%BYTES_SENT%",
    "upstream_local": "%UPSTREAM_LOCAL_ADDRESS%",
}

_NEVER = timedelta(0)  # Envoy's way to write "no timeout"


def listeners(spec: ProxySpec) -> str:
    """The listeners file's text."""
    chain = FilterChain(
        filters=[
            Filter(
                name="envoy.filters.network.http_connection_manager",
                typed_config=pack(_connection_manager(spec)),
            )
        ]
    )
    both: list[Message] = [
        Listener(
            name=name,
            address=Address(
                socket_address=SocketAddress(address=address, port_value=spec.listener_port)
            ),
            # The socket takes connections for any address, and only one socket does: the kernel
            # hands packets to the listener that it looked up.
            transparent=True,
            enable_reuse_port=False,
            per_connection_buffer_limit_bytes=CONNECTION_BUFFER_BYTES,
            tcp_keepalive=keepalive(),
            listener_filters=[
                ListenerFilter(
                    name="envoy.filters.listener.original_dst", typed_config=pack(OriginalDst())
                ),
                ListenerFilter(
                    name="envoy.filters.listener.original_src",
                    typed_config=pack(OriginalSrc(bind_port=False)),
                ),
            ],
            filter_chains=[chain],
        )
        for name, address in LISTENERS
    ]
    return resources(both)


def _connection_manager(spec: ProxySpec) -> HttpConnectionManager:
    """HTTP/1 and HTTP/2 with prior knowledge, told apart by their first bytes (codec AUTO)."""
    return HttpConnectionManager(
        stat_prefix=STAT_PREFIX,
        route_config=routes(),
        http_filters=[
            HttpFilter(
                name="envoy.filters.http.router",
                typed_config=pack(Router(suppress_envoy_headers=True)),
            )
        ],
        http_protocol_options=http1(),
        http2_protocol_options=http2(),
        common_http_protocol_options=HttpProtocolOptions(
            idle_timeout=_NEVER, max_headers_count=MAX_HEADERS_COUNT
        ),
        max_request_headers_kb=MAX_HEADERS_KB,
        stream_idle_timeout=_NEVER,
        upgrade_configs=upgrades(),
        early_header_mutation_extensions=early_mutations(),
        access_log=[_access_log(spec)],
        # What follows makes Envoy leave the messages alone.
        server_header_transformation=HttpConnectionManagerServerHeaderTransformation.PASS_THROUGH,
        use_remote_address=False,
        skip_xff_append=True,
        internal_address_config=HttpConnectionManagerInternalAddressConfig(),
        generate_request_id=False,
        preserve_external_request_id=True,
        proxy_100_continue=True,
        normalize_path=False,
        merge_slashes=False,
        path_with_escaped_slashes_action=(
            HttpConnectionManagerPathWithEscapedSlashesAction.KEEP_UNCHANGED
        ),
    )


def _access_log(spec: ProxySpec) -> AccessLog:
    line = Struct.from_dict(ACCESS_LOG)
    return AccessLog(
        name="envoy.access_loggers.file",
        typed_config=pack(
            FileAccessLog(
                path=spec.access_log_path,
                log_format=SubstitutionFormatString(json_format=line),
            )
        ),
    )
