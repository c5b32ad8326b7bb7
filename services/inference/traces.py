"""The spans of a generation, named after OpenTelemetry's semantic conventions for generative AI.

A request's span has `prepare` (pictures and prompt) and one for each choice, which has `queue`, `prefill` and `decode`.
"""

from __future__ import annotations

from headmap.engine.messages import EngineRequest, Finished
from headmap.errors import HeadmapError
from headmap.tracing import Attributes, Span
from services.inference.asked import AskedRequest
from services.inference.intake.conversation import Conversation


def about_prompt(asked: AskedRequest) -> Attributes:
    pictures = len(asked.prompt.images) if isinstance(asked.prompt, Conversation) else 0
    return {"headmap.images": pictures}


def begin_generation(parent: Span, model: str, request: EngineRequest, map_id: str | None) -> Span:
    """Begin the span of a request in an engine."""
    if not parent.recording:
        return parent.child("generate")
    sampling = request.sampling
    about: Attributes = {
        "gen_ai.operation.name": "generate_content",
        "gen_ai.provider.name": "headmap",
        "gen_ai.request.model": model,
        "gen_ai.request.max_tokens": sampling.max_new_tokens,
        "gen_ai.request.seed": sampling.seed,
        "gen_ai.request.temperature": sampling.temperature if sampling.do_sample else 0.0,
        "gen_ai.request.top_p": sampling.top_p,
        "gen_ai.request.top_k": sampling.top_k,
        "gen_ai.usage.input_tokens": request.prompt.prompt_tokens,
        "headmap.image_tokens": request.prompt.image_tokens,
        "headmap.kv.method": request.kv.method,
        "headmap.map.id": map_id,
    }
    return parent.child(f"generate_content {model}", about)


def end_generation(span: Span, model: str, finished: Finished) -> None:
    """End a generation's span that went well, with its parts in the engine by the times that the engine measured.

    They are laid end to end: of a request that was preempted, all waits come first and all prefills second.
    """
    if span.recording:
        reason = {"length": "length"}.get(finished.finish_reason, "stop")
        span.set(
            {
                "gen_ai.response.model": model,
                "gen_ai.response.finish_reasons": (reason,),
                "gen_ai.usage.output_tokens": len(finished.token_ids),
                "headmap.kv.bytes": finished.kv_bytes,
                "headmap.kv.full_bytes": finished.kv_full_bytes,
                "headmap.reused_tokens": finished.reused_tokens,
            }
        )
        at = span.started
        decode_ms = finished.decode_ms_per_token * max(0, len(finished.token_ids) - 1)
        for name, milliseconds in (
            ("queue", finished.queue_ms),
            ("prefill", finished.prefill_ms),
            ("decode", decode_ms),
        ):
            part = span.child(name, start=at)
            at += round(milliseconds * 1e6)
            part.end(at)
    span.end()


def fail_generation(span: Span, error: HeadmapError) -> None:
    """End the span of a generation that failed, or that nobody waits for."""
    span.fail(error.code)
    span.end()
