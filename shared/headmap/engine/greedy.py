"""Greedy answers to a few prompts at once, without a server, for scoring and the command line."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from headmap.engine.runner import ModelRunner
from headmap.families.base import PreparedPrompt
from headmap.families.loading import LoadedModel
from headmap.head_scores import HeadScores
from headmap.kvcache.plan import KVRequest
from headmap.kvcache.planning import plan_cache
from headmap.kvcache.transformers.cache import RaggedCache
from headmap.kvcache.transformers.head_masks import HeadMask
from headmap.kvcache.transformers.prefill import Prompt


def generate_greedy(
    loaded: LoadedModel,
    prompts: Sequence[PreparedPrompt],
    *,
    max_new_tokens: int,
    kv: KVRequest | None = None,
    scores: HeadScores | None = None,
    mask: HeadMask | None = None,
    on_step: Callable[[], None] | None = None,
) -> list[list[int]]:
    """The answers' tokens, the end token included where one came. All prompts decode together, at one KV request.

    `mask` switches heads off. `on_step` is called after each step and may raise to end the work.
    """
    shape = loaded.cache_shape
    plans = [plan_cache(kv or KVRequest("full"), shape, prompt.prompt_tokens, scores) for prompt in prompts]
    cache = RaggedCache.for_plans(plans, max_new_tokens, shape, dtype=loaded.model.dtype, device=loaded.device)
    runner = ModelRunner(loaded, cache, mask)
    answers: list[list[int]] = []
    slots: dict[int, int] = {}
    for number, (prompt, plan) in enumerate(zip(prompts, plans, strict=True)):
        slots[number] = cache.admit(plan, max_new_tokens)
        answers.append(runner.prefill([Prompt(slots[number], plan, prompt.spans)], [prompt]).argmax(-1).tolist())
    while True:
        if on_step is not None:
            on_step()
        for number in list(slots):
            answer = answers[number]
            if answer[-1] in loaded.eos_token_ids or len(answer) >= max_new_tokens:
                cache.release(slots.pop(number))
        if not slots:
            return answers
        logits = runner.decode(
            list(slots.values()),
            [answers[number][-1] for number in slots],
            [prompts[number].next_position + len(answers[number]) - 1 for number in slots],
        )
        for number, token in zip(slots, logits.argmax(-1).tolist(), strict=True):
            answers[number].append(token)
