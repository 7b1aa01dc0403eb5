"""Traces are collected where somebody asks for them, and join the services of one request."""

from contextlib import asynccontextmanager

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """An OpenTelemetry collector that keeps what it is sent."""

    def __init__(self):
        self.spans = []

    async def Export(self, request, context):
        for resource in request.resource_spans:
            service = next(one.value.string_value for one in resource.resource.attributes if one.key == "service.name")
            self.spans.extend((service, span) for scope in resource.scope_spans for span in scope.spans)
        return trace_service_pb2.ExportTraceServiceResponse()


@pytest.fixture
async def collector():
    servicer = Collector()
    server = grpc.aio.server()
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(servicer, server)
    servicer.endpoint = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    yield servicer
    await server.stop(None)


@asynccontextmanager
async def traced(world, collector, react=None, **options):
    async with world.echo(react, otlp_endpoint=collector.endpoint, **options) as channel:
        yield channel


async def test_spans_of_two_services_join_the_callers_trace_when_they_are_collected(world, keys, collector):
    keys.add("secret", world.trash)
    async with traced(world, collector) as channel:
        rpc = channel.unary_unary("/lensmith.test.v1.EchoService/UnaryUnary")
        metadata = (("authorization", "Key secret"), ("traceparent", TRACE))
        await rpc(world.query().SerializeToString(), metadata=metadata)
    # The service has stopped: what it had recorded was sent before it ended.
    spans = {(service, span.name, span.kind): span for service, span in collector.spans}
    server = spans["lensmith-inference", "lensmith.test.v1.EchoService/UnaryUnary", 2]
    asked = spans["lensmith-inference", "lensmith.internal.v1.KeyResolverService/ResolveKey", 3]
    assert server.trace_id.hex() == asked.trace_id.hex() == TRACE.split("-")[1]
    assert server.parent_span_id.hex() == TRACE.split("-")[2]
    assert asked.parent_span_id == server.span_id


async def test_error_is_marked_and_health_left_out_when_spans_are_collected(world, collector):
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    async with traced(world, collector) as channel:
        await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        with pytest.raises(grpc.aio.AioRpcError):
            await channel.unary_unary("/lensmith.test.v1.EchoService/UnaryUnary")(b"")
    [(_, span)] = collector.spans
    assert span.status.code == 2
    assert span.status.message == "UNAUTHENTICATED"
