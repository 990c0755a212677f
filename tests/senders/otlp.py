"""Exports with the OpenTelemetry SDK for a while: otlp.py ENDPOINT NAME SECONDS.

An endpoint that begins with http is for HTTP, any other is host:port of gRPC. Prints what it has counted.
"""

import sys
import time

from opentelemetry.sdk.metrics import Histogram, MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.metrics.view import ExponentialBucketHistogramAggregation, View
from opentelemetry.sdk.resources import Resource

endpoint, name, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
if endpoint.startswith("http"):
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter

    exporter = OTLPMetricExporter(endpoint=endpoint)
else:
    from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter

    exporter = OTLPMetricExporter(endpoint=endpoint, insecure=True)

provider = MeterProvider(
    metric_readers=[PeriodicExportingMetricReader(exporter, export_interval_millis=500)],
    resource=Resource.create({"service.name": name, "service.instance.id": "1"}),
    views=[View(instrument_type=Histogram, instrument_name="native", aggregation=ExponentialBucketHistogramAggregation())],
)
meter = provider.get_meter("test")
counter = meter.create_counter(name)
gauge = meter.create_up_down_counter(name + "_gauge")
classic = meter.create_histogram(name + "_classic", unit="s")
native = meter.create_histogram("native", unit="s")

counted = 0
end = time.monotonic() + seconds
while time.monotonic() < end:
    counter.add(1)
    gauge.add(1)
    classic.record(counted % 7)
    native.record(counted % 7)
    counted += 1
    time.sleep(0.05)
# The last export may come while the receiver is away: it is cumulative, so that a later one says it all.
provider.force_flush(30_000)
provider.shutdown(30_000)
print("counted", counted, flush=True)
