"""Exports with the OpenTelemetry SDK until the file END is there: otlp.py ENDPOINT NAME END INTERVAL_MS.

An endpoint that begins with http is for HTTP, any other is host:port of gRPC. Prints of each export that was taken when it
was (in milliseconds) and what the counter said, of each that was given up that it was, and what was counted in the end.
"""

import pathlib
import sys
import time

from opentelemetry.sdk.metrics import Histogram, MeterProvider
from opentelemetry.sdk.metrics.export import MetricExportResult, PeriodicExportingMetricReader
from opentelemetry.sdk.metrics.view import ExponentialBucketHistogramAggregation, View
from opentelemetry.sdk.resources import Resource

endpoint, name, end, interval = sys.argv[1], sys.argv[2], pathlib.Path(sys.argv[3]), float(sys.argv[4])
if endpoint.startswith("http"):
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter

    options = {}
else:
    from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter

    options = {"insecure": True}


def points(data):
    for resource in data.resource_metrics:
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                if metric.name == name:
                    yield from metric.data.data_points


class Told(OTLPMetricExporter):
    """The exporter as it is; it says what it has done."""

    taken = None

    def export(self, metrics_data, timeout_millis=10_000, **more):
        result = super().export(metrics_data, timeout_millis, **more)
        for point in points(metrics_data):
            if result is MetricExportResult.SUCCESS:
                self.taken = point.value
                print("exported", point.time_unix_nano // 1_000_000, point.value, flush=True)
            else:
                print("failed", point.time_unix_nano // 1_000_000, point.value, flush=True)
        return result


exporter = Told(endpoint=endpoint, **options)
provider = MeterProvider(
    metric_readers=[PeriodicExportingMetricReader(exporter, export_interval_millis=interval)],
    resource=Resource.create({"service.name": name, "service.instance.id": "1"}),
    views=[View(instrument_type=Histogram, instrument_name="native", aggregation=ExponentialBucketHistogramAggregation())],
)
meter = provider.get_meter("test")
counter = meter.create_counter(name)
gauge = meter.create_up_down_counter(name + "_gauge")
classic = meter.create_histogram(name + "_classic", unit="s")
native = meter.create_histogram("native", unit="s")

counted = 0
while not end.exists():
    counter.add(1)
    gauge.add(1)
    classic.record(counted % 7)
    native.record(counted % 7)
    counted += 1
    time.sleep(0.05)
# An export that fails is given up by the SDK; it is cumulative, so that a later one says it all.
while exporter.taken != counted:
    provider.force_flush(30_000)
provider.shutdown(30_000)
print("counted", counted, flush=True)
