"""Our metrics under the names of other servers, if they mean the same."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping

from prometheus_client.core import Metric

from headmap.http.metrics import Aliases

# Of vLLM's engine, version 1; dashboards, KEDA and llm-d ask for these.
_VLLM: Mapping[str, tuple[str, ...]] = {
    "headmap_num_requests_running": ("num_requests_running",),
    "headmap_num_requests_waiting": ("num_requests_waiting",),
    "headmap_kv_cache_usage_ratio": ("kv_cache_usage_perc", "gpu_cache_usage_perc"),
    "headmap_cache_config_info": ("cache_config_info",),
    "headmap_num_preemptions": ("num_preemptions",),
    "headmap_prompt_tokens": ("prompt_tokens",),
    "headmap_generation_tokens": ("generation_tokens",),
    "headmap_request_success": ("request_success",),
    "headmap_request_prompt_tokens": ("request_prompt_tokens",),
    "headmap_request_generation_tokens": ("request_generation_tokens",),
    "headmap_time_to_first_token_seconds": ("time_to_first_token_seconds",),
    "headmap_inter_token_latency_seconds": ("inter_token_latency_seconds", "time_per_output_token_seconds"),
    "headmap_time_per_output_token_seconds": ("request_time_per_output_token_seconds",),
    "headmap_e2e_request_latency_seconds": ("e2e_request_latency_seconds",),
    "headmap_request_queue_time_seconds": ("request_queue_time_seconds",),
    "headmap_request_prefill_time_seconds": ("request_prefill_time_seconds",),
    "headmap_request_decode_time_seconds": ("request_decode_time_seconds",),
    "headmap_request_inference_time_seconds": ("request_inference_time_seconds",),
}
_OURS_ALONE = frozenset({"method"})
_STOP = {"eos_token": "stop", "stop_sequence": "stop"}


def vllm_aliases(family: Metric) -> Iterator[Metric]:
    """An `Aliases` with vLLM's names and labels. Series that differ only in labels that vLLM lacks are added up."""
    for name in _VLLM.get(family.name, ()):
        alias = Metric(f"vllm:{name}", family.documentation, family.type)
        sums: dict[tuple[str, tuple[tuple[str, str], ...]], float] = defaultdict(float)
        for sample in family.samples:
            labels = {key: value for key, value in sample.labels.items() if key not in _OURS_ALONE} | {"engine": "0"}
            if "finished_reason" in labels:
                labels["finished_reason"] = _STOP.get(labels["finished_reason"], labels["finished_reason"])
            sums[sample.name.removeprefix(family.name), tuple(labels.items())] += sample.value
        for (suffix, series), value in sums.items():
            alias.add_sample(alias.name + suffix, dict(series), value)
        yield alias


ALIASES: Mapping[str, Aliases] = {"vllm": vllm_aliases}
"""By the names that HEADMAP_METRICS_ALIASES takes."""
