"""Makes the configuration of Envoy, the platform's one public port: gRPC, gRPC-Web and REST from the API's descriptors.

Run as `python -m lensmith_gateway.envoy_config`; the chart's ConfigMap comes from the same function.
"""

import argparse
import base64
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml

from lensmith_gateway.contract import Contract, ContractError, load_contract
from lensmith_gateway.envoy_clusters import address_config, cluster
from lensmith_gateway.envoy_routes import CORS, GATEWAY_HTTP, LUA, TRANSCODER, virtual_host
from lensmith_gateway.envoy_settings import (
    MEBIBYTE,
    TARGETS,
    TYPES,
    Address,
    Config,
    EnvoySettings,
    EnvoySettingsError,
    Tls,
)
from lensmith_gateway.local_replies import local_reply_config
from lensmith_gateway.strict_json import strict_json_script

READY_PATH = "/readyz"
"""Envoy's own readiness; fails while it drains."""

_FILTERS = f"{TYPES}.extensions.filters.http"
# Protobuf framing comes on top of what an answer may hold.
_FRAMING_SLACK = 64 * 1024
_INTERNAL_HEADERS = ("x-lensmith-", "x-envoy-")


def envoy_config(contract: Contract, settings: EnvoySettings) -> Config:
    """The whole bootstrap configuration, as plain data.

    Only RPCs of the contract's public services are routed; a path that is not in it is answered 404 by Envoy itself.
    """
    return {
        "node": {"id": "lensmith-envoy", "cluster": "lensmith"},
        "admin": {"address": address_config(settings.admin)},
        "static_resources": {
            "listeners": [_listener(contract, settings)],
            "clusters": [
                *(cluster(name, address, grpc=True) for name, address in sorted(settings.targets.items())),
                cluster(GATEWAY_HTTP, settings.gateway_http, grpc=False),
            ],
        },
        "overload_manager": _overload(settings),
    }


def envoy_yaml(contract: Contract, settings: EnvoySettings) -> str:
    """`envoy_config` as YAML text, the same for the same input."""
    text: str = yaml.dump(envoy_config(contract, settings), Dumper=_Dumper, sort_keys=False, width=200)
    return "# Made by `python -m lensmith_gateway.envoy_config`; do not edit.\n" + text


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as blocks, and everything in full (no anchors)."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def _listener(contract: Contract, settings: EnvoySettings) -> Config:
    chain: Config = {
        "filters": [
            {"name": "envoy.filters.network.http_connection_manager", "typed_config": _connections(contract, settings)}
        ]
    }
    if settings.tls:
        chain["transport_socket"] = {
            "name": "envoy.transport_sockets.tls",
            "typed_config": {
                "@type": f"{TYPES}.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
                "common_tls_context": {
                    "alpn_protocols": ["h2", "http/1.1"],
                    "tls_certificates": [
                        {
                            "certificate_chain": {"filename": str(settings.tls.certificate)},
                            "private_key": {"filename": str(settings.tls.key)},
                        }
                    ],
                },
            },
        }
    return {
        "name": "public",
        "address": address_config(settings.public),
        "per_connection_buffer_limit_bytes": MEBIBYTE,
        "filter_chains": [chain],
    }


def _connections(contract: Contract, settings: EnvoySettings) -> Config:
    config: Config = {
        "@type": f"{TYPES}.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "public",
        "codec_type": "AUTO",
        "server_name": "lensmith",
        "use_remote_address": True,
        "generate_request_id": True,
        "always_set_request_id_in_response": True,
        "early_header_mutation_extensions": [_strip_internal_headers()],
        # What a path means must not depend on who reads it.
        "normalize_path": True,
        "path_with_escaped_slashes_action": "REJECT_REQUEST",
        "max_request_headers_kb": 32,
        "request_headers_timeout": "10s",
        "request_timeout": "300s",
        "stream_idle_timeout": "300s",
        "common_http_protocol_options": {"idle_timeout": "3600s", "headers_with_underscores_action": "DROP_HEADER"},
        "http2_protocol_options": {
            "max_concurrent_streams": 256,
            "initial_stream_window_size": 4 * MEBIBYTE,
            "initial_connection_window_size": 16 * MEBIBYTE,
            # Finds clients that went away without a word, whose streams would stay for ever.
            "connection_keepalive": {"interval": "60s", "timeout": "20s"},
        },
        "local_reply_config": local_reply_config(settings.max_body_bytes // MEBIBYTE),
        "http_filters": list(_http_filters(contract, settings)),
        "route_config": {"name": "public", "virtual_hosts": [virtual_host(contract, settings)]},
    }
    if settings.access_log == "json":
        config["access_log"] = [_access_log()]
    return config


def _strip_internal_headers() -> Config:
    return {
        "name": "envoy.http.early_header_mutation.header_mutation",
        "typed_config": {
            "@type": f"{TYPES}.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation",
            "mutations": [{"remove_on_match": {"key_matcher": {"prefix": prefix}}} for prefix in _INTERNAL_HEADERS],
        },
    }


def _access_log() -> Config:
    # No query strings (they may hold what users search for) and no headers: `authorization` must never be logged.
    fields = {
        "time": "%START_TIME%",
        "request_id": "%REQ(X-REQUEST-ID)%",
        "method": "%REQ(:METHOD)%",
        "path": "%PATH(NQ:ORIG_OR_PATH)%",
        "status": "%RESPONSE_CODE%",
        "grpc_status": "%GRPC_STATUS%",
        "flags": "%RESPONSE_FLAGS%",
        "ms": "%DURATION%",
        "bytes_in": "%BYTES_RECEIVED%",
        "bytes_out": "%BYTES_SENT%",
        "target": "%UPSTREAM_CLUSTER%",
    }
    return {
        "name": "envoy.access_loggers.stdout",
        "typed_config": {
            "@type": f"{TYPES}.extensions.access_loggers.stream.v3.StdoutAccessLog",
            "log_format": {"json_format": fields},
        },
    }


def _http_filters(contract: Contract, settings: EnvoySettings) -> Iterator[Config]:
    """In the order in which a request passes them."""
    yield _filter(
        "envoy.filters.http.health_check",
        "health_check.v3.HealthCheck",
        pass_through_mode=False,
        headers=[{"name": ":path", "string_match": {"exact": READY_PATH}}],
    )
    if settings.cors_origins:
        yield _filter(CORS, "cors.v3.Cors")
    yield _filter("envoy.filters.http.grpc_web", "grpc_web.v3.GrpcWeb")
    yield _filter(LUA, "lua.v3.Lua", default_source_code={"inline_string": strict_json_script(contract)})
    yield _filter(
        TRANSCODER,
        "grpc_json_transcoder.v3.GrpcJsonTranscoder",
        proto_descriptor_bin=base64.b64encode(contract.transcoder_descriptors()).decode(),
        services=list(contract.services),
        convert_grpc_status=True,
        print_options={
            # A score of 0 must show.
            "always_print_primitive_fields": True,
            "stream_newline_delimited": True,
        },
        request_validation_options={
            "reject_unknown_method": True,
            "reject_unknown_query_parameters": True,
            # A body must not name another app than the path.
            "reject_binding_body_field_collisions": True,
        },
        # Own ids may hold anything but a slash.
        url_unescape_spec="ALL_CHARACTERS_EXCEPT_SLASH",
        query_param_unescape_plus=True,
        max_request_body_size=settings.max_body_bytes,
        max_response_body_size=settings.max_body_bytes + _FRAMING_SLACK,
    )
    yield _filter("envoy.filters.http.router", "router.v3.Router", suppress_envoy_headers=True)


def _filter(name: str, kind: str, **options: object) -> Config:
    return {"name": name, "typed_config": {"@type": f"{_FILTERS}.{kind}", **options}}


def _overload(settings: EnvoySettings) -> Config:
    heap = "envoy.resource_monitors.fixed_heap"
    connections = "envoy.resource_monitors.global_downstream_max_connections"
    return {
        "refresh_interval": "0.25s",
        "resource_monitors": [
            {
                "name": heap,
                "typed_config": {
                    "@type": f"{TYPES}.extensions.resource_monitors.fixed_heap.v3.FixedHeapConfig",
                    "max_heap_size_bytes": settings.max_heap_bytes,
                },
            },
            {
                "name": connections,
                "typed_config": {
                    "@type": f"{TYPES}.extensions.resource_monitors.downstream_connections.v3"
                    ".DownstreamConnectionsConfig",
                    "max_active_downstream_connections": settings.max_connections,
                },
            },
        ],
        "actions": [
            {
                "name": "envoy.overload_actions.shrink_heap",
                "triggers": [{"name": heap, "threshold": {"value": 0.8}}],
            },
            {
                "name": "envoy.overload_actions.stop_accepting_requests",
                "triggers": [{"name": heap, "threshold": {"value": 0.95}}],
            },
        ],
    }


def main(given: Sequence[str] | None = None) -> int:
    """Write the configuration that the command line asks for; returns the exit status."""
    parser = _parser()
    arguments = parser.parse_args(given)
    try:
        if bool(arguments.tls_certificate) != bool(arguments.tls_key):
            raise EnvoySettingsError("--tls-certificate and --tls-key go together.")
        settings = EnvoySettings(
            public=Address(arguments.public_host, arguments.public_port),
            targets=dict(_target(text) for text in arguments.target),
            gateway_http=Address.parse(arguments.gateway_http),
            admin=Address.parse(arguments.admin),
            cors_origins=arguments.cors_origin,
            max_body_bytes=arguments.max_body_mib * MEBIBYTE,
            max_heap_bytes=arguments.max_heap_mib * MEBIBYTE,
            access_log=arguments.access_log,
            tls=Tls(arguments.tls_certificate, arguments.tls_key) if arguments.tls_key else None,
        )
        contract = Contract(arguments.descriptor.read_bytes()) if arguments.descriptor else load_contract()
        text = envoy_yaml(contract, settings)
    except (EnvoySettingsError, ContractError, OSError) as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    if arguments.output:
        arguments.output.write_text(text)
    else:
        sys.stdout.write(text)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="lensmith envoy-config", description=__doc__)
    add = parser.add_argument
    add("--public-host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    add("--public-port", type=int, default=8080, help="port to listen on (default: %(default)s)")
    add("--target", action="append", default=[], metavar="SERVICE=ADDRESS", help=f"gRPC target: {', '.join(TARGETS)}")
    add("--gateway-http", required=True, metavar="ADDRESS", help="where the gateway answers plain HTTP")
    add("--admin", required=True, metavar="ADDRESS", help="Envoy's administration: unix:/path or on loopback")
    add("--cors-origin", action="append", default=[], metavar="ORIGIN", help="origin whose pages may call; repeatable")
    add("--max-body-mib", type=int, default=64, help="largest body over REST (default: %(default)s)")
    add("--max-heap-mib", type=int, default=1024, help="memory to stay below (default: %(default)s)")
    add("--access-log", choices=("off", "json"), default="off", help="a line per request on stdout")
    add("--tls-certificate", type=Path, metavar="FILE", help="PEM certificate chain of the public port")
    add("--tls-key", type=Path, metavar="FILE", help="PEM private key of the public port")
    add("--descriptor", type=Path, metavar="FILE", help="descriptor set (default: this release's)")
    add("--output", type=Path, metavar="FILE", help="where to write (default: standard output)")
    return parser


def _target(text: str) -> tuple[str, Address]:
    service, equals, address = text.partition("=")
    if not equals:
        raise EnvoySettingsError(f"{text!r} is not a target: write service=address.")
    return service, Address.parse(address)


if __name__ == "__main__":
    sys.exit(main())
