"""Greedy answers to a few prompts at once, without a server: what scoring, evaluation and the command line need."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from headmap.engine.runner import ModelRunner
from headmap.families.base import PreparedPrompt
from headmap.families.loading import LoadedModel
from headmap.head_scores import HeadScores
from headmap.kvcache.plan import KeepPlan, KVRequest
from headmap.kvcache.planning import plan_cache
from headmap.kvcache.transformers.cache import RaggedCache
from headmap.kvcache.transformers.head_masks import HeadMask
from headmap.kvcache.transformers.prefill import Prompt

OnStep = Callable[[], None]


@dataclass(eq=False)
class Answering:
    """A sequence that is being answered.

    tokens: the answer so far, at least its first token. kept_tokens, kept_bytes: of its prompt, over all layers and KV
    heads; bytes are those of the pages that hold them.
    """

    slot: int
    prompt: PreparedPrompt
    tokens: list[int]
    kept_tokens: int
    kept_bytes: int


def generate_greedy(
    loaded: LoadedModel,
    prompts: Sequence[PreparedPrompt],
    *,
    max_new_tokens: int,
    kv: KVRequest | None = None,
    scores: HeadScores | None = None,
    mask: HeadMask | None = None,
    on_step: OnStep | None = None,
) -> list[list[int]]:
    """The answers' tokens, the end token included where one came. All prompts decode together, at one KV request.

    `mask` switches heads off. `on_step` is called after each step and may raise to end the work.
    """
    shape = loaded.cache_shape
    plans = [plan_cache(kv or KVRequest("full"), shape, prompt.prompt_tokens, scores) for prompt in prompts]
    cache = RaggedCache.for_plans(plans, max_new_tokens, shape, dtype=loaded.model.dtype, device=loaded.device)
    runner = ModelRunner(loaded, cache, mask)
    sequences = [
        sequence
        for prompt, plan in zip(prompts, plans, strict=True)
        for sequence in begin_greedy(runner, [prompt], [[plan]], max_new_tokens)[0]
    ]
    finish_greedy(runner, sequences, max_new_tokens, on_step)
    return [sequence.tokens for sequence in sequences]


def begin_greedy(
    runner: ModelRunner,
    prompts: Sequence[PreparedPrompt],
    plans: Sequence[Sequence[KeepPlan]],
    max_new_tokens: int,
    on_layer: OnStep | None = None,
) -> list[list[Answering]]:
    """Prefill the prompts in one row, once each, whatever the number of plans: every plan has a sequence of its own.

    `plans`: at least one for each prompt. `on_layer`: as ModelRunner.prefill. Raises OutOfMemory, and ValueError where
    one of several prompts cannot be packed.
    """
    cache = runner.cache
    slots = [[cache.admit(plan, max_new_tokens) for plan in own] for own in plans]
    rows = [
        Prompt(own[0], of[0], prompt.spans, also=tuple(zip(own[1:], of[1:], strict=True)))
        for prompt, own, of in zip(prompts, slots, plans, strict=True)
    ]
    first = runner.prefill(rows, prompts, on_layer).argmax(-1).tolist()
    return [
        [Answering(slot, prompt, [token], cache.tokens(slot), cache.prompt_bytes(slot)) for slot in own]
        for prompt, own, token in zip(prompts, slots, first, strict=True)
    ]


def finish_greedy(
    runner: ModelRunner, sequences: Sequence[Answering], max_new_tokens: int, on_step: OnStep | None = None
) -> None:
    """Decode all of `sequences` together until each has ended, and release them. `on_step`: as in `generate_greedy`."""
    running = list(sequences)
    while True:
        if on_step is not None:
            on_step()
        for sequence in list(running):
            if sequence.tokens[-1] in runner.loaded.eos_token_ids or len(sequence.tokens) >= max_new_tokens:
                runner.cache.release(sequence.slot)
                running.remove(sequence)
        if not running:
            return
        logits = runner.decode(
            [sequence.slot for sequence in running],
            [sequence.tokens[-1] for sequence in running],
            [sequence.prompt.next_position + len(sequence.tokens) - 1 for sequence in running],
        )
        for sequence, token in zip(running, logits.argmax(-1).tolist(), strict=True):
            sequence.tokens.append(token)
