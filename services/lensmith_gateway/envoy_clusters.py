"""The servers behind Envoy: how they are found, connected to and spared."""

from lensmith_gateway.envoy_settings import MEBIBYTE, TYPES, Address, Config


def cluster(name: str, address: Address, *, grpc: bool) -> Config:
    """One server or, where the address is a name, every replica behind it."""
    cluster: Config = {
        "name": name,
        "connect_timeout": "2s",
        "lb_policy": "LEAST_REQUEST",
        "per_connection_buffer_limit_bytes": MEBIBYTE,
        "circuit_breakers": {
            "thresholds": [
                {
                    "max_connections": 1024,
                    "max_pending_requests": 1024,
                    "max_requests": 4096,
                    "retry_budget": {"budget_percent": {"value": 20}, "min_retry_concurrency": 16},
                }
            ]
        },
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address_config(address)}}]}],
        },
    }
    fixed = bool(address.socket) or address.is_ip
    cluster |= {"type": "STATIC"} if fixed else _replicas()
    cluster["typed_extension_protocol_options"] = {
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": _protocol(grpc=grpc)
    }
    return cluster


def _replicas() -> Config:
    """A headless service names every replica; new ones are found within seconds, lost ones left alone."""
    return {
        "cluster_type": {
            "name": "envoy.clusters.dns",
            "typed_config": {"@type": f"{TYPES}.extensions.clusters.dns.v3.DnsCluster", "dns_refresh_rate": "5s"},
        },
        "outlier_detection": {
            "split_external_local_origin_errors": True,
            "consecutive_local_origin_failure": 3,
            "base_ejection_time": "5s",
            "max_ejection_percent": 50,
        },
        "upstream_connection_options": {"tcp_keepalive": {"keepalive_time": 60}},
    }


def _protocol(*, grpc: bool) -> Config:
    options: Config = (
        {
            "http2_protocol_options": {
                "initial_stream_window_size": 4 * MEBIBYTE,
                "initial_connection_window_size": 16 * MEBIBYTE,
            }
        }
        if grpc
        else {"http_protocol_options": {}}
    )
    protocol: Config = {
        "@type": f"{TYPES}.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": options,
    }
    if not grpc:
        # Before the gateway closes them itself, so that no request meets a connection that is just going.
        protocol["common_http_protocol_options"] = {"idle_timeout": "60s"}
    return protocol


def address_config(address: Address) -> Config:
    """An address in Envoy's words."""
    if address.socket:
        return {"pipe": {"path": address.socket, "mode": 0o600}}
    return {"socket_address": {"address": address.host, "port_value": address.port}}
