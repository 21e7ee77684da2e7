"""HTTP settings that the listener and the cluster share, so that both sides speak alike.

Pure. Read by `listeners` and `clusters`. The proxy stands between two ends that do not know of it,
hence: header case and reason phrases kept, trailers passed, every size bounded on purpose.
"""

from __future__ import annotations

from betterproto2 import Message
from envoy_data_plane.envoy.config.core.v3 import (
    Http1ProtocolOptions,
    Http1ProtocolOptionsHeaderKeyFormat,
    Http2ProtocolOptions,
    TcpKeepalive,
    TypedExtensionConfig,
)
from envoy_data_plane.envoy.extensions.http.header_formatters.preserve_case.v3 import (
    PreserveCaseFormatterConfig,
    PreserveCaseFormatterConfigFormatterTypeOnEnvoyHeaders,
)
from envoy_data_plane.google.protobuf import Any

MAX_HEADERS_KB = 128
"""Size of a header block, either way. Common servers stop between 8 and 64 KiB."""

MAX_HEADERS_COUNT = 200

CONNECTION_BUFFER_BYTES = 256 * 1024
"""What Envoy holds of one connection before it stops reading; the kernel's buffers come on top."""

# Large enough for 100 Mbit/s over an 80 ms path on one stream.
STREAM_WINDOW_BYTES = 1024 * 1024
CONNECTION_WINDOW_BYTES = 4 * 1024 * 1024

MAX_STREAMS = 256
"""HTTP/2 streams at once on one connection of a client."""

# RFC 2606: a name that no server can mistake for one of its own.
NAMELESS_HOST = "host.invalid"


def pack(message: Message) -> Any:
    """Wrap a message as `google.protobuf.Any`, which JSON writes with its "@type"."""
    return Any.pack(message)


def extension(name: str, message: Message) -> TypedExtensionConfig:
    """Name and configuration of one Envoy extension."""
    return TypedExtensionConfig(name=name, typed_config=pack(message))


def http1() -> Http1ProtocolOptions:
    """HTTP/1 for both sides. HTTP/1.0 and absolute URLs matter on the listener's only.

    An HTTP/1.0 request may lack a Host; Envoy speaks 1.1 to the server, which demands one.
    """
    keep_case = PreserveCaseFormatterConfig(
        forward_reason_phrase=True,
        formatter_type_on_envoy_headers=(
            PreserveCaseFormatterConfigFormatterTypeOnEnvoyHeaders.PROPER_CASE
        ),
    )
    return Http1ProtocolOptions(
        accept_http_10=True,
        default_host_for_http_10=NAMELESS_HOST,
        enable_trailers=True,
        header_key_format=Http1ProtocolOptionsHeaderKeyFormat(
            stateful_formatter=extension(
                "envoy.http.stateful_header_formatters.preserve_case", keep_case
            )
        ),
    )


def http2() -> Http2ProtocolOptions:
    """HTTP/2 for both sides, extended CONNECT (RFC 8441) included."""
    return Http2ProtocolOptions(
        allow_connect=True,
        max_concurrent_streams=MAX_STREAMS,
        initial_stream_window_size=STREAM_WINDOW_BYTES,
        initial_connection_window_size=CONNECTION_WINDOW_BYTES,
    )


def keepalive() -> TcpKeepalive:
    """Idle connections are never cut; this finds the ones whose other end is gone (seconds)."""
    return TcpKeepalive(keepalive_time=60, keepalive_interval=10, keepalive_probes=6)
