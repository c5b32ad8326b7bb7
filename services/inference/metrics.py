"""Metrics of the inference service. A metric that vLLM has too keeps its name, with another prefix."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from headmap.engine.messages import EngineRequest, Finished
from headmap.errors import HeadmapError
from services.inference.served_model import Stats

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
_TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
_TOKENS = tuple(step * 10**power for power in range(6) for step in (1, 2, 5))


class EngineCollector(Collector):
    """Gauges and counts of each engine, read when Prometheus asks. `look` gives the stats by model name."""

    def __init__(self, look: Callable[[], dict[str, Stats]]) -> None:
        self._look = look

    def collect(self) -> Iterator[Metric]:
        gauges = {
            "headmap_num_requests_running": ("Requests in the batch", lambda s: s.running),
            "headmap_num_requests_waiting": ("Requests in the queue", lambda s: s.waiting),
            "headmap_kv_cache_usage_ratio": (
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
        blocks = GaugeMetricFamily(
            "headmap_cache_config_info",
            "1; a block holds block_size tokens of a sequence in all layers and KV heads that see everything",
            labels=["model_name", "block_size", "num_gpu_blocks"],
        )
        for model, one in stats.items():
            count = one.kv_capacity_bytes // one.kv_block_bytes
            blocks.add_metric([model, str(one.kv_block_tokens), str(count)], 1)
        yield blocks

    def describe(self) -> list[Metric]:
        return []


class InferenceMetrics:
    """Counters and histograms that requests write."""

    def __init__(self, registry: CollectorRegistry) -> None:
        model = ("model_name",)

        def seconds(name: str, meaning: str) -> Histogram:
            return Histogram(name, meaning, model, buckets=_SECONDS, registry=registry)

        def token_seconds(name: str, meaning: str) -> Histogram:
            return Histogram(name, meaning, model, buckets=_TOKEN_SECONDS, registry=registry)

        def tokens(name: str, meaning: str) -> Histogram:
            return Histogram(name, meaning, model, buckets=_TOKENS, registry=registry)

        self._first = seconds("headmap_time_to_first_token_seconds", "Submission to first token")
        self._whole = seconds("headmap_e2e_request_latency_seconds", "Submission to last token")
        self._queue = seconds("headmap_request_queue_time_seconds", "Waiting for a place in the batch")
        self._prefill = seconds("headmap_request_prefill_time_seconds", "From the queue to the first token")
        self._decode = seconds("headmap_request_decode_time_seconds", "First token to last token")
        self._inference = seconds("headmap_request_inference_time_seconds", "From the queue to the last token")
        self._gap = token_seconds("headmap_inter_token_latency_seconds", "From each token to the next")
        self._token = token_seconds(
            "headmap_time_per_output_token_seconds", "A request's decoding, for each token after the first"
        )
        self._prompts = tokens("headmap_request_prompt_tokens", "Tokens of a request's prompt")
        self._answers = tokens("headmap_request_generation_tokens", "Tokens generated for a request")
        self._prompt = Counter("headmap_prompt_tokens", "Prompt tokens prefilled", model, registry=registry)
        self._generated = Counter("headmap_generation_tokens", "Tokens generated", model, registry=registry)
        reason = (*model, "finished_reason", "method")
        self._success = Counter("headmap_request_success", "Requests that finished", reason, registry=registry)
        code = (*model, "code")
        self._failure = Counter("headmap_request_failure", "Requests that failed here", code, registry=registry)
        self._refused = Counter(
            "headmap_request_refused", "Requests ended by the client or for what it asked", code, registry=registry
        )
        kv = (*model, "method")
        self._kept = Counter("headmap_kv_kept_bytes", "KV bytes kept after prefill", kv, registry=registry)
        self._full = Counter("headmap_kv_full_bytes", "KV bytes without compression", kv, registry=registry)

    def begin(self, model: str) -> None:
        """Begin a model's series at 0, so that Prometheus sees the first increase."""
        for metric in (
            self._first, self._whole, self._queue, self._prefill, self._decode, self._inference, self._gap, self._token,
            self._prompts, self._answers, self._prompt, self._generated,
        ):  # fmt: skip
            metric.labels(model)

    def first_token(self, model: str, submitted: float) -> None:
        """`submitted`: time.perf_counter() at submission."""
        self._first.labels(model).observe(time.perf_counter() - submitted)

    def next_token(self, model: str, seconds: float) -> None:
        """`seconds`: since the token before."""
        self._gap.labels(model).observe(seconds)

    def finished(self, model: str, request: EngineRequest, finished: Finished, submitted: float) -> None:
        """`submitted`: time.perf_counter() at submission."""
        method = request.kv.method
        self._whole.labels(model).observe(time.perf_counter() - submitted)
        generated = len(finished.token_ids)
        decode_ms = finished.decode_ms_per_token * max(0, generated - 1)
        self._queue.labels(model).observe(finished.queue_ms / 1e3)
        self._prefill.labels(model).observe(finished.prefill_ms / 1e3)
        self._decode.labels(model).observe(decode_ms / 1e3)
        self._inference.labels(model).observe((finished.prefill_ms + decode_ms) / 1e3)
        if generated > 1:
            self._token.labels(model).observe(finished.decode_ms_per_token / 1e3)
        self._prompts.labels(model).observe(request.prompt.prompt_tokens)
        self._answers.labels(model).observe(generated)
        self._prompt.labels(model).inc(request.prompt.prompt_tokens - finished.reused_tokens)
        self._generated.labels(model).inc(generated)
        self._success.labels(model, finished.finish_reason, method).inc()
        self._kept.labels(model, method).inc(finished.kv_bytes)
        self._full.labels(model, method).inc(finished.kv_full_bytes)

    def failed(self, model: str, error: HeadmapError) -> None:
        """Counts a client's mistakes, limits and hang-ups (4xx) apart from the server's failures."""
        counter = self._refused if error.status < 500 else self._failure
        counter.labels(model, error.code).inc()
