"""Metrics of the inference service: vLLM's names where the meaning is the same, and what the cache saves."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from headmap.engine.messages import EngineRequest, Finished
from services.inference.served_model import Stats

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
_TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)


class EngineCollector(Collector):
    """Gauges and counts of each engine, read when Prometheus asks. `look` gives the stats by model name."""

    def __init__(self, look: Callable[[], dict[str, Stats]]) -> None:
        self._look = look

    def collect(self) -> Iterator[Metric]:
        gauges = {
            "headmap_num_requests_running": ("Requests in the batch", lambda s: s.running),
            "headmap_num_requests_waiting": ("Requests in the queue", lambda s: s.waiting),
            "headmap_kv_cache_usage_perc": (
                "KV memory in use, 1 is all of it",
                lambda s: s.kv_held_bytes / s.kv_capacity_bytes if s.kv_capacity_bytes else 0.0,
            ),
            "headmap_kv_cache_held_bytes": ("KV memory of the pages that are held", lambda s: s.kv_held_bytes),
            "headmap_session_bytes": ("Held of conversations between their turns", lambda s: s.session_bytes),
            "headmap_kv_cache_capacity_bytes": ("KV memory there is", lambda s: s.kv_capacity_bytes),
        }
        stats = self._look()
        for name, (meaning, read) in gauges.items():
            family = GaugeMetricFamily(name, meaning, labels=["model_name"])
            for model, one in stats.items():
                family.add_metric([model], read(one))
            yield family
        preempted = CounterMetricFamily(
            "headmap_num_preemptions", "Requests that waited again for others' memory", labels=["model_name"]
        )
        for model, one in stats.items():
            preempted.add_metric([model], one.preempted_total)
        yield preempted

    def describe(self) -> list[Metric]:
        return []


class InferenceMetrics:
    """Counters and histograms that requests write."""

    def __init__(self, registry: CollectorRegistry) -> None:
        model = ("model_name",)

        def seconds(name: str, meaning: str) -> Histogram:
            return Histogram(name, meaning, model, buckets=_SECONDS, registry=registry)

        self._first = seconds("headmap_time_to_first_token_seconds", "Submission to first token")
        self._whole = seconds("headmap_e2e_request_latency_seconds", "Submission to last token")
        self._token = Histogram(
            "headmap_time_per_output_token_seconds",
            "Decoding, for each token after the first",
            model,
            buckets=_TOKEN_SECONDS,
            registry=registry,
        )
        self._prompt = Counter("headmap_prompt_tokens", "Prompt tokens prefilled", model, registry=registry)
        self._generated = Counter("headmap_generation_tokens", "Tokens generated", model, registry=registry)
        reason = (*model, "finished_reason", "method")
        self._success = Counter("headmap_request_success", "Requests that finished", reason, registry=registry)
        self._failure = Counter("headmap_request_failure", "Requests that failed", (*model, "code"), registry=registry)
        kv = (*model, "method")
        self._kept = Counter("headmap_kv_kept_bytes", "KV bytes kept after prefill", kv, registry=registry)
        self._full = Counter("headmap_kv_full_bytes", "KV bytes without compression", kv, registry=registry)

    def first_token(self, model: str, submitted: float) -> None:
        """`submitted`: time.perf_counter() at submission."""
        self._first.labels(model).observe(time.perf_counter() - submitted)

    def finished(self, model: str, request: EngineRequest, finished: Finished, submitted: float) -> None:
        """`submitted`: as for `first_token`."""
        method = request.kv.method
        self._whole.labels(model).observe(time.perf_counter() - submitted)
        if len(finished.token_ids) > 1:
            self._token.labels(model).observe(finished.decode_ms_per_token / 1e3)
        self._prompt.labels(model).inc(request.prompt.prompt_tokens - finished.reused_tokens)
        self._generated.labels(model).inc(len(finished.token_ids))
        self._success.labels(model, finished.finish_reason, method).inc()
        self._kept.labels(model, method).inc(finished.kv_bytes)
        self._full.labels(model, method).inc(finished.kv_full_bytes)

    def failed(self, model: str, code: str) -> None:
        self._failure.labels(model, code).inc()
