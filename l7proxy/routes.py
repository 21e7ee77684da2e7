"""What happens to a request between listener and cluster: nothing that either end could see.

Pure. Read by `listeners`. Three of Envoy's habits need undoing here:

- it adds `x-forwarded-proto` when the client sent none, and cannot be told not to. The client's
  own is put aside before Envoy looks, and is restored, or its absence is, on the way out;
- it obeys `x-envoy-*` request headers (retries, timeouts). A client is no place to configure a
  proxy from, so these are taken away before anything reads them;
- it refuses an Upgrade that it was not told of with 403, where a server may ignore it.
"""

from __future__ import annotations

from datetime import timedelta

from envoy_data_plane.envoy.config.common.mutation_rules.v3 import HeaderMutation as Mutation
from envoy_data_plane.envoy.config.core.v3 import (
    HeaderValue,
    HeaderValueOption,
    HeaderValueOptionHeaderAppendAction,
    TypedExtensionConfig,
)
from envoy_data_plane.envoy.config.route.v3 import (
    Route,
    RouteAction,
    RouteConfiguration,
    RouteMatch,
    RouteMatchConnectMatcher,
    VirtualHost,
)
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import (
    HttpConnectionManagerUpgradeConfig,
)
from envoy_data_plane.envoy.extensions.http.early_header_mutation.header_mutation.v3 import (
    HeaderMutation,
)

from l7proxy.clusters import ORIGINAL_DESTINATION
from l7proxy.http_options import extension

UPGRADES = ("websocket", "CONNECT", "SPDY/3.1", "tcp")
"""Upgrades that pass (websockets, tunnels, and what container engines' clients attach with)."""

FORWARDED_PROTO = "x-forwarded-proto"
PUT_ASIDE = "x-sluice-forwarded-proto"

ROUTER_HEADERS = (
    "x-envoy-retry-on",
    "x-envoy-retry-grpc-on",
    "x-envoy-max-retries",
    "x-envoy-retriable-header-names",
    "x-envoy-retriable-status-codes",
    "x-envoy-hedge-on-per-try-timeout",
    "x-envoy-upstream-alt-stat-name",
    "x-envoy-upstream-rq-timeout-ms",
    "x-envoy-upstream-rq-timeout-alt-response",
    "x-envoy-upstream-rq-per-try-timeout-ms",
    "x-envoy-upstream-stream-duration-ms",
)

_NEVER = timedelta(0)  # Envoy's way to write "no timeout"


def upgrades() -> list[HttpConnectionManagerUpgradeConfig]:
    """The connection manager's upgrades."""
    return [HttpConnectionManagerUpgradeConfig(upgrade_type=name) for name in UPGRADES]


def early_mutations() -> list[TypedExtensionConfig]:
    """Header changes made before Envoy itself reads the request's headers."""
    taken_away = [Mutation(remove=name) for name in (*ROUTER_HEADERS, PUT_ASIDE)]
    put_aside = Mutation(append=_copy(FORWARDED_PROTO, PUT_ASIDE))
    return [
        extension(
            "envoy.http.early_header_mutation.header_mutation",
            HeaderMutation(mutations=[*taken_away, put_aside]),
        )
    ]


def routes() -> RouteConfiguration:
    """Every host and path to the address that the client dialled, without any time limit."""
    action = RouteAction(cluster=ORIGINAL_DESTINATION, timeout=_NEVER, idle_timeout=_NEVER)
    everything = [
        Route(
            match=match,
            route=action,
            request_headers_to_remove=[FORWARDED_PROTO],
            request_headers_to_add=[_copy(PUT_ASIDE, FORWARDED_PROTO)],
        )
        for match in (
            RouteMatch(connect_matcher=RouteMatchConnectMatcher()),
            RouteMatch(prefix="/"),
        )
    ]
    host = VirtualHost(
        name="any",
        domains=["*"],
        routes=everything,
        # Envoy applies a virtual host's changes after its routes'.
        request_headers_to_remove=[PUT_ASIDE],
    )
    return RouteConfiguration(name="any", virtual_hosts=[host])


def _copy(source: str, target: str) -> HeaderValueOption:
    """Set `target` to the value of `source`; no header when there was none."""
    return HeaderValueOption(
        header=HeaderValue(key=target, value=f"%REQ({source})%"),
        append_action=HeaderValueOptionHeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD,
    )
